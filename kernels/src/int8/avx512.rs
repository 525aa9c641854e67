//! Rounding to eight bits by AVX-512's intrinsics, with the bits of the plain code in `pack`.
#![allow(unsafe_code, reason = "intrinsics")]

use std::arch::x86_64::{
    _mm_storeu_si128, _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512,
    _mm512_cvtepi32_epi8, _mm512_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_epi32,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srai_epi32,
};

use super::{
    Int8Level,
    pack::{DEPTH, INTEGERS, LeftBlock, QUADS, round_some_with, scale},
};
use crate::{PANEL, View};

/// Rounds some rows of the left operand: `blocks[row * depth + block]`.
///
/// # Panics
/// If the CPU has not the instructions.
pub(super) fn round_some(view: View<'_>, blocks: &mut [LeftBlock]) {
    assert!(Int8Level::Avx512Vnni.is_available(), "no AVX-512");
    // SAFETY: as just asserted.
    unsafe { compiled(view, blocks) }
}

#[target_feature(enable = "avx512f")]
fn compiled(view: View<'_>, blocks: &mut [LeftBlock]) {
    // SAFETY: this function is compiled for AVX-512, and runs where the CPU has it.
    round_some_with(view, blocks, |cells| unsafe { round_block(cells) });
}

/// Rounds a block's cells.
///
/// # Safety
/// The CPU must have AVX-512.
#[inline(always)]
unsafe fn round_block(cells: &[f32; DEPTH]) -> LeftBlock {
    let (vectors, _) = cells.as_chunks::<PANEL>();
    let mut quads = [0; QUADS];
    // SAFETY: the CPU has AVX-512 (the caller's promise); a vector is 16 elements, and four quads 16 bytes.
    unsafe {
        let (mut largest, mut poison) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        for vector in vectors {
            let x = _mm512_loadu_ps(vector.as_ptr());
            // The second operand where the first is no number.
            largest = _mm512_max_ps(_mm512_abs_ps(x), largest);
            poison = _mm512_add_ps(poison, _mm512_mul_ps(x, _mm512_setzero_ps()));
        }
        let (scale, inverse) = scale(_mm512_reduce_max_ps(largest), _mm512_reduce_add_ps(poison));
        let mut sums = _mm512_setzero_si512();
        for (vector, quads) in vectors.iter().zip(quads.as_chunks_mut::<4>().0) {
            let x = _mm512_loadu_ps(vector.as_ptr());
            let shifted = _mm512_add_ps(
                _mm512_mul_ps(x, _mm512_set1_ps(inverse)),
                _mm512_set1_ps(INTEGERS),
            );
            let integers = _mm512_castps_si512(shifted);
            _mm_storeu_si128(quads.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(integers));
            let signed = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(integers));
            sums = _mm512_add_epi32(sums, signed);
        }
        LeftBlock {
            quads,
            scale,
            start: -128 * _mm512_reduce_add_epi32(sums),
        }
    }
}
