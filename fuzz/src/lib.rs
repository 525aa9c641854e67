//! What every target shares: its entry, and a bound on the memory that an input may take.

use std::alloc::System;

use cap::Cap;

#[doc(hidden)]
pub use libfuzzer_sys;

/// Inputs have some kilobytes, and nothing read from them has a reason for more. libFuzzer's own limit looks once a
/// second, and at pages that were touched; this one refuses the allocation itself, and a refusal aborts.
const MOST_BYTES: usize = 256 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MOST_BYTES);

/// Sees to it that the bound is linked into the target.
pub fn bound_memory() {
    assert_eq!(ALLOCATOR.limit(), MOST_BYTES);
}

/// A target that gives every input to one function.
#[macro_export]
macro_rules! target {
    ($parser:path) => {
        $crate::libfuzzer_sys::fuzz_target!(init: $crate::bound_memory(), |data: &[u8]| {
            $parser(data);
        });
    };
}
