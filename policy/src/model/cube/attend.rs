//! Attention of a pass's tokens to each other, some queries at a time and each over the keys up to its own: neither this nor
//! its way back holds a matrix `[length, length]`, and what lies beyond is not computed.

use std::ops::Range;

use burn::{
    backend::{TensorMetadata, ops::FloatTensorOps},
    tensor::DType,
};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{calculate_cube_count_elemwise, ir::ElemType, prelude::*};

use super::{
    attention::{attention_weights_backward, attention_weights_from},
    element, empty,
    head::cast,
    product::{product, transposed},
    reduce::vector_size,
};

/// Queries whose scores are held at once: enough to fill the device together with those of other heads and rows.
pub(super) const QUERIES: usize = 256;

/// What goes on between a tensor of all tokens, `[batch, length, heads, head_dim]`, and one of a range of them,
/// `[batch, heads, range, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Move {
    /// From the whole to the part.
    Take,
    /// From the part to the whole.
    Place,
    /// From the part to the whole, added to what is there.
    Add,
}

/// The sizes of a whole and its part, in vectors.
#[derive(Debug, Clone, Copy, CubeType, CubeLaunch)]
struct Sizes {
    /// Of the part.
    count: u32,
    heads: u32,
    length: u32,
    first: u32,
    range: u32,
}

#[cube(launch)]
fn move_kernel<F: Float, N: Size>(
    whole: &mut Tensor<Vector<F, N>>,
    part: &mut Tensor<Vector<F, N>>,
    factor: f32,
    sizes: Sizes,
    #[comptime] vectors: usize,
    #[comptime] vector: usize,
    #[comptime] how: Move,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= sizes.count as usize {
        terminate!();
    }
    let (heads, range) = (sizes.heads as usize, sizes.range as usize);
    let row = at / vectors;
    let head = row / range % heads;
    let token = row / (range * heads) * sizes.length as usize + sizes.first as usize + row % range;
    let place = (token * heads + head) * vectors + at % vectors;
    let cells = if comptime!(matches!(how, Move::Take)) {
        whole[place]
    } else {
        part[at]
    };
    let mut moved = Vector::<F, N>::new(F::new(0.0));
    #[unroll]
    for v in 0..vector {
        let mut cell = f32::cast_from(cells.extract(v)) * factor;
        if comptime!(matches!(how, Move::Add)) {
            cell += f32::cast_from(whole[place].extract(v));
        }
        moved.insert(v, F::cast_from(cell));
    }
    if comptime!(matches!(how, Move::Take)) {
        part[at] = moved;
    } else {
        whole[place] = moved;
    }
}

/// Moves a part whose tokens begin at `first`, times `factor`. Both tensors are packed.
fn carry(whole: &CubeTensor, part: &CubeTensor, first: usize, factor: f32, how: Move) {
    let [batch, length, heads, head_dim] = whole.shape().dims::<4>();
    let [of_batch, of_heads, range, of_head] = part.shape().dims::<4>();
    assert!(
        [batch, heads, head_dim] == [of_batch, of_heads, of_head] && first + range <= length,
        "tokens {first} to {} of {:?} as {:?}",
        first + range,
        whole.shape(),
        part.shape()
    );
    let vector = vector_size(&whole.client, whole.dtype, head_dim);
    let count = part.shape().num_elements() / vector;
    let dim = CubeDim::new(&whole.client, count);
    move_kernel::launch(
        &whole.client.clone(),
        calculate_cube_count_elemwise(&whole.client, count, dim),
        dim,
        vector,
        whole.clone().into_tensor_arg(),
        part.clone().into_tensor_arg(),
        factor,
        SizesLaunch::new(
            count as u32,
            heads as u32,
            length as u32,
            first as u32,
            range as u32,
        ),
        head_dim / vector,
        vector,
        how,
        element(whole.dtype),
    );
}

/// Queries `[batch, length, heads, head_dim]`, keys and values `[batch, length, groups, head_dim]` of the same tokens, which
/// lie at `[batch, length]`; none sees one that comes after it.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    query: CubeTensor,
    key: CubeTensor,
    value: CubeTensor,
    positions: CubeTensor,
    window: i32,
}

impl Attention {
    pub(super) fn new(
        [query, key, value]: [CubeTensor; 3],
        positions: CubeTensor,
        window: i32,
    ) -> Self {
        let [query, key, value] = [query, key, value].map(into_contiguous);
        let [batch, length, heads, head_dim] = query.shape().dims::<4>();
        let [_, _, groups, _] = key.shape().dims::<4>();
        assert!(
            key.shape().dims() == [batch, length, groups, head_dim]
                && key.shape() == value.shape()
                && positions.shape().dims() == [batch, length]
                && heads.is_multiple_of(groups),
            "queries {:?} of keys {:?}",
            query.shape(),
            key.shape()
        );
        Self {
            query,
            key,
            value,
            positions: into_contiguous(positions),
            window,
        }
    }

