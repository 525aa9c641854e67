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
    pub(crate) data: Vec<f32>,
}

impl Packed {
    /// Packs a matrix.
    pub fn new(view: View<'_>) -> Self {
        let mut packed = Self::default();
        packed.pack(&[view]);
        packed
    }

    /// Packs matrices with the same rows side by side, keeping the allocation.
    ///
    /// # Panics
    /// If the rows differ, or a matrix but the last has columns that do not fill whole panels.
    pub fn pack(&mut self, views: &[View<'_>]) {
        self.k = views[0].rows;
        self.n = views.iter().map(|view| view.columns).sum();
        self.data.clear();
        if self.k == 0 {
            return;
        }
        let len = self.n.div_ceil(PANEL) * PANEL * self.k;
        self.data.reserve(len);
        let mut rest = &mut self.data.spare_capacity_mut()[..len];
        for (index, view) in views.iter().enumerate() {
            assert_eq!(
                view.rows, self.k,
                "matrices side by side have the same rows"
            );
            let is_last = index + 1 == views.len();
            assert!(
                is_last || view.columns.is_multiple_of(PANEL),
                "{} columns beside others",
                view.columns
            );
            let panels;
            (panels, rest) = rest.split_at_mut(view.columns.div_ceil(PANEL) * PANEL * self.k);
            let size = PANEL * self.k;
            let fill = |(index, panel): (usize, &mut [MaybeUninit<f32>])| {
                fill_panel(view, index * PANEL, panel);
            };
            if panels.len() < SHARED_ELEMENTS {
                panels.chunks_exact_mut(size).enumerate().for_each(fill);
            } else {
                panels.par_chunks_exact_mut(size).enumerate().for_each(fill);
            }
        }
        assert!(rest.is_empty(), "the matrices make up all panels");
        // SAFETY: the elements were split among the matrices without a rest, and `fill_panel` writes each of its own.
        unsafe { self.data.set_len(len) }
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
