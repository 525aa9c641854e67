//! The CPU's inner loops on plain slices: matrix products on packed weights, attention over packed sequences, norms,
//! softmax.
//!
//! All of the workspace's numeric `unsafe` is here. Instructions are chosen at run time. On one machine every sum of a
//! product with packed weights, of attention and of a softmax has one order, whatever the number of threads and however
//! many rows are computed together: a token's figures are the same bits in decoding and in training.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined is compiled for the oldest CPU rather than this one"
)]

mod adamw;
mod attention;
mod bf16;
mod exponential;
mod int8;
#[allow(
    unsafe_code,
    reason = "a packed matrix's memory is written once, and not zeroed before"
)]
mod matrix;
mod norm;
#[allow(
    unsafe_code,
    reason = "threads write disjoint columns of one matrix, and the gemm crate takes pointers"
)]
mod product;
mod rotary;
mod softmax;
mod swiglu;
#[cfg(test)]
mod test_matrices;
mod tiles;
mod vectorized;
mod weight;

pub use adamw::{AdamW, scale, sum_of_squares};
pub use attention::{Attention, HeadCache, Segment};
pub use bf16::{Level, PackedBf16, level};
pub use exponential::exp;
pub use int8::{Int8Level, PackedInt8, int8_level};
pub use matrix::{PANEL, Packed, Panels, View};
pub use norm::{rms_norm, rms_norm_backward};
pub use product::{Start, general, in_pool, multiply, multiply_shared};
pub use rotary::{Rotary, rotate, rotate_back};
pub use softmax::{Softmax, softmax_gradient};
pub use swiglu::{swiglu, swiglu_backward};
pub use weight::{Compute, Packing, Weight, product};

/// Whether this CPU has vector instructions with a fused multiply-add, without which these loops are slow.
pub fn is_fast() -> bool {
    struct Lanes;
    impl pulp::WithSimd for Lanes {
        type Output = usize;
        fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    pulp::Arch::new().dispatch(Lanes) > 1
}
