//! RMS normalization (arXiv 1910.07467), computed in f32 whatever its tensors hold.

use burn::{backend::TensorMetadata, tensor::DType};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::ElemType, prelude::*};

use super::{
    element, empty, like,
    reduce::{Line, UNITS, lane_of_unit, sum_of_team, team_of_unit},
};

/// The reciprocal of a line's root mean square, of the sum of its squares.
#[cube]
fn inverse_rms(squares: f32, epsilon: f32, #[comptime] line: Line) -> f32 {
    1.0f32 / (squares / comptime!((line.vectors * line.vector) as f32) + epsilon).sqrt()
}

/// The sum of a vector's squares.
#[cube]
fn squares_of<F: Float, N: Size>(cells: Vector<F, N>, #[comptime] vector: usize) -> f32 {
    let mut squares = 0.0f32;
    #[unroll]
    for v in 0..vector {
        let value = f32::cast_from(cells.extract(v));
        squares += value * value;
    }
    squares
}

/// A vector scaled and times γ.
#[cube]
fn scaled<F: Float, N: Size>(
    cells: Vector<F, N>,
    gamma: Vector<F, N>,
    scale: f32,
    #[comptime] vector: usize,
) -> Vector<F, N> {
    let mut y = Vector::<F, N>::new(F::new(0.0));
    #[unroll]
    for v in 0..vector {
        let value = f32::cast_from(cells.extract(v)) * scale * f32::cast_from(gamma.extract(v));
        y.insert(v, F::cast_from(value));
    }
    y
}

#[cube(launch)]
fn norm_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    gamma: &Tensor<Vector<F, N>>,
    y: &mut Tensor<Vector<F, N>>,
    rows: u32,
    epsilon: f32,
    #[comptime] line: Line,
    #[define(F)] _dtype: ElemType,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let row = team_of_unit(line.team);
    if row >= rows as usize {
        terminate!();
    }
    let lane = lane_of_unit(line.team);
    let start = row * line.vectors;
    let mut squares = 0.0f32;
    let mut i = lane;
    while i < line.vectors {
        squares += squares_of::<F, N>(x[start + i], line.vector);
        i += line.team.lanes;
    }
    let squares = sum_of_team(&mut scratch, squares, line.team);
    let scale = inverse_rms(squares, epsilon, line);
    let mut i = lane;
    while i < line.vectors {
        y[start + i] = scaled::<F, N>(x[start + i], gamma[i], scale, line.vector);
        i += line.team.lanes;
    }
}

/// x + y, and that normed.
#[cube(launch)]
fn add_norm_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    y: &Tensor<Vector<F, N>>,
    gamma: &Tensor<Vector<F, N>>,
    sum: &mut Tensor<Vector<F, N>>,
    normed: &mut Tensor<Vector<F, N>>,
    rows: u32,
    epsilon: f32,
    #[comptime] line: Line,
    #[define(F)] _dtype: ElemType,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let row = team_of_unit(line.team);
    if row >= rows as usize {
        terminate!();
    }
    let lane = lane_of_unit(line.team);
    let start = row * line.vectors;
    let mut squares = 0.0f32;
    let mut i = lane;
    while i < line.vectors {
        let (a, b) = (x[start + i], y[start + i]);
        let mut cells = Vector::<F, N>::new(F::new(0.0));
        #[unroll]
        for v in 0..line.vector {
            let cell = f32::cast_from(a.extract(v)) + f32::cast_from(b.extract(v));
            cells.insert(v, F::cast_from(cell));
        }
        sum[start + i] = cells;
        squares += squares_of::<F, N>(cells, line.vector);
        i += line.team.lanes;
    }
    let squares = sum_of_team(&mut scratch, squares, line.team);
    let scale = inverse_rms(squares, epsilon, line);
    let mut i = lane;
    while i < line.vectors {
        // A unit reads what it wrote itself.
        normed[start + i] = scaled::<F, N>(sum[start + i], gamma[i], scale, line.vector);
        i += line.team.lanes;
    }
}

