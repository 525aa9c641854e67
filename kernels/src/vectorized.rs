//! Compiling plain loops for each set of vector instructions.

/// Defines a function that runs an `#[inline(always)]` one compiled for the instructions that this CPU has.
///
/// A closure would not do: compilers keep large ones as calls, which are compiled for the oldest CPU.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $out:ty = $body:path) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) -> $out {
            struct Task<T>(T);
            impl pulp::WithSimd for Task<($($ty,)*)> {
                type Output = $out;

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $out {
                    let ($($arg,)*) = self.0;
                    $body($($arg),*)
                }
            }
            pulp::Arch::new().dispatch(Task(($($arg,)*)))
        }
    };
}

pub(crate) use vectorized;
