//! Rounding to bf16 and the tiles in which both operands are stored.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    View,
    matrix::{SHARED_ELEMENTS, side_by_side},
};

/// Columns in a panel of a [`PackedBf16`]; the last panel is filled up with zeros.
pub(crate) const PANEL_COLUMNS: usize = LANES;
/// Rows or columns in a tile.
pub(super) const LANES: usize = 16;
/// Steps along `k` in a tile; operands are filled up with zeros to a multiple of it.
pub(super) const DEPTH: usize = 32;

/// 1 KiB of packed operand, 16 lines of 64 bytes; each number holds two neighbours along `k`, the
/// even one in its low half. The left operand's lines are rows, of 16 pairs; the right one's are
/// pairs, of 16 columns (what AMX and AVX512-BF16 multiply as they are).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [[u32; LANES]; LANES]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0; LANES]; LANES]);
}

/// A right-hand matrix `[k, n]` rounded to bf16, ready to be multiplied with.
///
/// Stored as panels of `PANEL_COLUMNS` columns, each panel as a run of tiles along `k`.
#[derive(Clone, Debug, Default)]
pub struct PackedBf16 {
    k: usize,
    n: usize,
    tiles: Vec<Tile>,
}

impl PackedBf16 {
    /// Rounds and packs `view`, `[k, n]`.
    pub fn new(view: View) -> Self {
        Self::beside(&[view])
    }

    /// Rounds and packs matrices with the same rows side by side.
    ///
    /// # Panics
    /// If the rows differ, or a matrix but the last has columns that do not fill whole panels.
    pub fn beside(views: &[View]) -> Self {
        let k = views.first().map_or(0, |view| view.rows);
        let mut packed = Self {
            k,
            n: views.iter().map(|view| view.columns).sum(),
            tiles: Vec::new(),
        };
        let depth_tiles = packed.depth_tiles();
        packed
            .tiles
            .resize(packed.panels() * depth_tiles, Tile::ZERO);
        for (view, tiles) in side_by_side(views, k, depth_tiles, &mut packed.tiles) {
            pack_panels(view, tiles);
        }
        packed
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
    pub fn panels(&self) -> usize {
        self.n.div_ceil(PANEL_COLUMNS)
    }

    fn depth_tiles(&self) -> usize {
        self.k.div_ceil(DEPTH)
    }

    /// Tiles `depth_tiles` of one panel.
    pub(super) fn panel(&self, panel: usize, depth_tiles: Range<usize>) -> &[Tile] {
        let start = panel * self.depth_tiles();
        &self.tiles[start + depth_tiles.start..start + depth_tiles.end]
    }
}

/// Panels that one task packs: they take whole stretches of a row-major matrix's rows, which single panels would take in
/// pieces of a cache line each.
const STRIP: usize = 8;

/// Packs the columns of `view` into `tiles`: panels of 16 columns, tiles along `k` within.
fn pack_panels(view: View, tiles: &mut [Tile]) {
    let depth_tiles = view.rows.div_ceil(DEPTH);
    let fill = |(strip, tiles): (usize, &mut [Tile])| {
        let first = strip * STRIP * LANES;
        let columns = first..view.columns.min(first + STRIP * LANES);
        let strip = view.part(0..view.rows, columns);
        pack_lanes(strip.transposed(), TileLines::Pairs, tiles);
    };
    let size = STRIP * depth_tiles.max(1);
    if view.rows * view.columns < SHARED_ELEMENTS {
        tiles.chunks_mut(size).enumerate().for_each(fill);
    } else {
        tiles.par_chunks_mut(size).enumerate().for_each(fill);
    }
}

/// Packs the rows of `view` into `tiles`: groups of 16 rows, tiles along `k` within.
pub(super) fn pack_rows(view: View, tiles: &mut Vec<Tile>) {
    let depth_tiles = view.columns.div_ceil(DEPTH);
    tiles.resize(view.rows.div_ceil(LANES) * depth_tiles, Tile::ZERO);
    pack_lanes(view, TileLines::Lanes, tiles);
}

/// The same on rayon's threads.
pub(super) fn pack_rows_shared(view: View, tiles: &mut Vec<Tile>) {
    /// Elements that are packed in about the time that threads take to meet.
    const LEAST: usize = 1 << 15;
    if view.rows <= LANES || view.rows * view.columns < LEAST {
        return pack_rows(view, tiles);
    }
    let depth_tiles = view.columns.div_ceil(DEPTH);
    tiles.resize(view.rows.div_ceil(LANES) * depth_tiles, Tile::ZERO);
    let groups = tiles.par_chunks_exact_mut(depth_tiles).enumerate();
    groups.for_each(|(group, tiles)| {
        let rows = group * LANES..view.rows.min((group + 1) * LANES);
        pack_lanes(view.part(rows, 0..view.columns), TileLines::Lanes, tiles);
    });
}

/// What the lines of a tile hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TileLines {
    /// One row of the left operand each.
    Lanes,
    /// One pair along `k` each.
    Pairs,
}

/// Packs lanes, the rows of `lanes`, into tiles: groups of 16 lanes, tiles along their columns within.
fn pack_lanes(lanes: View, lines: TileLines, tiles: &mut [Tile]) {
    #[cfg(target_arch = "x86_64")]
    if super::level::avx512() {
        // SAFETY: the CPU has these instructions.
        return unsafe { pack_lanes_avx512(lanes, lines, tiles) };
    } else if super::Level::Avx2.is_available() {
        // SAFETY: as above.
        return unsafe { pack_lanes_avx2(lanes, lines, tiles) };
    }
    pack_lanes_with(lanes, lines, tiles, transpose);
}

