//! The product's blocking, common to all levels.
#![allow(
    unsafe_code,
    reason = "threads write disjoint columns of one matrix, by instructions chosen at run time"
)]

use std::{cell::RefCell, marker::PhantomData, ops::Range};

use super::{
    Int8Level, PackedInt8, int8_level,
    lanes::{Lanes, Plain},
    pack::{DEPTH, LeftBlock, QUADS, RightBlock, round_rows},
};
#[cfg(target_arch = "x86_64")]
use super::{
    amx::AmxTiles,
    lanes::{Avx2, Vnni},
};
use crate::{
    PANEL, Start, View,
    product::{MOST_ROWS, Output, check, prefetch, share_panels},
};

/// Blocks along `k` that are gone through before the next panels: 24 KiB of two panels, which the first cache holds.
const MOST_BLOCKS: usize = 768 / DEPTH;

thread_local! {
    static ROWS: RefCell<Vec<LeftBlock>> = RefCell::default();
}

/// `c = a·b` or `c += a·b` on the calling thread: `a` `[m, k]`, `c` `[m, n]` in rows of `c_stride`.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply(a: View<'_>, b: &PackedInt8, c: &mut [f32], c_stride: usize, start: Start) {
    multiply_at(int8_level(), a, b, c, c_stride, start);
}

/// [`multiply`] at a given level.
///
/// # Panics
/// If the shapes do not fit or the level is not available.
pub(super) fn multiply_at(
    level: Int8Level,
    a: View<'_>,
    b: &PackedInt8,
    c: &mut [f32],
    c_stride: usize,
    start: Start,
) {
    with_rows(a, b, c, c_stride, start, false, |product| {
        // SAFETY: `c` is borrowed mutably and holds all rows and columns (checked).
        unsafe { product.run(level, 0..b.panels()) }
    });
}

/// The same with the columns split among rayon's threads.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply_shared(
    a: View<'_>,
    b: &PackedInt8,
    c: &mut [f32],
    c_stride: usize,
    start: Start,
) {
    with_rows(a, b, c, c_stride, start, true, |product| {
        share_panels(b.panels(), |panels| {
            // SAFETY: `c` is borrowed mutably for the whole call and holds all rows and columns (checked); each task
            // writes the columns of its own panels alone.
            unsafe { product.run(int8_level(), panels) }
        });
    });
}

/// Rounds the left side and has it multiplied.
fn with_rows(
    a: View<'_>,
    b: &PackedInt8,
    c: &mut [f32],
    c_stride: usize,
    start: Start,
    is_shared: bool,
    run: impl FnOnce(&Product<'_>),
) {
    check(&a, [b.k(), b.n()], c.len(), c_stride);
    // Taken and not borrowed: a thread that waits for others takes on other work, another product too.
    let mut rows = ROWS.take();
    round_rows(a, &mut rows, is_shared);
    run(&Product {
        rows: &rows,
        m: a.rows,
        right: b,
        out: Output::new(c, c_stride),
        start,
    });
    ROWS.set(rows);
}

/// A product whose left side is rounded.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) rows: &'a [LeftBlock],
    m: usize,
    pub(super) right: &'a PackedInt8,
    out: Output,
    start: Start,
}

