//! The product's blocking, common to all levels.

use std::cell::RefCell;
use std::ops::Range;

use super::pack::{DEPTH, LANES, Tile, Wide, pack_rows, pack_rows_shared, widen};
use super::{Level, PANEL_COLUMNS, PackedBf16, level, portable};
use crate::{
    View,
    product::{self, check, share_panels},
};

/// `c[r * c_stride + j] = (accumulate ? c[r * c_stride + j] : 0) + Σ_k bf16(a[r, k]) · b[k, j]`
/// at this machine's best [`Level`], on the calling thread.
///
/// # Panics
/// If the shapes disagree or `c` is too short.
pub(crate) fn multiply(a: View, b: &PackedBf16, c: &mut [f32], c_stride: usize, accumulate: bool) {
    multiply_at(level(), a, b, c, c_stride, accumulate);
}

/// [`multiply`] at a given level.
///
/// # Panics
/// If the shapes disagree, `c` is too short or the level is not available.
pub(crate) fn multiply_at(
    level: Level,
    a: View,
    b: &PackedBf16,
    c: &mut [f32],
    c_stride: usize,
    accumulate: bool,
) {
    check(&a, [b.k(), b.n()], c.len(), c_stride);
    // SAFETY: `c` is ours alone and holds every row's `n` columns, as just asserted.
    unsafe {
        multiply_panels_at(
            level,
            a,
            b,
            0..b.panels(),
            c.as_mut_ptr(),
            c_stride,
            accumulate,
        );
    }
}

/// [`multiply`] with the columns split among rayon's threads.
///
/// # Panics
/// As [`multiply`].
pub(crate) fn multiply_shared(
    a: View,
    b: &PackedBf16,
    c: &mut [f32],
    c_stride: usize,
    accumulate: bool,
) {
    multiply_shared_at(level(), a, b, c, c_stride, accumulate);
}

/// [`multiply_shared`] at a given level.
///
/// # Panics
/// If the shapes disagree, `c` is too short or the level is not available.
pub(crate) fn multiply_shared_at(
    level: Level,
    a: View,
    b: &PackedBf16,
    c: &mut [f32],
    c_stride: usize,
    accumulate: bool,
) {
    assert!(level.is_available(), "{level:?} is not available");
    check(&a, [b.k(), b.n()], c.len(), c_stride);
    let out = product::Output::new(c, c_stride);
    // Taken and not borrowed: a thread that waits for others takes on other work, another product too.
    let mut rows = SHARED_ROWS.take();
    for block in blocks(level, [a.rows, a.columns]) {
        pack_rows_shared(a.part(block.rows.clone(), block.depth.clone()), &mut rows);
        let block = block.of(b, accumulate);
        share_panels(b.panels(), |panels| {
            let out = Output {
                start: out.at(block.first_row, 0),
                row_stride: c_stride,
            };
            SCRATCH.with_borrow_mut(|scratch| {
                // SAFETY: `c` is borrowed mutably for the whole call and holds all rows and columns (checked); each task
                // writes the columns of its own panels alone.
                unsafe { block.run(level, panels, out, &rows, &mut scratch.side) }
            });
        });
    }
    SHARED_ROWS.set(rows);
}

