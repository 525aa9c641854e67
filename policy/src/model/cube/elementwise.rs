//! What is done to each element by itself: the gated activation and the rotation of positions.

use burn::backend::TensorMetadata;
use burn_cubecl::{
    kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{calculate_cube_count_elemwise, ir::ElemType, prelude::*};

use super::element;

/// silu(gate)·up, with silu(x) = x / (1 + e^-x) (arXiv 2002.05202).
#[cube(launch)]
fn swiglu_kernel<F: Float>(
    gate: &Tensor<F>,
    up: &Tensor<F>,
    y: &mut Tensor<F>,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= y.len() {
        terminate!();
    }
    let g = f32::cast_from(gate[at]);
    let sigmoid = 1.0f32 / (1.0f32 + (0.0f32 - g).exp());
    y[at] = F::cast_from(g * sigmoid * f32::cast_from(up[at]));
}

#[cube(launch)]
fn swiglu_backward_kernel<F: Float>(
    gate: &Tensor<F>,
    up: &Tensor<F>,
    dy: &Tensor<F>,
    dgate: &mut Tensor<F>,
    dup: &mut Tensor<F>,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= dgate.len() {
        terminate!();
    }
    let g = f32::cast_from(gate[at]);
    let slope = f32::cast_from(dy[at]);
    let sigmoid = 1.0f32 / (1.0f32 + (0.0f32 - g).exp());
    let rise = sigmoid * (1.0f32 + g * (1.0f32 - sigmoid));
    dgate[at] = F::cast_from(slope * f32::cast_from(up[at]) * rise);
    dup[at] = F::cast_from(slope * g * sigmoid);
}

/// Turns each pair `(x_i, x_{i + d/2})` by the angle of its token and of frequency i (arXiv 2104.09864); `direction` -1
/// turns it back, which is the gradient.
#[cube(launch)]
fn rotate_kernel<F: Float>(
    x: &Tensor<F>,
    cos: &Tensor<f32>,
    sin: &Tensor<f32>,
    y: &mut Tensor<F>,
    pairs: u32,
    direction: f32,
    #[comptime] heads: usize,
    #[comptime] half: usize,
    #[define(F)] _dtype: ElemType,
) {
    let pair = ABSOLUTE_POS;
    if pair >= pairs as usize {
        terminate!();
    }
    let i = pair % half;
    let row = pair / half;
    let angle = row / heads * half + i;
    let first = row * 2 * half + i;
    let a = f32::cast_from(x[first]);
    let b = f32::cast_from(x[first + half]);
    let c = cos[angle];
    let s = sin[angle] * direction;
    y[first] = F::cast_from(a * c - b * s);
    y[first + half] = F::cast_from(b * c + a * s);
}

fn like(x: &CubeTensor) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.shape(), x.dtype)
}

pub(super) fn swiglu(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let y = like(&gate);
    let count = gate.shape().num_elements();
    let dim = CubeDim::new(&gate.client, count);
    swiglu_kernel::launch(
        &gate.client.clone(),
        calculate_cube_count_elemwise(&gate.client, count, dim),
        dim,
        gate.clone().into_tensor_arg(),
        up.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        element(gate.dtype),
    );
    y
}

pub(super) fn swiglu_backward(
    gate: CubeTensor,
    up: CubeTensor,
    dy: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let [gate, up, dy] = [gate, up, dy].map(into_contiguous);
    let (dgate, dup) = (like(&gate), like(&gate));
    let count = gate.shape().num_elements();
    let dim = CubeDim::new(&gate.client, count);
    swiglu_backward_kernel::launch(
        &gate.client.clone(),
        calculate_cube_count_elemwise(&gate.client, count, dim),
        dim,
        gate.clone().into_tensor_arg(),
        up.into_tensor_arg(),
        dy.into_tensor_arg(),
        dgate.clone().into_tensor_arg(),
        dup.clone().into_tensor_arg(),
        element(gate.dtype),
    );
    (dgate, dup)
}

/// Rotates `[batch, length, heads, head_dim]` by angles `[batch · length, head_dim / 2]`.
pub(super) fn rotate(x: CubeTensor, cos: CubeTensor, sin: CubeTensor, is_back: bool) -> CubeTensor {
    let [x, cos, sin] = [x, cos, sin].map(into_contiguous);
    let y = like(&x);
    let shape = x.shape();
    let [_, _, heads, head_dim] = shape.dims::<4>();
    let pairs = shape.num_elements() / 2;
    let dim = CubeDim::new(&x.client, pairs);
    rotate_kernel::launch(
        &x.client.clone(),
        calculate_cube_count_elemwise(&x.client, pairs, dim),
        dim,
        x.clone().into_tensor_arg(),
        cos.into_tensor_arg(),
        sin.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        pairs as u32,
        if is_back { -1.0 } else { 1.0 },
        heads,
        head_dim / 2,
        element(x.dtype),
    );
    y
}
