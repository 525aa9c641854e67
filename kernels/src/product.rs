//! Matrix products with a packed right-hand side, and general ones by the `gemm` crate.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::{PANEL, Panels, View, matrix::holds};

/// What a product starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Zero: the product replaces what is there.
    Zero,
    /// What is there: a bias, or another product.
    Existing,
}

/// Rows of a tile: with a panel's two AVX2 registers each, or two panels' AVX-512 registers, twelve sums in flight. More
/// rows would fit into AVX-512's registers, and yet be slower: where rows lie a multiple of 4 KiB apart they share one set
/// of the first cache, which has eight lines.
const TILE_ROWS: usize = 6;
/// Elements of a sum that are gone through before the next panel's: two panels' rows, 24 KiB, stay in the first cache for all
/// tiles, and the left side in the second.
const MOST_DEPTH: usize = 192;
/// Rows that are gone through before the next ones: what they are multiplied from stays in the second cache.
pub(crate) const MOST_ROWS: usize = 96;
/// Steps of a sum between which lines are fetched.
const STEPS: usize = 8;
/// Fewest panels of a shared product's task, and the most tasks for each thread: threads that end early find others.
const LEAST_PANELS: usize = 2;
const TASKS_PER_THREAD: usize = 32;

/// `c = a·b` or `c += a·b` on the calling thread: `a` `[m, k]`, `c` `[m, n]` in rows of `c_stride`.
///
/// Each element is one chain of fused multiply-adds in the order of k, whatever m is.
///
/// # Panics
/// If the shapes do not fit.
pub fn multiply(a: View<'_>, b: Panels<'_>, c: &mut [f32], c_stride: usize, start: Start) {
    check(&a, [b.k, b.n], c.len(), c_stride);
    let out = Output::new(c, c_stride);
    // SAFETY: `c` is borrowed mutably and holds all rows and columns (checked).
    unsafe { part(&a, b, [0..a.rows, 0..b.count()], out, start) }
}

/// Runs work on one of rayon's threads, from where parallel parts start without waking anyone.
pub fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// [`multiply`] with rows and columns split among rayon's threads.
///
/// # Panics
/// As [`multiply`].
pub fn multiply_shared(a: View<'_>, b: Panels<'_>, c: &mut [f32], c_stride: usize, start: Start) {
    check(&a, [b.k, b.n], c.len(), c_stride);
    let out = Output::new(c, c_stride);
    // Rows that are gone through together belong to one task.
    let parts = a.rows.div_ceil(MOST_ROWS);
    let each = (parts * b.count())
        .div_ceil(TASKS_PER_THREAD * rayon::current_num_threads())
        .next_multiple_of(LEAST_PANELS);
    let tasks = b.count().div_ceil(each.max(1));
    (0..parts * tasks).into_par_iter().for_each(|task| {
        let (row, panel) = (task / tasks * MOST_ROWS, task % tasks * each);
        let place = [
            row..a.rows.min(row + MOST_ROWS),
            panel..b.count().min(panel + each),
        ];
        // SAFETY: `c` is borrowed mutably for the whole call and holds all rows and columns (checked); each task writes
        // its own rows and the columns of its own panels alone.
        unsafe { part(&a, b, place, out, start) }
    });
}

/// Runs work on rayon's threads for all panels of a matrix, some of them at a time: tasks are few, and yet threads that end
/// early find others.
pub(crate) fn share_panels(panels: usize, work: impl Fn(std::ops::Range<usize>) + Sync) {
    const LEAST_PANELS: usize = 4;
    const TASKS_PER_THREAD: usize = 4;
    let tasks = TASKS_PER_THREAD * rayon::current_num_threads();
    let each = panels.div_ceil(tasks).max(1);
    let each = each.next_multiple_of(LEAST_PANELS);
    let tasks = panels.div_ceil(each);
    (0..tasks)
        .into_par_iter()
        .for_each(|task| work(task * each..panels.min((task + 1) * each)));
}

/// That `a` times a `[k, n]` matrix is defined, and fits into `c_len` elements in rows of `c_stride`.
///
/// # Panics
/// If not.
pub(crate) fn check(a: &View<'_>, [k, n]: [usize; 2], c_len: usize, c_stride: usize) {
    let [rows, depth] = a.dims();
    assert_eq!(depth, k, "[{rows}, {depth}] times [{k}, {n}]");
    assert!(
        c_stride >= n && holds(c_len, rows, c_stride, n),
        "[{rows}, {n}] by {c_stride} in {c_len} elements"
    );
}

/// Where tiles are written.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    data: *mut f32,
    stride: usize,
}

impl Output {
    pub(crate) fn new(cells: &mut [f32], stride: usize) -> Self {
        Self {
            data: cells.as_mut_ptr(),
            stride,
        }
    }

