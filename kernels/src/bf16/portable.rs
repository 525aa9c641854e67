//! The product in plain Rust, which every other level is tested against.

use std::array::from_fn;
use std::ops::Range;

use super::PANEL_COLUMNS;
use super::multiply::{Block, Output};
use super::pack::{Tile, Wide, split};

/// Multiplies the block's rows, widened to f32, with full panels.
///
/// # Safety
/// The block's rows at `out` must be ours to read and write for the width of the panels.
pub(super) unsafe fn run(block: &Block, rows: &[Wide], panels: Range<usize>, out: Output) {
    for (index, panel) in panels.enumerate() {
        let right = block.panel(panel);
        let out = out.at(0, index * PANEL_COLUMNS);
        let mut row = 0;
        while row < block.rows {
            let count = (block.rows - row).min(4);
            let (rows, out) = (&rows[row * right.len()..], out.at(row, 0));
            // SAFETY: the caller's promise, for `count` rows.
            unsafe {
                match count {
                    4 => strip::<4>(rows, right, out, block.accumulate),
                    3 => strip::<3>(rows, right, out, block.accumulate),
                    2 => strip::<2>(rows, right, out, block.accumulate),
                    _ => strip::<1>(rows, right, out, block.accumulate),
                }
            }
            row += count;
        }
    }
}

/// `ROWS` rows by one panel.
///
/// # Safety
/// That many rows at `out` must be ours to read and write for the width of a panel.
unsafe fn strip<const ROWS: usize>(rows: &[Wide], right: &[Tile], out: Output, accumulate: bool) {
    let rows: [&[Wide]; ROWS] = from_fn(|row| &rows[row * right.len()..][..right.len()]);
    let mut sums = [[0.0; PANEL_COLUMNS]; ROWS];
    if accumulate {
        // SAFETY: the caller's promise.
        sums = from_fn(|row| unsafe { out.at(row, 0).load() });
    }
    for (depth, tile) in right.iter().enumerate() {
        let rows: [&Wide; ROWS] = from_fn(|row| &rows[row][depth]);
        for (pair, line) in tile.0.iter().enumerate() {
            for (sums, row) in sums.iter_mut().zip(rows) {
                for (sum, &bits) in sums.iter_mut().zip(line) {
                    let [even, odd] = split(bits);
                    *sum += row[2 * pair] * even;
                    *sum += row[2 * pair + 1] * odd;
                }
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { out.at(row, 0).store(sums) };
    }
}
