//! Matrices as the kernels read them: strided views, and right-hand sides packed in panels.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Columns of a panel.
pub const PANEL: usize = 16;
/// Elements from which packing a matrix is shared among threads.
pub(crate) const SHARED_ELEMENTS: usize = 1 << 18;

/// Whether `lines` runs of `width` elements, `stride` apart, lie within `len`; no shape is too large to ask for.
pub(crate) fn holds(len: usize, lines: usize, stride: usize, width: usize) -> bool {
    let reach = |last: usize| last.checked_mul(stride)?.checked_add(width);
    let needed = lines.checked_sub(1).map_or(Some(0), reach);
    needed.is_some_and(|needed| needed <= len)
}

/// Elements that begin with a line of the caches, so that each row of a panel is one: a vector read across two lines takes
/// twice as long.
///
/// Allocated as any others are and begun where a line does, for allocators put aligned blocks where they fit badly.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    cells: Vec<f32>,
    start: usize,
}

/// Bytes of a line.
const LINE: usize = PANEL * size_of::<f32>();

impl Lines {
    pub(crate) fn zeros(len: usize) -> Self {
        let mut cells = vec![0.0; len + PANEL - 1];
        let start = line_start(cells.as_ptr());
        cells.truncate(start + len);
        Self { cells, start }
    }

    /// Grows to `len` elements; new ones are zeros.
    pub(crate) fn grow(&mut self, len: usize) {
        let mut grown = Self::zeros(len);
        grown[..self.len()].copy_from_slice(self);
        *self = grown;
    }

    /// `len` elements that `fill` writes.
    ///
    /// # Safety
    /// `fill` must write each of them.
    unsafe fn filled(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Self {
        let mut cells = Vec::with_capacity(len + PANEL - 1);
        let start = line_start(cells.as_ptr());
        cells.resize(start, 0.0);
        fill(&mut cells.spare_capacity_mut()[..len]);
        // SAFETY: those before `start` are zeros, and the caller promises the others.
        unsafe { cells.set_len(start + len) };
        Self { cells, start }
    }
}

/// Elements from here to where a line begins.
fn line_start(cells: *const f32) -> usize {
    (LINE - cells.addr() % LINE) % LINE / size_of::<f32>()
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl std::ops::Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.cells[self.start..]
    }
}

impl std::ops::DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.cells[self.start..]
    }
}

/// A strided view: element (r, c) is `data[r * row_stride + c * column_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix whose rows begin `stride` elements apart.
    ///
    /// # Panics
    /// If `data` is too short for the shape.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        let lines = if columns == 0 { 0 } else { rows };
        assert!(
            holds(data.len(), lines, stride, columns),
            "[{rows}, {columns}] by {stride} in {} elements",
            data.len()
        );
        Self {
            data,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// A row-major matrix without gaps.
    ///
    /// # Panics
    /// If `data` is not a whole number of rows.
    pub fn dense(data: &'a [f32], columns: usize) -> Self {
        assert_eq!(
            data.len() % columns,
            0,
            "{} elements in rows of {columns}",
            data.len()
        );
        Self::new(data, data.len() / columns, columns, columns)
    }

    /// The same elements with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Some of its rows and columns.
    ///
    /// # Panics
    /// If either range leaves the view.
    #[must_use]
    pub fn part(self, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Self {
        assert!(
            rows.end <= self.rows && columns.end <= self.columns,
            "{rows:?} x {columns:?} of {} x {}",
            self.rows,
            self.columns
        );
        let start = rows.start * self.row_stride + columns.start * self.column_stride;
        Self {
            data: self.data.get(start..).unwrap_or_default(),
            rows: rows.len(),
            columns: columns.len(),
            ..self
        }
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }
}

/// A right-hand matrix `[k, n]` in panels of [`PANEL`] columns, each panel row by row, zeros past the last column.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    pub(crate) k: usize,
    pub(crate) n: usize,
    data: Lines,
}

impl Packed {
    /// Packs a matrix.
    pub fn new(view: View<'_>) -> Self {
        Self::beside(&[view])
    }

    /// Packs matrices with the same rows side by side.
    ///
    /// # Panics
    /// If the rows differ, or a matrix but the last has columns that do not fill whole panels.
    pub fn beside(views: &[View<'_>]) -> Self {
        let k = views.first().map_or(0, |view| view.rows);
        let n: usize = views.iter().map(|view| view.columns).sum();
        let len = n.div_ceil(PANEL) * PANEL * k;
        // SAFETY: the elements are split among the matrices without a rest (asserted), and `fill_panel` writes each of
        // its own.
        let data = unsafe { Lines::filled(len, |cells| fill_panels(views, k, cells)) };
        Self { k, n, data }
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        [self.k, self.n]
    }

    /// The whole matrix as panels.
    pub fn panels(&self) -> Panels<'_> {
        Panels {
            data: &self.data,
            k: self.k,
            n: self.n,
            stride: self.k * PANEL,
        }
    }
}

