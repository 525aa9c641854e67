//! Low-rank adapters of a block's matrices: W + s·A·B (LoRA, arXiv 2106.09685).

use std::{borrow::Cow, ops::Range};

use burn::{
    backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor},
    tensor::Tensor,
};
use kernels::{Compute, Start, View, in_pool, product};

use super::operation::{Cells, cells, tensor};

/// What the CPU alone does, for burn's dispatch.
#[backend_extension(Flex)]
trait MergeOps: Backend {
    /// W + s·A·B.
    fn merged(
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;
}

impl MergeOps for Flex {
    fn merged(weight: Cells, a: Cells, b: Cells, scale: f32) -> Cells {
        let [weight, a, b] = [weight, a, b].map(|x| x.to_contiguous());
        let [[_, rank], [_, outputs]] = [&a, &b].map(|x| x.layout().shape().dims::<2>());
        let low_rank = LowRank {
            a: cells(&a),
            b: cells(&b),
            rank,
            scale,
        };
        let merged = in_pool(|| low_rank.merged(cells(&weight), outputs));
        tensor(merged, weight.layout().shape().clone())
    }
}

/// A weight `[inputs, outputs]` on the CPU in f32 with its adapter of two factors, as a block's operation merges them.
pub(in crate::model) fn merged(weight: Tensor<2>, [a, b]: [Tensor<2>; 2], scale: f32) -> Tensor<2> {
    let [weight, a, b] = [weight, a, b].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as MergeOps>::merged(weight, a, b, scale))
}

/// Which of a block's seven matrices have adapters, and where their factors lie in the one vector that holds them all.
#[derive(Debug, Clone, Default)]
pub(in crate::model) struct Adapters {
    places: [Option<Place>; 7],
    /// The vector's length.
    pub(super) len: usize,
}

#[derive(Debug, Clone)]
struct Place {
    a: Range<usize>,
    b: Range<usize>,
    rank: usize,
    scale: f32,
}

impl Adapters {
    /// Puts the factors of a matrix, `[inputs, rank]` and `[rank, outputs]`, behind those of the matrices before it.
    pub(in crate::model) fn push(
        &mut self,
        index: usize,
        [inputs, rank, outputs]: [usize; 3],
        scale: f32,
    ) {
        let mut take = |count: usize| {
            self.len += count;
            self.len - count..self.len
        };
        let (a, b) = (take(inputs * rank), take(rank * outputs));
        self.places[index] = Some(Place { a, b, rank, scale });
    }

    /// Where both factors of a matrix lie; nowhere without an adapter.
    pub(super) fn range(&self, index: usize) -> Range<usize> {
        let place = self.places[index].as_ref();
        place.map_or(0..0, |place| place.a.start..place.b.end)
    }

    pub(super) fn low_rank<'a>(&self, factors: &'a [f32], index: usize) -> Option<LowRank<'a>> {
        let place = self.places[index].as_ref()?;
        Some(LowRank {
            a: &factors[place.a.clone()],
            b: &factors[place.b.clone()],
            rank: place.rank,
            scale: place.scale,
        })
    }
}

/// The factors of one matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct LowRank<'a> {
    /// `[inputs, rank]`.
    pub(super) a: &'a [f32],
    /// `[rank, outputs]`.
    pub(super) b: &'a [f32],
    pub(super) rank: usize,
    pub(super) scale: f32,
}

impl LowRank<'_> {
    /// W + s·A·B, in f32 whatever products are rounded to: all that multiplies with the matrix takes it from here, so that
    /// decoding and training have the same bits.
    pub(super) fn merged(self, weight: &[f32], columns: usize) -> Vec<f32> {
        let mut sum = weight.to_vec();
        let scaled: Vec<f32> = self.a.iter().map(|a| a * self.scale).collect();
        let (a, b) = (
            View::dense(&scaled, self.rank),
            View::dense(self.b, columns),
        );
        product(Compute::F32, a, b, &mut sum, Start::Existing);
        sum
    }

    /// The gradients of both factors, one after the other, where that of the matrix would be leftᵀ·right, which is
    /// not computed.
    pub(super) fn gradient(self, left: View<'_>, right: View<'_>, gradient: &mut [f32]) {
        let [tokens, _] = left.dims();
        let [_, columns] = right.dims();
        let (of_a, of_b) = gradient.split_at_mut(self.a.len());
        let scaled_product = |x: View<'_>, factor: View<'_>| {
            let mut y = vec![0.0; tokens * self.rank];
            product(Compute::F32, x, factor, &mut y, Start::Zero);
            for y in &mut y {
                *y *= self.scale;
            }
            y
        };
        let (a, b) = (View::dense(self.a, self.rank), View::dense(self.b, columns));
        let back = scaled_product(right, b.transposed());
        let back = View::dense(&back, self.rank);
        product(Compute::F32, left.transposed(), back, of_a, Start::Zero);
        let inner = scaled_product(left, a);
        let inner = View::dense(&inner, self.rank).transposed();
        product(Compute::F32, inner, right, of_b, Start::Zero);
    }
}

/// A matrix as products read it.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    cells: Cow<'a, [f32]>,
    columns: usize,
}

impl<'a> Matrix<'a> {
    pub(super) fn new(weight: &'a [f32], columns: usize, low_rank: Option<LowRank<'_>>) -> Self {
        let cells = match low_rank {
            Some(low_rank) => Cow::Owned(low_rank.merged(weight, columns)),
            None => Cow::Borrowed(weight),
        };
        Self { cells, columns }
    }

    pub(super) fn view(&self) -> View<'_> {
        View::dense(&self.cells, self.columns)
    }
}