impl Product<'_> {
    /// Multiplies with some panels.
    ///
    /// # Safety
    /// `out` holds all rows, whose columns of these panels no other thread touches.
    ///
    /// # Panics
    /// If the level is not available.
    unsafe fn run(&self, level: Int8Level, panels: Range<usize>) {
        assert!(level.is_available(), "{level:?} is not available");
        // SAFETY: the caller's promise, and the CPU has the level's instructions.
        unsafe {
            match level {
                Int8Level::Portable => plain(self, panels),
                #[cfg(target_arch = "x86_64")]
                Int8Level::Avx2 => avx2(self, panels),
                #[cfg(target_arch = "x86_64")]
                Int8Level::Avx512Vnni => vnni(self, panels),
                #[cfg(target_arch = "x86_64")]
                Int8Level::Amx => amx(self, panels),
                #[cfg(not(target_arch = "x86_64"))]
                Int8Level::Avx2 | Int8Level::Avx512Vnni | Int8Level::Amx => {
                    unreachable!("{level:?} on another architecture")
                }
            }
        }
    }

    /// Multiplies with some panels, `T::PANELS` at a time.
    ///
    /// # Safety
    /// As [`run`](Self::run), on a CPU with the instructions of `T`.
    #[inline(always)]
    unsafe fn panels<T: Tiles>(&self, mut kind: T, panels: Range<usize>) {
        for row in (0..self.m).step_by(MOST_ROWS) {
            let rows = row..self.m.min(row + MOST_ROWS);
            // SAFETY: the caller's promise.
            unsafe { self.rows(&mut kind, &rows, &panels) }
        }
    }

    /// The same for some rows.
    ///
    /// # Safety
    /// As [`panels`](Self::panels).
    #[inline(always)]
    unsafe fn rows<T: Tiles>(&self, kind: &mut T, rows: &Range<usize>, panels: &Range<usize>) {
        let depth = self.right.k().div_ceil(DEPTH);
        let mut start = self.start;
        // A product over nothing still writes its zeros.
        for first in (0..depth.max(1)).step_by(MOST_BLOCKS) {
            let blocks = first..depth.min(first + MOST_BLOCKS);
            let mut panel = panels.start;
            while panel < panels.end {
                let is_whole = panel + T::PANELS <= panels.end;
                let width = if is_whole { T::PANELS } else { 1 };
                let mut row = rows.start;
                let tiles = rows.len().div_ceil(T::ROWS);
                for tile in 0..tiles {
                    // Rows are shared out evenly: a last tile of one row would wait for its few sums.
                    let count = (rows.end - row).div_ceil(tiles - tile);
                    let place = Place {
                        row,
                        is_first: tile == 0,
                        panel,
                        blocks: blocks.clone(),
                        depth,
                        start,
                    };
                    // SAFETY: the caller's promise, for these rows and panels.
                    unsafe { kind.tile(self, [count, width], &place) }
                    row += count;
                }
                panel += width;
            }
            // What is there is now the sum so far.
            start = Start::Existing;
        }
    }

    /// `ROWS` rows by `PANELS` panels over some blocks, by vectors.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize, const PANELS: usize>(&self, place: &Place) {
        // Loops rather than `array::from_fn`, whose closures would not be compiled for the instructions of `L`.
        let count = place.blocks.len();
        let mut left: [&[LeftBlock]; ROWS] = [&[]; ROWS];
        for (r, left) in left.iter_mut().enumerate() {
            let first = (place.row + r) * place.depth + place.blocks.start;
            *left = &self.rows[first..][..count];
        }
        let mut right: [&[RightBlock]; PANELS] = [&[]; PANELS];
        for (p, right) in right.iter_mut().enumerate() {
            *right = &self.right.panel(place.panel + p)[place.blocks.clone()];
        }
        // The panels after these are fetched from memory meanwhile.
        let mut coming = right;
        for (p, coming) in coming.iter_mut().enumerate() {
            let next = place.panel + PANELS + p;
            if next < self.right.panels() {
                *coming = &self.right.panel(next)[place.blocks.clone()];
            }
        }
        // SAFETY: the CPU has the instructions of `L` (the caller's promise), here and below.
        let mut sums = unsafe { [[L::load(&[0.0; PANEL]); PANELS]; ROWS] };
        for (r, sums) in sums.iter_mut().enumerate() {
            for (p, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise for these rows and panels.
                *sums = unsafe { L::load(&self.start(place, place.row + r, place.panel + p)) };
            }
        }
        for block in 0..count {
            let mut ints = [[unsafe { L::start(0) }; PANELS]; ROWS];
            for (ints, left) in ints.iter_mut().zip(&left) {
                *ints = [unsafe { L::start(left[block].start) }; PANELS];
            }
            for quad in 0..QUADS {
                if place.is_first {
                    for coming in &coming {
                        prefetch(&raw const coming[block].lines[quad]);
                    }
                }
                for (ints, left) in ints.iter_mut().zip(&left) {
                    let x = left[block].quads[quad];
                    for (ints, right) in ints.iter_mut().zip(&right) {
                        *ints = unsafe { L::dot(*ints, &right[block].lines[quad], x) };
                    }
                }
            }
            for ((sums, ints), left) in sums.iter_mut().zip(&ints).zip(&left) {
                for ((sums, ints), right) in sums.iter_mut().zip(ints).zip(&right) {
                    let (scales, scale) = (&right[block].scales, left[block].scale);
                    *sums = unsafe { L::add(*sums, *ints, scales, scale) };
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (p, sums) in sums.iter().enumerate() {
                let sums = unsafe { L::store(*sums) };
                // SAFETY: the caller's promise for these rows and panels.
                let cells = unsafe { self.cells(place.row + r, place.panel + p) };
                cells.copy_from_slice(&sums[..cells.len()]);
            }
        }
    }

    /// What a row's sums in a panel start from.
    ///
    /// # Safety
    /// As [`cells`](Self::cells).
    #[inline(always)]
    pub(super) unsafe fn start(&self, place: &Place, row: usize, panel: usize) -> [f32; PANEL] {
        let mut edge = [0.0; PANEL];
        if place.start == Start::Existing {
            // SAFETY: the caller's promise.
            let cells = unsafe { self.cells(row, panel) };
            edge[..cells.len()].copy_from_slice(cells);
        }
        edge
    }

    /// A row's columns of a panel.
    ///
    /// # Safety
    /// The output holds them, and they are this thread's alone while the slice lives.
    #[inline(always)]
    pub(super) unsafe fn cells<'a>(&self, row: usize, panel: usize) -> &'a mut [f32] {
        let from = panel * PANEL;
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.out.at(row, from);
            std::slice::from_raw_parts_mut(at, PANEL.min(self.right.n() - from))
        }
    }
}