/// [`multiply_at`] restricted to the columns of some panels.
///
/// # Safety
/// For each row `r` of `a`, the columns `j` of `panels` (those below `b.n()`) at
/// `c + r * c_stride + j` must be valid for reads and writes, and no other thread may access them
/// during the call. Nothing else of `c` is touched.
///
/// # Panics
/// If the shapes disagree or the level is not available.
pub(crate) unsafe fn multiply_panels_at(
    level: Level,
    a: View,
    b: &PackedBf16,
    panels: Range<usize>,
    c: *mut f32,
    c_stride: usize,
    accumulate: bool,
) {
    assert!(level.is_available(), "{level:?} is not available");
    assert_eq!(
        a.columns,
        b.k(),
        "a is {} x {}, b {} x {}",
        a.rows,
        a.columns,
        b.k(),
        b.n()
    );
    assert!(
        panels.end <= b.panels(),
        "panels {panels:?} of {}",
        b.panels()
    );
    if a.rows == 0 || panels.is_empty() {
        return;
    }
    let out = Output {
        start: c,
        row_stride: c_stride,
    };
    SCRATCH.with_borrow_mut(|Scratch { rows, side }| {
        for block in blocks(level, [a.rows, a.columns]) {
            pack_rows(a.part(block.rows.clone(), block.depth.clone()), rows);
            let block = block.of(b, accumulate);
            // SAFETY: the caller's promise, for the block's rows.
            unsafe {
                block.run(
                    level,
                    panels.clone(),
                    out.at(block.first_row, 0),
                    rows,
                    side,
                );
            };
        }
    });
}

/// Part of the left operand that is packed at a time.
struct Part {
    rows: Range<usize>,
    depth: Range<usize>,
}

impl Part {
    /// The part's product with `b`.
    fn of(self, b: &PackedBf16, accumulate: bool) -> Block<'_> {
        Block {
            first_row: self.rows.start,
            rows: self.rows.len(),
            right: b,
            depth_tiles: self.depth.start / DEPTH..self.depth.end.div_ceil(DEPTH),
            accumulate: accumulate || self.depth.start > 0,
        }
    }
}

/// The parts of a left operand, those of an element's sum in the order of `k`.
fn blocks(level: Level, [rows, columns]: [usize; 2]) -> impl Iterator<Item = Part> {
    let (row_block, depth_block) = blocking(level);
    // An empty sum (`k` of 0) still writes its zeros: at least one block.
    let depths = (0..columns.max(1)).step_by(depth_block);
    depths.flat_map(move |depth| {
        (0..rows).step_by(row_block).map(move |row| Part {
            rows: row..rows.min(row + row_block),
            depth: depth..columns.min(depth + depth_block),
        })
    })
}

/// Rows of `a` and steps along `k` packed at a time: a block of `a` stays in the second-level
/// cache while a panel of `b` for each group of rows comes from the first.
fn blocking(level: Level) -> (usize, usize) {
    match level {
        // As f32, and on CPUs with 256 to 512 KiB: 288 KiB.
        Level::Portable | Level::Avx2 => (96, 768),
        // As bf16, and on CPUs with 1 to 2 MiB: 576 KiB.
        Level::Avx512Bf16 | Level::Amx => (192, 1536),
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static SHARED_ROWS: RefCell<Vec<Tile>> = RefCell::default();
}

/// What a thread keeps between calls.
#[derive(Default)]
struct Scratch {
    /// The block of `a`.
    rows: Vec<Tile>,
    side: Side,
}

/// What a block's product needs besides its operands.
#[derive(Default)]
struct Side {
    /// The block of `a` in f32, for levels that multiply f32.
    wide: Vec<Wide>,
    /// The block's sums in a panel that is not full.
    edge: Vec<[f32; PANEL_COLUMNS]>,
}

/// A place in a row-major f32 matrix.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) start: *mut f32,
    pub(super) row_stride: usize,
}

impl Output {
    /// The place `row` rows and `column` columns on.
    #[inline(always)]
    pub(super) fn at(self, row: usize, column: usize) -> Self {
        Self {
            start: self.start.wrapping_add(row * self.row_stride + column),
            ..self
        }
    }

    /// The panel's row that starts here.
    ///
    /// # Safety
    /// Its 16 elements must be valid for reads.
    #[inline(always)]
    pub(super) unsafe fn load(self) -> [f32; PANEL_COLUMNS] {
        // SAFETY: the caller's promise; an array is aligned as its elements.
        unsafe { self.start.cast::<[f32; PANEL_COLUMNS]>().read() }
    }