    /// The place of an element, which need not be there.
    #[inline(always)]
    pub(crate) fn at(self, row: usize, column: usize) -> *mut f32 {
        self.data.wrapping_add(row * self.stride + column)
    }
}

// SAFETY: a plain address; whoever writes through it sees to it that no two threads write the same element.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// Some rows and panels of a product.
///
/// # Safety
/// `out` holds these rows, whose columns of these panels no other thread touches.
unsafe fn part(
    a: &View<'_>,
    b: Panels<'_>,
    [rows, range]: [std::ops::Range<usize>; 2],
    out: Output,
    start: Start,
) {
    Arch::new().dispatch(Product {
        a: *a,
        b,
        rows,
        range,
        out,
        start,
        depth: 0..0,
    });
}

struct Product<'a> {
    a: View<'a>,
    b: Panels<'a>,
    rows: std::ops::Range<usize>,
    range: std::ops::Range<usize>,
    out: Output,
    start: Start,
    /// The rows of `b`, and columns of `a`, that are being summed over.
    depth: std::ops::Range<usize>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, 1, 2>(simd),
            8 => self.run::<S, 2, 1>(simd),
            4 => self.run::<S, 4, 1>(simd),
            _ => self.run::<S, 16, 1>(simd),
        }
    }
}

impl Product<'_> {
    /// `VECTORS` make a panel, and `PANELS` are gone through together.
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize, const PANELS: usize>(mut self, simd: S) {
        // What reads panels without a look at their bounds rests on it.
        assert_eq!(S::F32_LANES * VECTORS, PANEL);
        let parts = self.b.k.div_ceil(MOST_DEPTH).max(1);
        let depth = self.b.k.div_ceil(parts);
        let whole = self.range.len() / PANELS * PANELS;
        let rest = self.range.start + whole..self.range.end;
        let start = self.start;
        for row in self.rows.clone().step_by(MOST_ROWS) {
            let rows = row..self.rows.end.min(row + MOST_ROWS);
            self.start = start;
            for part in 0..parts {
                self.depth = part * depth..((part + 1) * depth).min(self.b.k);
                for panel in (self.range.start..rest.start).step_by(PANELS) {
                    self.panels::<S, VECTORS, PANELS>(simd, &rows, panel);
                }
                for panel in rest.clone() {
                    self.panels::<S, VECTORS, 1>(simd, &rows, panel);
                }
                // What is there is now the sum so far: the order of the sum is that of k all the same.
                self.start = Start::Existing;
            }
        }
    }

    #[inline(always)]
    fn panels<S: Simd, const VECTORS: usize, const PANELS: usize>(
        &self,
        simd: S,
        rows: &std::ops::Range<usize>,
        panel: usize,
    ) {
        let tiles = rows.len().div_ceil(TILE_ROWS);
        let mut row = rows.start;
        for tile in 0..tiles {
            // Rows are shared out evenly: a last tile of one row would wait for its few sums.
            let count = (rows.end - row).div_ceil(tiles - tile);
            let place = Place {
                row,
                panel,
                tile,
                tiles,
            };
            macro_rules! tile {
                ($rows:literal) => {
                    self.tile::<S, VECTORS, PANELS, $rows>(simd, place)
                };
            }
            match count {
                1 => tile!(1),
                2 => tile!(2),
                3 => tile!(3),
                4 => tile!(4),
                5 => tile!(5),
                _ => tile!(6),
            }
            row += count;
        }
    }

    /// `ROWS` rows times `PANELS` panels; meanwhile a share of the panels after them is fetched from memory.
    #[inline(always)]
    fn tile<S: Simd, const VECTORS: usize, const PANELS: usize, const ROWS: usize>(
        &self,
        simd: S,
        place: Place,
    ) {
        let Place { row, panel, .. } = place;
        let k = self.depth.len();
        let (line, step) = (self.a.row_stride, self.a.column_stride);
        let mut left = self.a.data.as_ptr();
        // Rows of no elements have no place.
        if k > 0 {
            let first = row * line + self.depth.start * step;
            assert!(
                first + (ROWS - 1) * line + (k - 1) * step < self.a.data.len(),
                "the view holds its rows"
            );
            left = left.wrapping_add(first);
        }
        let mut sums = [[[simd.splat_f32s(0.0); VECTORS]; PANELS]; ROWS];
        let cells = |r: usize, p: usize| {
            let from = (panel + p) * PANEL;
            // SAFETY: the row lies in the output, and these columns belong to this call alone (contract of `part`).
            unsafe {
                let at = self.out.at(row + r, from);
                std::slice::from_raw_parts_mut(at, PANEL.min(self.b.n - from))
            }
        };
        if self.start == Start::Existing {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (p, sums) in sums.iter_mut().enumerate() {
                    load::<S, VECTORS>(cells(r, p), sums);
                }
            }
        }
        let right: [&[f32]; PANELS] = std::array::from_fn(|p| self.b.rows(panel + p, &self.depth));
        let mut right = right.map(|right| S::as_simd_f32s(right).0.as_ptr());
        // Each tile fetches its share of the panels after these.
        let share = place.tile * k / place.tiles;
        let mut coming: [*const f32; PANELS] = std::array::from_fn(|p| {
            let next = panel + PANELS + p;
            let next = if next < self.b.count() { next } else { panel };
            let rows = self.b.rows(next, &self.depth).as_ptr();
            rows.wrapping_add(share * PANEL)
        });
        let lines = STEPS.div_ceil(place.tiles);
        for _ in 0..k / STEPS {
            for _ in 0..lines {
                for line in &mut coming {
                    prefetch(*line);
                    *line = line.wrapping_add(PANEL);
                }
            }
            // SAFETY: each panel has k rows, and each row of `a` k elements (asserted).
            unsafe { steps(simd, STEPS, &mut left, [line, step], &mut right, &mut sums) };
        }
        // SAFETY: as above.
        unsafe {
            steps(
                simd,
                k % STEPS,
                &mut left,
                [line, step],
                &mut right,
                &mut sums,
            );
        };
        for (r, sums) in sums.iter().enumerate() {
            for (p, sums) in sums.iter().enumerate() {
                store::<S, VECTORS>(sums, cells(r, p));
            }
        }
    }
}