/// dx = s·γ·dy - x·s³/width·Σ γ·dy·x, with s the reciprocal root mean square; a row's part of dγ is dy·x·s.
#[cube(launch)]
fn norm_backward_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    gamma: &Tensor<Vector<F, N>>,
    dy: &Tensor<Vector<F, N>>,
    dx: &mut Tensor<Vector<F, N>>,
    dgamma: &mut Tensor<Vector<f32, N>>,
    rows: u32,
    epsilon: f32,
    #[comptime] line: Line,
    #[define(F)] _dtype: ElemType,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let row = team_of_unit(line.team);
    if row >= rows as usize {
        terminate!();
    }
    let lane = lane_of_unit(line.team);
    let start = row * line.vectors;
    let mut squares = 0.0f32;
    let mut product = 0.0f32;
    let mut i = lane;
    while i < line.vectors {
        let (cells, weight, slope) = (x[start + i], gamma[i], dy[start + i]);
        squares += squares_of::<F, N>(cells, line.vector);
        #[unroll]
        for v in 0..line.vector {
            let weighted = f32::cast_from(weight.extract(v)) * f32::cast_from(slope.extract(v));
            product += weighted * f32::cast_from(cells.extract(v));
        }
        i += line.team.lanes;
    }
    let squares = sum_of_team(&mut scratch, squares, line.team);
    let product = sum_of_team(&mut scratch, product, line.team);
    let scale = inverse_rms(squares, epsilon, line);
    let pull = product * scale * scale * scale / comptime!((line.vectors * line.vector) as f32);
    let mut i = lane;
    while i < line.vectors {
        let (cells, weight, slope) = (x[start + i], gamma[i], dy[start + i]);
        let mut of_x = Vector::<F, N>::new(F::new(0.0));
        let mut of_gamma = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for v in 0..line.vector {
            let value = f32::cast_from(cells.extract(v));
            let slope = f32::cast_from(slope.extract(v));
            let gradient = scale * f32::cast_from(weight.extract(v)) * slope - value * pull;
            of_x.insert(v, F::cast_from(gradient));
            of_gamma.insert(v, slope * value * scale);
        }
        dx[start + i] = of_x;
        dgamma[start + i] = of_gamma;
        i += line.team.lanes;
    }
}

fn rows_of(x: &CubeTensor) -> (usize, usize) {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    (shape.num_elements() / width, width)
}

/// x / rms(x) · gamma over the last dimension.
pub(super) fn rms_norm(x: CubeTensor, gamma: CubeTensor, epsilon: f32) -> CubeTensor {
    let (x, gamma) = (into_contiguous(x), into_contiguous(gamma));
    let (rows, _) = rows_of(&x);
    let (y, line) = (like(&x), Line::new(&x));
    norm_kernel::launch(
        &x.client.clone(),
        line.team.cubes(rows),
        CubeDim::new_1d(line.team.units() as u32),
        line.vector,
        x.clone().into_tensor_arg(),
        gamma.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        rows as u32,
        epsilon,
        line,
        element(x.dtype),
    );
    y
}

/// x + y and its norm, of rows `[rows, width]`.
pub(super) fn add_norm(
    x: CubeTensor,
    y: CubeTensor,
    gamma: CubeTensor,
    epsilon: f32,
) -> (CubeTensor, CubeTensor) {
    let [x, y, gamma] = [x, y, gamma].map(into_contiguous);
    let (rows, _) = rows_of(&x);
    let (sum, normed, line) = (like(&x), like(&x), Line::new(&x));
    add_norm_kernel::launch(
        &x.client.clone(),
        line.team.cubes(rows),
        CubeDim::new_1d(line.team.units() as u32),
        line.vector,
        x.clone().into_tensor_arg(),
        y.into_tensor_arg(),
        gamma.into_tensor_arg(),
        sum.clone().into_tensor_arg(),
        normed.clone().into_tensor_arg(),
        rows as u32,
        epsilon,
        line,
        element(x.dtype),
    );
    (sum, normed)
}

/// The gradient of x, and gamma's of each row by itself, `[rows, width]` in f32.
pub(super) fn rms_norm_backward(
    x: CubeTensor,
    gamma: CubeTensor,
    dy: CubeTensor,
    epsilon: f32,
) -> (CubeTensor, CubeTensor) {
    let [x, gamma, dy] = [x, gamma, dy].map(into_contiguous);
    let (rows, width) = rows_of(&x);
    let dx = like(&x);
    let dgamma = empty(&x, [rows, width].into(), DType::F32);
    // Of f32 a device reads fewer at once.
    let line = Line::new(&dgamma);
    norm_backward_kernel::launch(
        &x.client.clone(),
        line.team.cubes(rows),
        CubeDim::new_1d(line.team.units() as u32),
        line.vector,
        x.clone().into_tensor_arg(),
        gamma.into_tensor_arg(),
        dy.into_tensor_arg(),
        dx.clone().into_tensor_arg(),
        dgamma.clone().into_tensor_arg(),
        rows as u32,
        epsilon,
        line,
        element(x.dtype),
    );
    (dx, dgamma)
}