    /// Replaces the panel's row that starts here.
    ///
    /// # Safety
    /// Its 16 elements must be valid for writes.
    #[inline(always)]
    pub(super) unsafe fn store(self, sums: [f32; PANEL_COLUMNS]) {
        // SAFETY: the caller's promise; an array is aligned as its elements.
        unsafe { self.start.cast::<[f32; PANEL_COLUMNS]>().write(sums) }
    }
}

/// Some packed rows of `a` against a stretch of `b` along `k`.
pub(super) struct Block<'a> {
    first_row: usize,
    pub(super) rows: usize,
    pub(super) right: &'a PackedBf16,
    pub(super) depth_tiles: Range<usize>,
    pub(super) accumulate: bool,
}

impl Block<'_> {
    /// The block's stretch of a panel.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &[Tile] {
        self.right.panel(panel, self.depth_tiles.clone())
    }

    /// Multiplies with `panels`; the last one of `b` by way of scratch where it is not full.
    ///
    /// # Safety
    /// The level must be available, and `out` the place of the block's first row and of column 0, under the contract of
    /// [`multiply_panels_at`].
    unsafe fn run(
        &self,
        level: Level,
        panels: Range<usize>,
        out: Output,
        rows: &[Tile],
        Side { wide, edge }: &mut Side,
    ) {
        if matches!(level, Level::Portable | Level::Avx2) {
            widen(rows, self.rows, self.depth_tiles.len(), wide);
        }
        let full = panels.start..panels.end.min(self.right.n() / PANEL_COLUMNS);
        if !full.is_empty() {
            let out = out.at(0, full.start * PANEL_COLUMNS);
            // SAFETY: these panels' columns are all below `n`, so they are ours to write; the level is the caller's promise.
            unsafe { self.run_full(level, full.clone(), out, rows, wide) };
        }
        if full.end.max(full.start) == panels.end {
            return;
        }
        let last = panels.end - 1;
        let columns = self.right.n() - last * PANEL_COLUMNS;
        let out = out.at(0, last * PANEL_COLUMNS);
        edge.resize(self.rows, [0.0; PANEL_COLUMNS]);
        let place = Output {
            start: edge.as_mut_ptr().cast(),
            row_stride: PANEL_COLUMNS,
        };
        for row in 0..self.rows {
            // SAFETY: `edge` has that row, and `columns` of it are ours in `out`.
            unsafe {
                out.at(row, 0)
                    .start
                    .copy_to(place.at(row, 0).start, columns);
            };
        }
        // SAFETY: `edge` holds a panel's row for each row of the block.
        unsafe { self.run_full(level, last..panels.end, place, rows, wide) };
        for row in 0..self.rows {
            // SAFETY: as above.
            unsafe {
                place
                    .at(row, 0)
                    .start
                    .copy_to(out.at(row, 0).start, columns);
            };
        }
    }

    /// Multiplies with full panels.
    ///
    /// # Safety
    /// The block's rows at `out` must be ours to read and write for the width of the panels, and the level available.
    unsafe fn run_full(
        &self,
        level: Level,
        panels: Range<usize>,
        out: Output,
        rows: &[Tile],
        wide: &[Wide],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match level {
                Level::Portable => portable::run(self, wide, panels, out),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => super::avx2::run(self, wide, panels, out),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512Bf16 => super::avx512::run(self, rows, panels, out),
                #[cfg(target_arch = "x86_64")]
                Level::Amx => super::amx::run(self, rows, panels, out),
                #[cfg(not(target_arch = "x86_64"))]
                Level::Avx2 | Level::Avx512Bf16 | Level::Amx => {
                    unreachable!("{level:?} on another architecture, {} rows", rows.len())
                }
            }
        }
    }
}

/// The tiles of the block's row group `group` (16 rows).
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) fn row_group<'a>(rows: &'a [Tile], group: usize, block: &Block) -> &'a [Tile] {
    let depth_tiles = block.depth_tiles.len();
    &rows[group * depth_tiles..][..depth_tiles]
}

const _: () = assert!(PANEL_COLUMNS == LANES);