/// [`pack_lanes`] compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pack_lanes_avx2(lanes: View, lines: TileLines, tiles: &mut [Tile]) {
    pack_lanes_with(lanes, lines, tiles, |tile| super::avx2::transpose(tile));
}

/// [`pack_lanes`] compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
fn pack_lanes_avx512(lanes: View, lines: TileLines, tiles: &mut [Tile]) {
    pack_lanes_with(lanes, lines, tiles, |tile| super::avx2::transpose(tile));
}

#[inline(always)] // To be compiled with the caller's instructions.
fn pack_lanes_with(
    lanes: View,
    lines: TileLines,
    tiles: &mut [Tile],
    transpose: impl Fn(&mut Tile),
) {
    // The lines that lie together in memory; the other kind is reached by transposing the tile.
    let natural = if lanes.row_stride == 1 && lanes.column_stride != 1 {
        TileLines::Pairs
    } else {
        TileLines::Lanes
    };
    let (groups, depth_tiles) = (lanes.rows.div_ceil(LANES), lanes.columns.div_ceil(DEPTH));
    for place in 0..groups * depth_tiles {
        // In the order of memory.
        let (group, index) = match natural {
            TileLines::Lanes => (place / depth_tiles, place % depth_tiles),
            TileLines::Pairs => (place % groups, place / groups),
        };
        let rows = group * LANES..lanes.rows.min((group + 1) * LANES);
        let depth = index * DEPTH..lanes.columns.min((index + 1) * DEPTH);
        let part = lanes.part(rows, depth);
        let tile = &mut tiles[group * depth_tiles + index];
        if part.rows < LANES || part.columns < DEPTH {
            *tile = Tile::ZERO;
        }
        match natural {
            TileLines::Lanes if part.column_stride == 1 => fill_lanes(part, tile),
            TileLines::Lanes => fill_scattered(part, tile),
            TileLines::Pairs => fill_pairs(part, tile),
        }
        if natural != lines {
            transpose(tile);
        }
    }
}

/// Fills the tile's lines with lanes that are contiguous along `k`.
#[inline(always)]
fn fill_lanes(part: View, tile: &mut Tile) {
    for (lane, line) in tile.0.iter_mut().enumerate().take(part.rows) {
        let values = &part.data[lane * part.row_stride..][..part.columns];
        if let Ok(values) = <&[f32; DEPTH]>::try_from(values) {
            for (pair, slot) in line.iter_mut().enumerate() {
                *slot = join(values[2 * pair], values[2 * pair + 1]);
            }
        } else {
            for (slot, pair) in line.iter_mut().zip(values.chunks(2)) {
                *slot = join(pair[0], pair.get(1).copied().unwrap_or(0.0));
            }
        }
    }
}

/// Fills the tile's lines with pairs whose lanes are contiguous.
#[inline(always)]
fn fill_pairs(part: View, tile: &mut Tile) {
    let step = |depth: usize| &part.data[depth * part.column_stride..][..part.rows];
    for (pair, line) in tile.0.iter_mut().enumerate().take(part.columns.div_ceil(2)) {
        let even = step(2 * pair);
        let odd = if 2 * pair + 1 < part.columns {
            step(2 * pair + 1)
        } else {
            &[0.0; LANES]
        };
        for ((slot, &even), &odd) in line.iter_mut().zip(even).zip(odd) {
            *slot = join(even, odd);
        }
    }
}

/// Fills the tile's lines with lanes that are contiguous in neither direction.
fn fill_scattered(part: View, tile: &mut Tile) {
    let value = |lane: usize, depth: usize| {
        if depth < part.columns {
            part.data[lane * part.row_stride + depth * part.column_stride]
        } else {
            0.0
        }
    };
    for (lane, line) in tile.0.iter_mut().enumerate().take(part.rows) {
        for (pair, slot) in line.iter_mut().enumerate().take(part.columns.div_ceil(2)) {
            *slot = join(value(lane, 2 * pair), value(lane, 2 * pair + 1));
        }
    }
}

fn transpose(tile: &mut Tile) {
    for row in 0..LANES {
        for column in 0..row {
            let upper = tile.0[column][row];
            tile.0[column][row] = tile.0[row][column];
            tile.0[row][column] = upper;
        }
    }
}

/// The pair of two values rounded to bf16, `even` in the low half.
#[inline(always)]
fn join(even: f32, odd: f32) -> u32 {
    (round(even) >> 16) | (round(odd) & 0xffff_0000)
}

/// The f32 bits whose high half is `value` rounded to bf16, nearest even; a NaN stays one, quiet.
#[inline(always)]
pub(super) fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    if value.is_nan() {
        bits | 0x0040_0000
    } else {
        rounded
    }
}

/// The even and the odd value of a pair as f32.
#[inline(always)]
pub(super) fn split(pair: u32) -> [f32; 2] {
    [
        f32::from_bits(pair << 16),
        f32::from_bits(pair & 0xffff_0000),
    ]
}

/// A lane's stretch of a tile as f32.
pub(super) type Wide = [f32; DEPTH];

/// Widens the first `rows` lanes of row tiles to f32: `wide[row * depth_tiles + depth_tile]`.
#[inline(always)]
pub(super) fn widen(tiles: &[Tile], rows: usize, depth_tiles: usize, wide: &mut Vec<Wide>) {
    wide.resize(rows * depth_tiles, [0.0; DEPTH]);
    for (row, wide) in wide.chunks_exact_mut(depth_tiles.max(1)).enumerate() {
        let tiles = &tiles[row / LANES * depth_tiles..][..depth_tiles];
        for (wide, tile) in wide.iter_mut().zip(tiles) {
            for (pair, &bits) in tile.0[row % LANES].iter().enumerate() {
                [wide[2 * pair], wide[2 * pair + 1]] = split(bits);
            }
        }
    }
}
