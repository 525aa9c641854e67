//! Random matrices, in every layout that a view can have.

use crate::View;

/// A small deterministic generator (`SplitMix64`, Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }
}

/// Where a matrix's elements lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Rows,
    Columns,
    /// Rows with a gap after each.
    Gaps,
    /// Every third element, rows with a gap: contiguous in no direction.
    Scattered,
}

pub(crate) struct Matrix {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
    order: Order,
}

impl Matrix {
    pub(crate) fn random(random: &mut Random, rows: usize, columns: usize, order: Order) -> Self {
        let count = match order {
            Order::Rows | Order::Columns => rows * columns,
            Order::Gaps => rows * (columns + 5),
            Order::Scattered => rows * (3 * columns + 2),
        };
        Self {
            data: random.values(count),
            rows,
            columns,
            order,
        }
    }

    /// How far apart neighbours in a column, and in a row, lie.
    fn strides(&self) -> [usize; 2] {
        match self.order {
            Order::Rows => [self.columns, 1],
            Order::Columns => [1, self.rows],
            Order::Gaps => [self.columns + 5, 1],
            Order::Scattered => [3 * self.columns + 2, 3],
        }
    }

    /// Only what is written for one processor needs single elements.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn set(&mut self, row: usize, column: usize, value: f32) {
        let [row_stride, column_stride] = self.strides();
        self.data[row * row_stride + column * column_stride] = value;
    }

    pub(crate) fn view(&self) -> View<'_> {
        let [row_stride, column_stride] = self.strides();
        let Self {
            ref data,
            rows,
            columns,
            ..
        } = *self;
        View {
            data,
            rows,
            columns,
            row_stride,
            column_stride,
        }
    }
}
