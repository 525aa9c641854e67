//! The product with AVX2 and FMA: bf16 is read from memory and widened to f32 in registers.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_and_si256, _mm256_castsi256_ps, _mm256_fmadd_ps,
    _mm256_permute2f128_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_shuffle_ps, _mm256_slli_epi32, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};
use std::mem::transmute;
use std::ops::Range;

use super::PANEL_COLUMNS;
use super::multiply::{Block, Output};
use super::pack::{LANES, Tile, Wide};

/// Most rows whose sums and operands fit the 16 registers, at one panel.
const ROWS: usize = 5;

/// Multiplies the block's rows, widened to f32, with full panels.
///
/// # Safety
/// The block's rows at `out` must be ours to read and write for the width of the panels, and the
/// CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run(block: &Block, rows: &[Wide], panels: Range<usize>, out: Output) {
    // Strips of almost even height; with few rows several panels keep enough sums going at once.
    let strips = block.rows.div_ceil(ROWS);
    let (height, taller) = (block.rows / strips, block.rows % strips);
    let group = match block.rows {
        1 => 4,
        2 => 2,
        _ => 1,
    };
    let mut panel = panels.start;
    while panel < panels.end {
        let width = if panel + group <= panels.end {
            group
        } else {
            1
        };
        let mut row = 0;
        for strip_index in 0..strips {
            let count = height + usize::from(strip_index < taller);
            let rows = &rows[row * block.depth_tiles.len()..];
            let out = out.at(row, (panel - panels.start) * PANEL_COLUMNS);
            // SAFETY: the caller's promise, for `count` rows and `width` panels.
            unsafe {
                match (count, width) {
                    (1, 4) => strip::<1, 4>(block, rows, panel, out),
                    (2, 2) => strip::<2, 2>(block, rows, panel, out),
                    (1, _) => strip::<1, 1>(block, rows, panel, out),
                    (2, _) => strip::<2, 1>(block, rows, panel, out),
                    (3, _) => strip::<3, 1>(block, rows, panel, out),
                    (4, _) => strip::<4, 1>(block, rows, panel, out),
                    _ => strip::<ROWS, 1>(block, rows, panel, out),
                }
            }
            row += count;
        }
        panel += width;
    }
}

/// `ROWS` rows by the `PANELS` panels from `panel` on.
///
/// # Safety
/// That many rows at `out` must be ours to read and write for that many panels' width.
#[target_feature(enable = "avx2,fma")]
unsafe fn strip<const ROWS: usize, const PANELS: usize>(
    block: &Block,
    rows: &[Wide],
    panel: usize,
    out: Output,
) {
    // Loops rather than `array::from_fn`, whose closures would not be inlined here: they have this
    // function's instructions and `from_fn` does not.
    let depth_tiles = block.depth_tiles.len();
    let mut left: [&[Wide]; ROWS] = [&[]; ROWS];
    for (row, left) in left.iter_mut().enumerate() {
        *left = &rows[row * depth_tiles..][..depth_tiles];
    }
    let mut right: [&[Tile]; PANELS] = [&[]; PANELS];
    for (index, right) in right.iter_mut().enumerate() {
        *right = &block.panel(panel + index)[..depth_tiles];
    }
    let mut sums = [[[_mm256_setzero_ps(); 2]; PANELS]; ROWS];
    if block.accumulate {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (index, sums) in sums.iter_mut().enumerate() {
                let place = out.at(row, index * PANEL_COLUMNS);
                // SAFETY: the caller's promise; both types are 16 f32.
                *sums = unsafe { transmute::<[f32; 16], [__m256; 2]>(place.load()) };
            }
        }
    }
    let high_half = _mm256_set1_epi32(-0x1_0000);
    for depth in 0..depth_tiles {
        for pair in 0..LANES {
            for (index, right) in right.iter().enumerate() {
                // SAFETY: both types are 16 numbers of 32 bits.
                let [p, q] = unsafe { transmute::<[u32; 16], [__m256i; 2]>(right[depth].0[pair]) };
                let even = [_mm256_slli_epi32::<16>(p), _mm256_slli_epi32::<16>(q)];
                for (sums, left) in sums.iter_mut().zip(&left) {
                    add_product(&mut sums[index], left[depth][2 * pair], even);
                }
                let odd = [
                    _mm256_and_si256(p, high_half),
                    _mm256_and_si256(q, high_half),
                ];
                for (sums, left) in sums.iter_mut().zip(&left) {
                    add_product(&mut sums[index], left[depth][2 * pair + 1], odd);
                }
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (index, sums) in sums.into_iter().enumerate() {
            let place = out.at(row, index * PANEL_COLUMNS);
            // SAFETY: the caller's promise; both types are 16 f32.
            unsafe { place.store(transmute::<[__m256; 2], [f32; 16]>(sums)) };
        }
    }
}

/// `sums += left · right`, the right operand as f32 bits.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn add_product(sums: &mut [__m256; 2], left: f32, right: [__m256i; 2]) {
    let left = _mm256_set1_ps(left);
    sums[0] = _mm256_fmadd_ps(left, _mm256_castsi256_ps(right[0]), sums[0]);
    sums[1] = _mm256_fmadd_ps(left, _mm256_castsi256_ps(right[1]), sums[1]);
}

/// Exchanges a tile's lines and columns.
#[target_feature(enable = "avx2")]
pub(super) fn transpose(tile: &mut Tile) {
    // SAFETY: both types are 16 lines of 16 numbers of 32 bits, and `Tile` has the wider alignment.
    let lines = unsafe { &mut *(&raw mut *tile).cast::<[[__m256; 2]; 16]>() };
    let mut quarters = [[_mm256_setzero_ps(); 8]; 4];
    for (index, line) in lines.iter().enumerate() {
        quarters[index / 8][index % 8] = line[0];
        quarters[2 + index / 8][index % 8] = line[1];
    }
    for quarter in &mut quarters {
        transpose_8x8(quarter);
    }
    for (index, line) in lines.iter_mut().enumerate() {
        *line = [
            quarters[index / 8 * 2][index % 8],
            quarters[index / 8 * 2 + 1][index % 8],
        ];
    }
}

/// Transposes 8 lines of 8 numbers: pairs of lines, then quads, then halves.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose_8x8(lines: &mut [__m256; 8]) {
    let mut pairs = *lines;
    for i in (0..8).step_by(2) {
        pairs[i] = _mm256_unpacklo_ps(lines[i], lines[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(lines[i], lines[i + 1]);
    }
    let mut quads = pairs;
    for i in [0, 4] {
        quads[i] = _mm256_shuffle_ps::<0b01_00_01_00>(pairs[i], pairs[i + 2]);
        quads[i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(pairs[i], pairs[i + 2]);
        quads[i + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(pairs[i + 1], pairs[i + 3]);
        quads[i + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(pairs[i + 1], pairs[i + 3]);
    }
    for i in 0..4 {
        lines[i] = _mm256_permute2f128_ps::<0x20>(quads[i], quads[i + 4]);
        lines[i + 4] = _mm256_permute2f128_ps::<0x31>(quads[i], quads[i + 4]);
    }
}
