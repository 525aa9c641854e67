//! Rounding to eight bits, and the blocks in which both operands are stored.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::Int8Level;
use crate::{
    PANEL, View,
    matrix::{SHARED_ELEMENTS, side_by_side},
    vectorized::vectorized,
};

/// Steps along `k` in a block; operands are filled up with zeros to a multiple of it.
pub(super) const DEPTH: usize = 64;
/// Fours along `k` in a block.
pub(super) const QUADS: usize = DEPTH / 4;
/// What the largest magnitude of a block is rounded to.
const LARGEST: f32 = 127.0;

/// 64 steps along `k` of 16 columns. A line holds four neighbours along `k` of each column, the first in the low byte,
/// each raised by 128: one operand of the instructions that sum four products is unsigned.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct RightBlock {
    pub(super) lines: [[u32; PANEL]; QUADS],
    /// What a column's numbers are multiples of.
    pub(super) scales: [f32; PANEL],
}

impl RightBlock {
    /// Zeros.
    const ZERO: Self = Self {
        lines: [[RAISED; PANEL]; QUADS],
        scales: [0.0; PANEL],
    };
}

/// Four zeros, raised.
pub(super) const RAISED: u32 = 0x8080_8080;

/// 64 steps along `k` of a row: four neighbours to a number, as two's complement.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeftBlock {
    pub(super) quads: [u32; QUADS],
    /// What the numbers are multiples of.
    pub(super) scale: f32,
    /// What takes the right side's raise out of the sum again: -128 times the sum of the numbers.
    pub(super) start: i32,
}

impl LeftBlock {
    pub(super) const ZERO: Self = Self {
        quads: [0; QUADS],
        scale: 0.0,
        start: 0,
    };
}

/// A right-hand matrix `[k, n]` rounded to eight bits, ready to be multiplied with.
///
/// Stored as panels of [`PANEL`] columns, each panel as a run of blocks along `k`.
#[derive(Clone, Debug, Default)]
pub struct PackedInt8 {
    k: usize,
    n: usize,
    blocks: Vec<RightBlock>,
}

impl PackedInt8 {
    /// Rounds and packs `view`, `[k, n]`.
    pub fn new(view: View<'_>) -> Self {
        Self::beside(&[view])
    }

