//! RMS normalization (arXiv 1910.07467), computed in f32 whatever its tensors hold.

use burn::backend::TensorMetadata;
use burn_cubecl::{
    kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{ir::ElemType, prelude::*};

use super::{
    element,
    reduce::{UNITS, cube_for_each, sum_of_units},
};
use burn::tensor::DType;

/// The reciprocal of a row's root mean square.
#[cube]
fn inverse_rms<F: Float>(
    x: &Tensor<F>,
    start: usize,
    epsilon: f32,
    #[comptime] width: usize,
    scratch: &mut Shared<[f32]>,
) -> f32 {
    let mut squares = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = f32::cast_from(x[start + i]);
        squares += value * value;
        i += UNITS;
    }
    let total = sum_of_units(scratch, squares);
    1.0f32 / (total / width as f32 + epsilon).sqrt()
}

#[cube(launch)]
fn norm_kernel<F: Float>(
    x: &Tensor<F>,
    gamma: &Tensor<F>,
    y: &mut Tensor<F>,
    rows: u32,
    epsilon: f32,
    #[comptime] width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    if CUBE_POS >= rows as usize {
        terminate!();
    }
    let start = CUBE_POS * width;
    let scale = inverse_rms::<F>(x, start, epsilon, width, &mut scratch);
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = f32::cast_from(x[start + i]) * scale * f32::cast_from(gamma[i]);
        y[start + i] = F::cast_from(value);
        i += UNITS;
    }
}

/// dx = s·γ·dy - x·s³/width·Σ γ·dy·x, with s the reciprocal root mean square; a row's part of dγ is dy·x·s.
#[cube(launch)]
fn norm_backward_kernel<F: Float>(
    x: &Tensor<F>,
    gamma: &Tensor<F>,
    dy: &Tensor<F>,
    dx: &mut Tensor<F>,
    dgamma: &mut Tensor<f32>,
    rows: u32,
    epsilon: f32,
    #[comptime] width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    if CUBE_POS >= rows as usize {
        terminate!();
    }
    let start = CUBE_POS * width;
    let scale = inverse_rms::<F>(x, start, epsilon, width, &mut scratch);
    let mut product = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let weighted = f32::cast_from(gamma[i]) * f32::cast_from(dy[start + i]);
        product += weighted * f32::cast_from(x[start + i]);
        i += UNITS;
    }
    let total = sum_of_units(&mut scratch, product);
    let pull = total * scale * scale * scale / width as f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = f32::cast_from(x[start + i]);
        let slope = f32::cast_from(dy[start + i]);
        let gradient = scale * f32::cast_from(gamma[i]) * slope - value * pull;
        dx[start + i] = F::cast_from(gradient);
        dgamma[start + i] = slope * value * scale;
        i += UNITS;
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
    let (rows, width) = rows_of(&x);
    let y = empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.shape(), x.dtype);
    norm_kernel::launch(
        &x.client.clone(),
        cube_for_each(rows),
        CubeDim::new_1d(UNITS as u32),
        x.clone().into_tensor_arg(),
        gamma.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        rows as u32,
        epsilon,
        width,
        element(x.dtype),
    );
    y
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
    let empty = |shape, dtype| {
        empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, dtype)
    };
    let dx = empty(x.shape(), x.dtype);
    let dgamma = empty([rows, width].into(), DType::F32);
    norm_backward_kernel::launch(
        &x.client,
        cube_for_each(rows),
        CubeDim::new_1d(UNITS as u32),
        x.clone().into_tensor_arg(),
        gamma.into_tensor_arg(),
        dy.into_tensor_arg(),
        dx.clone().into_tensor_arg(),
        dgamma.clone().into_tensor_arg(),
        rows as u32,
        epsilon,
        width,
        element(x.dtype),
    );
    (dx, dgamma)
}