/// Where a tile lies.
pub(super) struct Place {
    pub(super) row: usize,
    /// Of a panel's tiles: the one during which the coming panels are fetched.
    pub(super) is_first: bool,
    pub(super) panel: usize,
    /// Of the sum.
    pub(super) blocks: Range<usize>,
    /// Blocks of a whole sum.
    pub(super) depth: usize,
    pub(super) start: Start,
}

/// How tiles of a product are computed.
pub(super) trait Tiles {
    /// Most rows of a tile.
    const ROWS: usize;
    /// Panels of a tile.
    const PANELS: usize;

    /// Some rows by [`PANELS`](Self::PANELS) panels, or by one.
    ///
    /// # Safety
    /// The output holds these rows and panels, which no other thread touches, and the CPU has the instructions.
    unsafe fn tile(&mut self, product: &Product<'_>, rows_panels: [usize; 2], place: &Place);
}

/// Tiles by vectors.
struct Vectors<L>(PhantomData<L>);

impl<L: Lanes> Vectors<L> {
    #[inline(always)]
    unsafe fn rows<const PANELS: usize>(product: &Product<'_>, rows: usize, place: &Place) {
        // SAFETY: the contract of `Tiles`. What no level asks for is not compiled for it.
        unsafe {
            match rows.min(L::ROWS) {
                1 => product.tile::<L, 1, PANELS>(place),
                2 => product.tile::<L, 2, PANELS>(place),
                3 if L::ROWS >= 3 => product.tile::<L, 3, PANELS>(place),
                4 if L::ROWS >= 4 => product.tile::<L, 4, PANELS>(place),
                5 if L::ROWS >= 5 => product.tile::<L, 5, PANELS>(place),
                _ if L::ROWS >= 6 => product.tile::<L, 6, PANELS>(place),
                _ => unreachable!("tiles have at most {} rows", L::ROWS),
            }
        }
    }
}

impl<L: Lanes> Tiles for Vectors<L> {
    const ROWS: usize = L::ROWS;
    const PANELS: usize = L::PANELS;

    #[inline(always)]
    unsafe fn tile(&mut self, product: &Product<'_>, [rows, panels]: [usize; 2], place: &Place) {
        // SAFETY: the contract of the trait.
        unsafe {
            if L::PANELS == 2 && panels == 2 {
                Self::rows::<2>(product, rows, place);
            } else {
                Self::rows::<1>(product, rows, place);
            }
        }
    }
}

/// Plain code, compiled for the vector instructions that this CPU has.
///
/// # Safety
/// As [`Product::run`].
unsafe fn plain(product: &Product<'_>, panels: Range<usize>) {
    struct Task<'a>(Product<'a>, Range<usize>);
    impl pulp::WithSimd for Task<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) {
            // SAFETY: the promise of whoever calls `plain`, which alone makes a task; plain code asks nothing of a CPU.
            unsafe { self.0.panels(Vectors::<Plain>(PhantomData), self.1) }
        }
    }
    pulp::Arch::new().dispatch(Task(*product, panels));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(product: &Product<'_>, panels: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { product.panels(Vectors::<Avx2>(PhantomData), panels) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni,fma")]
unsafe fn vnni(product: &Product<'_>, panels: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { product.panels(Vectors::<Vnni>(PhantomData), panels) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
unsafe fn amx(product: &Product<'_>, panels: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { product.panels(AmxTiles::default(), panels) }
}
