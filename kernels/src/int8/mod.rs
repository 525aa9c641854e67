//! `c = a · b` with both operands rounded to eight bits: for generation, where rounding's effect is measured and corrected.
//!
//! Along `k` both operands are cut into blocks of 64, each with a factor of its own, its largest magnitude over 127. A
//! block's sum is exact in integers; blocks are added in f32, by one fused multiply-add each, in the order of `k`. So all
//! [`Int8Level`]s, and every split of rows, panels or depth, give the same bits.
//!
//! The right-hand matrix is packed once ([`PackedInt8`]) in one layout for all levels, the left-hand one on the fly.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
mod multiply;
mod pack;
#[cfg(test)]
mod tests;

pub use lanes::{Int8Level, int8_level};
pub(crate) use multiply::{multiply, multiply_shared};
pub use pack::PackedInt8;