/// Adds some steps of a tile's sums.
///
/// # Safety
/// `left` begins that many steps of as many rows, `right` as many rows of panels.
#[inline(always)]
unsafe fn steps<S: Simd, const VECTORS: usize, const PANELS: usize, const ROWS: usize>(
    simd: S,
    count: usize,
    left: &mut *const f32,
    [line, step]: [usize; 2],
    right: &mut [*const S::f32s; PANELS],
    sums: &mut [[[S::f32s; VECTORS]; PANELS]; ROWS],
) {
    for _ in 0..count {
        let mut b = [[simd.splat_f32s(0.0); VECTORS]; PANELS];
        for (b, right) in b.iter_mut().zip(right.iter_mut()) {
            for (v, b) in b.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *b = unsafe { *right.wrapping_add(v) };
            }
            *right = right.wrapping_add(VECTORS);
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let x = simd.splat_f32s(unsafe { *left.wrapping_add(r * line) });
            for (b, sums) in b.iter().zip(sums) {
                for (b, sum) in b.iter().zip(sums) {
                    *sum = simd.mul_add_e_f32s(x, *b, *sum);
                }
            }
        }
        *left = left.wrapping_add(step);
    }
}

/// A panel's row, or the beginning of one.
#[inline(always)]
fn load<S: Simd, const VECTORS: usize>(cells: &[f32], sums: &mut [S::f32s; VECTORS]) {
    if cells.len() == PANEL {
        return sums.copy_from_slice(S::as_simd_f32s(cells).0);
    }
    let mut edge = [0.0; PANEL];
    edge[..cells.len()].copy_from_slice(cells);
    sums.copy_from_slice(S::as_simd_f32s(&edge).0);
}

#[inline(always)]
fn store<S: Simd, const VECTORS: usize>(sums: &[S::f32s; VECTORS], cells: &mut [f32]) {
    if cells.len() == PANEL {
        return S::as_mut_simd_f32s(cells).0.copy_from_slice(sums);
    }
    let mut edge = [0.0; PANEL];
    S::as_mut_simd_f32s(&mut edge).0.copy_from_slice(sums);
    cells.copy_from_slice(&edge[..cells.len()]);
}

/// Where a tile lies, and which of a panel's tiles it is.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    panel: usize,
    tile: usize,
    tiles: usize,
}

/// Has a line of memory fetched into the second cache.
#[inline(always)]
pub(crate) fn prefetch<T>(line: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: prefetching reads nothing that a program can see, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// `c = a·b` or `c += a·b` for any strides, by the `gemm` crate on rayon's threads.
///
/// # Panics
/// If the shapes do not fit.
pub fn general(a: View<'_>, b: View<'_>, c: &mut [f32], c_stride: usize, start: Start) {
    let ([m, k], [b_rows, n]) = (a.dims(), b.dims());
    assert_eq!(k, b_rows, "[{m}, {k}] times [{b_rows}, {n}]");
    assert!(
        c_stride >= n && holds(c.len(), m, c_stride, n),
        "[{m}, {n}] by {c_stride} in {} elements",
        c.len()
    );
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the views' constructors and the assertions above bound every element that these strides reach.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            start == Start::Existing,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}
