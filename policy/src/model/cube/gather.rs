//! Rows picked by their numbers, and their gradients put back: the embedding, and the states that predict.

use burn::backend::TensorMetadata;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::ElemType, prelude::*};

use super::{
    element, empty,
    reduce::{Line, UNITS, cube_for_each},
};

#[cube(launch)]
fn pick_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    picks: &Tensor<i32>,
    y: &mut Tensor<Vector<F, N>>,
    rows: u32,
    #[comptime] line: Line,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= rows as usize {
        terminate!();
    }
    let from = picks[CUBE_POS] as usize * line.vectors;
    let to = CUBE_POS * line.vectors;
    let mut i = UNIT_POS as usize;
    while i < line.vectors {
        y[to + i] = x[from + i];
        i += CUBE_DIM as usize;
    }
}

/// A row of the gradient a cube: the sum, in f32 and in the picks' order, of what came from it.
#[cube(launch)]
fn scatter_add_kernel<F: Float, N: Size>(
    dy: &Tensor<Vector<F, N>>,
    order: &Tensor<i32>,
    starts: &Tensor<i32>,
    dx: &mut Tensor<Vector<F, N>>,
    rows: u32,
    #[comptime] line: Line,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= rows as usize {
        terminate!();
    }
    let first = starts[CUBE_POS] as usize;
    let end = starts[CUBE_POS + 1] as usize;
    let vector = comptime!(line.vector);
    let to = CUBE_POS * line.vectors;
    let mut i = UNIT_POS as usize;
    while i < line.vectors {
        let mut sums = Array::<f32>::new(vector);
        #[unroll]
        for v in 0..vector {
            sums[v] = 0.0f32;
        }
        for at in first..end {
            let cells = dy[order[at] as usize * line.vectors + i];
            #[unroll]
            for v in 0..vector {
                sums[v] += f32::cast_from(cells.extract(v));
            }
        }
        let mut row = Vector::<F, N>::new(F::new(0.0));
        #[unroll]
        for v in 0..vector {
            row.insert(v, F::cast_from(sums[v]));
        }
        dx[to + i] = row;
        i += CUBE_DIM as usize;
    }
}

/// Units for a line: about as many as it has vectors, of those that devices like.
fn units(line: Line) -> CubeDim {
    CubeDim::new_1d(line.vectors.next_power_of_two().clamp(32, UNITS) as u32)
}

/// Rows `picks` `[count]` of `x` `[rows, width]`.
pub(super) fn pick_rows(x: CubeTensor, picks: CubeTensor) -> CubeTensor {
    let [x, picks] = [x, picks].map(into_contiguous);
    let [_, width] = x.shape().dims::<2>();
    let [count] = picks.shape().dims::<1>();
    let (y, line) = (empty(&x, [count, width].into(), x.dtype), Line::new(&x));
    pick_kernel::launch(
        &x.client.clone(),
        cube_for_each(count),
        units(line),
        line.vector,
        x.clone().into_tensor_arg(),
        picks.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        count as u32,
        line,
        element(x.dtype),
    );
    y
}

/// The gradient `[rows, width]`, given the picked rows' and, for each of the rows, which of them came from it: from
/// `order[starts[row]]` on to `order[starts[row + 1]]`. Burn's own operation has a unit for each column alone, which goes over
/// all that was picked.
pub(super) fn scatter_add(dy: CubeTensor, order: CubeTensor, starts: CubeTensor) -> CubeTensor {
    let [dy, order, starts] = [dy, order, starts].map(into_contiguous);
    let [_, width] = dy.shape().dims::<2>();
    let [bounds] = starts.shape().dims::<1>();
    let rows = bounds - 1;
    let (dx, line) = (empty(&dy, [rows, width].into(), dy.dtype), Line::new(&dy));
    scatter_add_kernel::launch(
        &dy.client.clone(),
        cube_for_each(rows),
        units(line),
        line.vector,
        dy.clone().into_tensor_arg(),
        order.into_tensor_arg(),
        starts.into_tensor_arg(),
        dx.clone().into_tensor_arg(),
        rows as u32,
        line,
        element(dy.dtype),
    );
    dx
}