/// Matrices with `k` rows side by side, each with its own panels of a packed one: `size` cells a panel.
///
/// # Panics
/// If the rows differ, or a matrix but the last has columns that do not fill whole panels, or there are more cells.
pub(crate) fn side_by_side<'v, 'c, T>(
    views: &[View<'v>],
    k: usize,
    size: usize,
    cells: &'c mut [T],
) -> Vec<(View<'v>, &'c mut [T])> {
    let mut parts = Vec::with_capacity(views.len());
    let mut rest = cells;
    for (index, view) in views.iter().enumerate() {
        assert_eq!(view.rows, k, "matrices side by side have the same rows");
        assert!(
            index + 1 == views.len() || view.columns.is_multiple_of(PANEL),
            "{} columns beside others",
            view.columns
        );
        let panels;
        (panels, rest) = rest.split_at_mut(view.columns.div_ceil(PANEL) * size);
        parts.push((*view, panels));
    }
    assert!(rest.is_empty(), "the matrices make up all panels");
    parts
}

/// The panels of matrices with `k` rows side by side, every element of them.
///
/// # Panics
/// As [`side_by_side`].
fn fill_panels(views: &[View<'_>], k: usize, cells: &mut [MaybeUninit<f32>]) {
    let size = PANEL * k;
    for (view, panels) in side_by_side(views, k, size, cells) {
        if panels.is_empty() {
            continue;
        }
        let fill = |(index, panel): (usize, &mut [MaybeUninit<f32>])| {
            fill_panel(&view, index * PANEL, panel);
        };
        if panels.len() < SHARED_ELEMENTS {
            panels.chunks_exact_mut(size).enumerate().for_each(fill);
        } else {
            panels.par_chunks_exact_mut(size).enumerate().for_each(fill);
        }
    }
}

/// The panel of the columns from `start` on, every element of it.
fn fill_panel(view: &View<'_>, start: usize, panel: &mut [MaybeUninit<f32>]) {
    let width = PANEL.min(view.columns - start);
    let (lines, _) = panel.as_chunks_mut::<PANEL>();
    if view.column_stride == 1 {
        for (row, line) in lines.iter_mut().enumerate() {
            let source = &view.data[row * view.row_stride + start..][..width];
            // A copy of known length is a few instructions, and most panels are full.
            if let Ok(source) = <&[f32; PANEL]>::try_from(source) {
                *line = source.map(MaybeUninit::new);
            } else {
                line[..width].write_copy_of_slice(source);
                line[width..].fill(MaybeUninit::new(0.0));
            }
        }
        return;
    }
    for column in 0..width {
        let from = (start + column) * view.column_stride;
        let cells = lines.iter_mut().map(|line| &mut line[column]);
        if view.row_stride == 1 {
            let source = &view.data[from..from + view.rows];
            cells.zip(source).for_each(|(cell, &x)| {
                cell.write(x);
            });
        } else {
            let source = view.data[from..].iter().step_by(view.row_stride);
            let mut pairs = cells.zip(source);
            let written = pairs.by_ref().map(|(cell, &x)| cell.write(x)).count();
            assert_eq!(written, view.rows, "a view reaches as far as its shape");
        }
    }
    for line in lines {
        line[width..].fill(MaybeUninit::new(0.0));
    }
}

/// Panels of [`PANEL`] columns that begin `stride` elements apart: a packed matrix, or the corner of one.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    data: &'a [f32],
    pub(crate) k: usize,
    pub(crate) n: usize,
    stride: usize,
}

impl<'a> Panels<'a> {
    /// Panels in a buffer of one's own.
    ///
    /// # Panics
    /// If the buffer is too short.
    pub fn new(data: &'a [f32], k: usize, n: usize, stride: usize) -> Self {
        assert!(
            holds(data.len(), n.div_ceil(PANEL), stride, k * PANEL),
            "[{k}, {n}] in panels by {stride} in {} elements",
            data.len()
        );
        Self { data, k, n, stride }
    }

    /// The first `k` rows.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn first_rows(self, k: usize) -> Self {
        assert!(k <= self.k, "{k} of {} rows", self.k);
        Self { k, ..self }
    }

    /// The first `n` columns.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn first_columns(self, n: usize) -> Self {
        assert!(n <= self.n, "{n} of {} columns", self.n);
        Self { n, ..self }
    }

    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Some rows of a panel.
    pub(crate) fn rows(&self, panel: usize, rows: &std::ops::Range<usize>) -> &'a [f32] {
        &self.data[panel * self.stride + rows.start * PANEL..][..rows.len() * PANEL]
    }
}