    /// Rounds and packs matrices with the same rows side by side.
    ///
    /// # Panics
    /// If the rows differ, or a matrix but the last has columns that do not fill whole panels.
    pub fn beside(views: &[View<'_>]) -> Self {
        let k = views.first().map_or(0, |view| view.rows);
        let depth = k.div_ceil(DEPTH);
        let n = views.iter().map(|view| view.columns).sum();
        let count = n_panels(n) * depth;
        let mut blocks = Vec::new();
        blocks.resize(count, RightBlock::ZERO);
        for (view, panels) in side_by_side(views, k, depth, &mut blocks) {
            let fill = |(index, panel): (usize, &mut [RightBlock])| {
                let columns = index * PANEL..view.columns.min((index + 1) * PANEL);
                pack_panel(view.part(0..k, columns), panel);
            };
            let size = depth.max(1);
            if k * view.columns < SHARED_ELEMENTS {
                panels.chunks_exact_mut(size).enumerate().for_each(fill);
            } else {
                panels.par_chunks_exact_mut(size).enumerate().for_each(fill);
            }
        }
        Self { k, n, blocks }
    }

    /// Rows, along which products are summed.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Number of panels, the last one possibly narrower than the others.
    pub(super) fn panels(&self) -> usize {
        n_panels(self.n)
    }

    /// The blocks of one panel.
    pub(super) fn panel(&self, panel: usize) -> &[RightBlock] {
        let depth = self.k.div_ceil(DEPTH);
        &self.blocks[panel * depth..][..depth]
    }
}

fn n_panels(n: usize) -> usize {
    n.div_ceil(PANEL)
}

vectorized! {
/// Rounds up to 16 columns into the blocks along `k`.
fn pack_panel(view: View<'_>, blocks: &mut [RightBlock]) -> () = pack_panel_loop
}

#[inline(always)]
fn pack_panel_loop(view: View<'_>, blocks: &mut [RightBlock]) {
    for (index, block) in blocks.iter_mut().enumerate() {
        let part = view.part(
            index * DEPTH..view.rows.min((index + 1) * DEPTH),
            0..view.columns,
        );
        if part.column_stride == 1 && part.columns == PANEL {
            pack_lines(part, block);
        } else {
            pack_columns(part, block);
        }
    }
}

/// Rounds 16 columns whose neighbours lie together, all beside each other.
#[inline(always)]
fn pack_lines(part: View<'_>, block: &mut RightBlock) {
    let row = |depth: usize| -> &[f32; PANEL] {
        let cells = part.data[depth * part.row_stride..].first_chunk();
        cells.expect("a row of the view has 16 columns")
    };
    let mut largest = [0.0_f32; PANEL];
    let mut poison = [0.0_f32; PANEL];
    for depth in 0..part.rows {
        for ((largest, poison), &x) in largest.iter_mut().zip(&mut poison).zip(row(depth)) {
            *largest = if x.abs() > *largest {
                x.abs()
            } else {
                *largest
            };
            *poison += x * 0.0;
        }
    }
    let mut inverses = [0.0; PANEL];
    for column in 0..PANEL {
        (block.scales[column], inverses[column]) = scale(largest[column], poison[column]);
    }
    for (quad, line) in block.lines.iter_mut().enumerate() {
        *line = [RAISED; PANEL];
        for place in 0..4 {
            let depth = 4 * quad + place;
            if depth < part.rows {
                let cells = row(depth).iter().zip(&inverses);
                for (slot, (&x, &inverse)) in line.iter_mut().zip(cells) {
                    *slot ^= (round(x, inverse) & 0xff) << (8 * place);
                }
            }
        }
    }
}

/// Rounds columns one by one, wherever their elements lie.
#[inline(always)]
fn pack_columns(part: View<'_>, block: &mut RightBlock) {
    *block = RightBlock::ZERO;
    for column in 0..part.columns {
        let column_part = part.part(0..part.rows, column..column + 1);
        let left = round_block(&gather(column_part.transposed()));
        for (line, quad) in block.lines.iter_mut().zip(left.quads) {
            line[column] = quad ^ RAISED;
        }
        block.scales[column] = left.scale;
    }
}

/// A row of at most 64 elements, filled up with zeros.
#[inline(always)]
fn gather(row: View<'_>) -> [f32; DEPTH] {
    if row.column_stride == 1
        && row.columns == DEPTH
        && let Some(cells) = row.data.first_chunk()
    {
        return *cells;
    }
    let mut cells = [0.0; DEPTH];
    let source = row.data.iter().step_by(row.column_stride);
    for (cell, &x) in cells.iter_mut().zip(source.take(row.columns)) {
        *cell = x;
    }
    cells
}

/// Rounds the rows of the left operand: `blocks[row * depth + block]`.
pub(super) fn round_rows(view: View<'_>, blocks: &mut Vec<LeftBlock>, is_shared: bool) {
    let depth = view.columns.div_ceil(DEPTH);
    blocks.resize(view.rows * depth, LeftBlock::ZERO);
    if !is_shared {
        return round_some(view, blocks);
    }
    let each = view.rows.div_ceil(rayon::current_num_threads()).max(1);
    let parts = blocks.par_chunks_mut((each * depth).max(1)).enumerate();
    parts.for_each(|(part, blocks)| {
        let rows = part * each..view.rows.min((part + 1) * each);
        round_some(view.part(rows, 0..view.columns), blocks);
    });
}

fn round_some(view: View<'_>, blocks: &mut [LeftBlock]) {
    #[cfg(target_arch = "x86_64")]
    if Int8Level::Avx512Vnni.is_available() {
        return super::avx512::round_some(view, blocks);
    }
    round_some_plain(view, blocks);
}

vectorized! {
pub(super) fn round_some_plain(view: View<'_>, blocks: &mut [LeftBlock]) -> () = round_some_plain_loop
}

#[inline(always)]
fn round_some_plain_loop(view: View<'_>, blocks: &mut [LeftBlock]) {
    round_some_with(view, blocks, round_block);
}

#[inline(always)] // To be compiled with the caller's instructions.
pub(super) fn round_some_with(
    view: View<'_>,
    blocks: &mut [LeftBlock],
    round: impl Fn(&[f32; DEPTH]) -> LeftBlock,
) {
    let depth = view.columns.div_ceil(DEPTH).max(1);
    for (row, blocks) in blocks.chunks_exact_mut(depth).enumerate() {
        for (index, block) in blocks.iter_mut().enumerate() {
            let columns = index * DEPTH..view.columns.min((index + 1) * DEPTH);
            *block = round(&gather(view.part(row..row + 1, columns)));
        }
    }
}

#[inline(always)]
fn round_block(cells: &[f32; DEPTH]) -> LeftBlock {
    let mut largest = [0.0_f32; PANEL];
    let mut poison = [0.0_f32; PANEL];
    for cells in cells.as_chunks::<PANEL>().0 {
        for ((largest, poison), &x) in largest.iter_mut().zip(&mut poison).zip(cells) {
            *largest = if x.abs() > *largest {
                x.abs()
            } else {
                *largest
            };
            *poison += x * 0.0;
        }
    }
    let most = largest.iter().fold(0.0, |a, &b| if b > a { b } else { a });
    let (scale, inverse) = scale(most, poison.iter().sum());
    let mut bytes = [0_u8; DEPTH];
    let mut sums = [0_i32; PANEL];
    for (cells, bytes) in cells
        .as_chunks::<PANEL>()
        .0
        .iter()
        .zip(bytes.as_chunks_mut::<PANEL>().0)
    {
        for ((&x, byte), sum) in cells.iter().zip(bytes).zip(&mut sums) {
            let rounded = round(x, inverse);
            *byte = rounded as u8;
            *sum += i32::from(rounded as i8);
        }
    }
    let mut quads = [0; QUADS];
    for (quad, bytes) in quads.iter_mut().zip(bytes.as_chunks().0) {
        *quad = u32::from_le_bytes(*bytes);
    }
    LeftBlock {
        quads,
        scale,
        start: -128 * sums.iter().sum::<i32>(),
    }
}

/// What a block's numbers are multiples of, and its inverse; `poison` is NaN where an element is not finite, and makes
/// every product with the block NaN.
#[inline(always)]
pub(super) fn scale(largest: f32, poison: f32) -> (f32, f32) {
    let scale = largest / LARGEST;
    // Numbers whose scale has no inverse in f32 are as good as zero.
    if scale.is_normal() && poison == 0.0 {
        (scale, LARGEST / largest)
    } else {
        (poison, 0.0)
    }
}

/// Beyond 2²³ f32 has no fractions: adding this rounds, and leaves the integer in the low bits.
pub(super) const INTEGERS: f32 = 12_582_912.0;

/// The nearest integer to `x * inverse`, even in a tie, at most 127 in magnitude, in the low bits.
#[inline(always)]
fn round(x: f32, inverse: f32) -> u32 {
    (x * inverse + INTEGERS).to_bits()
}
