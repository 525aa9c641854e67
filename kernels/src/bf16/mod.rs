//! `c = a · b` with both operands rounded to bf16 (nearest even) and every sum kept in f32.
//!
//! The right-hand matrix is packed once ([`PackedBf16`]) in one layout for all instruction sets
//! ([`Level`]), the left-hand one on the fly. An element's sum runs over `k` in one order per
//! level, starting from what `c` holds, so neither the split of rows or panels over threads nor
//! the blocking changes a bit of it. The portable level and AVX2 agree bit for bit as long as no
//! product of two operands leaves f32's normal range, because such products are exact in f32; the
//! AVX-512 and AMX instructions add in another order and read subnormal operands as zero.
// The kernels are intrinsics and assembly over raw output pointers; what they call must be compiled
// with their instructions.
#![allow(
    unsafe_code,
    reason = "intrinsics and assembly over raw output pointers"
)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod level;
mod multiply;
mod pack;
mod portable;
#[cfg(test)]
mod tests;

pub use level::{Level, level};
pub(crate) use multiply::{multiply, multiply_shared};
#[cfg(test)]
pub(crate) use multiply::{multiply_at, multiply_panels_at, multiply_shared_at};
pub(crate) use pack::PANEL_COLUMNS;
pub use pack::PackedBf16;