    /// softmax(q·kᵀ/√d)·v, `[batch, length, heads, head_dim]`.
    pub(super) fn mixed(&self) -> CubeTensor {
        let mixed = empty(&self.query, self.query.shape(), self.query.dtype);
        for block in self.blocks() {
            let key = part(&self.key, 0..block.end, 1.0);
            let weights = self.weights(&self.queries(&block), key, &block);
            let value = part(&self.value, 0..block.end, 1.0);
            let rows = product(weights, value, mixed.dtype);
            self.give(rows, &mixed, block, 1.0);
        }
        mixed
    }

    /// The gradients of queries, keys and values, given the result's. Scores are computed again.
    pub(super) fn backward(&self, dmixed: CubeTensor) -> [CubeTensor; 3] {
        let dmixed = into_contiguous(dmixed);
        let dtype = self.query.dtype;
        let blocks = self.blocks();
        // Sums of several blocks are in f32.
        let sums = if blocks.len() > 1 { DType::F32 } else { dtype };
        let dquery = empty(&self.query, self.query.shape(), dtype);
        let [dkey, dvalue] = [(); 2].map(|()| empty(&self.key, self.key.shape(), sums));
        // From the last, which has a part of every key's and makes the sums' beginning.
        for block in blocks.into_iter().rev() {
            let how = if block.end == self.length() {
                Move::Place
            } else {
                Move::Add
            };
            let query = self.queries(&block);
            let key = part(&self.key, 0..block.end, 1.0);
            let weights = self.weights(&query, key.clone(), &block);
            let dmixed = self.rows(&dmixed, &block, 1.0);
            let dvalues = product(transposed(weights.clone()), dmixed.clone(), sums);
            carry(&dvalue, &dvalues, 0, 1.0, how);
            let value = part(&self.value, 0..block.end, 1.0);
            let dweights = product(dmixed, transposed(value), dtype);
            let dscores = attention_weights_backward(weights, dweights);
            let dkeys = product(transposed(dscores.clone()), query, sums);
            carry(&dkey, &dkeys, 0, 1.0, how);
            self.give(product(dscores, key, dtype), &dquery, block, self.scale());
        }
        [dquery, cast(dkey, dtype), cast(dvalue, dtype)]
    }

    fn length(&self) -> usize {
        self.query.shape()[1]
    }

    fn blocks(&self) -> Vec<Range<usize>> {
        let length = self.length();
        let starts = (0..length).step_by(QUERIES);
        starts
            .map(|start| start..length.min(start + QUERIES))
            .collect()
    }

    fn scale(&self) -> f32 {
        1.0 / (self.query.shape()[3] as f32).sqrt()
    }

    /// A block's queries as [`Attention::rows`], scaled before the product, whose results f16 might not hold otherwise.
    fn queries(&self, block: &Range<usize>) -> CubeTensor {
        self.rows(&self.query, block, self.scale())
    }

    /// Tokens of a block by heads, those of one group as rows below each other, so that keys need no copies:
    /// `[batch, groups, heads / groups · block, head_dim]`.
    fn rows(&self, whole: &CubeTensor, block: &Range<usize>, factor: f32) -> CubeTensor {
        let [batch, heads, range, head_dim] = self.sizes(block);
        let groups = self.key.shape()[2];
        let rows = [batch, groups, heads / groups * range, head_dim];
        let by_head = part(whole, block.clone(), factor);
        CubeBackend::float_reshape(by_head, rows.into())
    }

    /// The way back from [`Attention::rows`].
    fn give(&self, rows: CubeTensor, whole: &CubeTensor, block: Range<usize>, factor: f32) {
        let by_head = CubeBackend::float_reshape(rows, self.sizes(&block).into());
        carry(whole, &by_head, block.start, factor, Move::Place);
    }

    fn sizes(&self, block: &Range<usize>) -> [usize; 4] {
        let [batch, _, heads, head_dim] = self.query.shape().dims::<4>();
        [batch, heads, block.len(), head_dim]
    }

    /// A block's weights of keys, `[batch, groups, heads / groups · block, keys up to the block's last]`.
    fn weights(&self, queries: &CubeTensor, key: CubeTensor, block: &Range<usize>) -> CubeTensor {
        let scores = product(queries.clone(), transposed(key), queries.dtype);
        let rows = scores.shape();
        let [batch, heads, range, _] = self.sizes(block);
        let scores = CubeBackend::float_reshape(scores, [batch, heads, range, block.end].into());
        let positions = self.positions.clone();
        let weights = attention_weights_from(
            scores,
            [positions.clone(), positions],
            block.start,
            self.window,
        );
        CubeBackend::float_reshape(weights, rows)
    }
}

/// A range of tokens, `[batch, heads, range, head_dim]` of `[batch, length, heads, head_dim]`.
fn part(whole: &CubeTensor, range: Range<usize>, factor: f32) -> CubeTensor {
    let [batch, _, heads, head_dim] = whole.shape().dims::<4>();
    let shape = [batch, heads, range.len(), head_dim];
    let part = empty(whole, shape.into(), whole.dtype);
    carry(whole, &part, range.start, factor, Move::Take);
    part
}
