//! The product with AVX512-BF16: one instruction adds both products of 16 pairs.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps,
};
use std::mem::transmute;
use std::ops::Range;

use super::PANEL_COLUMNS;
use super::multiply::{Block, Output, row_group};
use super::pack::{LANES, Tile};

/// Rows in a strip, half a tile's.
const ROWS: usize = 8;

/// Multiplies the block's packed rows with full panels.
///
/// # Safety
/// The block's rows at `out` must be ours to read and write for the width of the panels, and the
/// CPU must have AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn run(block: &Block, rows: &[Tile], panels: Range<usize>, out: Output) {
    let group = if block.rows <= ROWS / 2 { 4 } else { 2 };
    let mut panel = panels.start;
    while panel < panels.end {
        let width = if panel + group <= panels.end {
            group
        } else {
            1
        };
        for row in (0..block.rows).step_by(ROWS) {
            let left = Strip {
                tiles: row_group(rows, row / LANES, block),
                first: row % LANES,
            };
            let out = out.at(row, (panel - panels.start) * PANEL_COLUMNS);
            let count = (block.rows - row).min(ROWS);
            // SAFETY: the caller's promise, for `count` rows and `width` panels.
            unsafe {
                match width {
                    4 => few_rows(block, left, count, panel, out),
                    2 => strips::<2>(block, left, count, panel, out),
                    _ => strips::<1>(block, left, count, panel, out),
                }
            }
        }
        panel += width;
    }
}

/// Some rows of a row of tiles.
#[derive(Clone, Copy)]
struct Strip<'a> {
    tiles: &'a [Tile],
    first: usize,
}

/// `count` rows, at most 4, by 4 panels.
///
/// # Safety
/// As for [`strip`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn few_rows(block: &Block, left: Strip, count: usize, panel: usize, out: Output) {
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            1 => strip::<1, 4>(block, left, panel, out),
            2 => strip::<2, 4>(block, left, panel, out),
            3 => strip::<3, 4>(block, left, panel, out),
            _ => strip::<4, 4>(block, left, panel, out),
        }
    }
}

/// `count` rows by `PANELS` panels.
///
/// # Safety
/// As for [`strip`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn strips<const PANELS: usize>(
    block: &Block,
    left: Strip,
    count: usize,
    panel: usize,
    out: Output,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            1 => strip::<1, PANELS>(block, left, panel, out),
            2 => strip::<2, PANELS>(block, left, panel, out),
            3 => strip::<3, PANELS>(block, left, panel, out),
            4 => strip::<4, PANELS>(block, left, panel, out),
            5 => strip::<5, PANELS>(block, left, panel, out),
            6 => strip::<6, PANELS>(block, left, panel, out),
            7 => strip::<7, PANELS>(block, left, panel, out),
            _ => strip::<ROWS, PANELS>(block, left, panel, out),
        }
    }
}

/// `ROWS` rows by the `PANELS` panels from `panel` on.
///
/// # Safety
/// That many rows at `out` must be ours to read and write for that many panels' width.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn strip<const ROWS: usize, const PANELS: usize>(
    block: &Block,
    left: Strip,
    panel: usize,
    out: Output,
) {
    // Loops rather than `array::from_fn`, as in the AVX2 kernel.
    let depth_tiles = left.tiles.len();
    let mut right: [&[Tile]; PANELS] = [&[]; PANELS];
    for (index, right) in right.iter_mut().enumerate() {
        *right = &block.panel(panel + index)[..depth_tiles];
    }
    let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
    if block.accumulate {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (index, sums) in sums.iter_mut().enumerate() {
                let place = out.at(row, index * PANEL_COLUMNS);
                // SAFETY: the caller's promise; both types are 16 f32.
                *sums = unsafe { transmute::<[f32; 16], __m512>(place.load()) };
            }
        }
    }
    for (depth, tile) in left.tiles.iter().enumerate() {
        let rows = &tile.0[left.first..][..ROWS];
        for pair in 0..LANES {
            let mut lines = [[0; LANES]; PANELS];
            for (line, right) in lines.iter_mut().zip(&right) {
                *line = right[depth].0[pair];
            }
            for (sums, row) in sums.iter_mut().zip(rows) {
                let left = _mm512_set1_epi32(row[pair].cast_signed());
                for (sum, &line) in sums.iter_mut().zip(&lines) {
                    // SAFETY: all these types are 512 bits, 16 pairs of bf16.
                    let (left, right) = unsafe {
                        (
                            transmute::<__m512i, __m512bh>(left),
                            transmute::<[u32; 16], __m512bh>(line),
                        )
                    };
                    *sum = _mm512_dpbf16_ps(*sum, left, right);
                }
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (index, sums) in sums.into_iter().enumerate() {
            let place = out.at(row, index * PANEL_COLUMNS);
            // SAFETY: the caller's promise; both types are 16 f32.
            unsafe { place.store(transmute::<__m512, [f32; 16]>(sums)) };
        }
    }
}
