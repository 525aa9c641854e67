//! What is done to each element by itself: sums, the gated activation and the rotation of positions.

use burn::backend::TensorMetadata;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{calculate_cube_count_elemwise, ir::ElemType, prelude::*};

use super::{element, empty, like, reduce::Line};

/// x + y, where y is as long as x or is repeated along it.
#[cube(launch)]
fn add_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    y: &Tensor<Vector<F, N>>,
    sum: &mut Tensor<Vector<F, N>>,
    count: u32,
    period: u32,
    #[comptime] vector: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= count as usize {
        terminate!();
    }
    let (a, b) = (x[at], y[at % period as usize]);
    let mut cells = Vector::<F, N>::new(F::new(0.0));
    #[unroll]
    for v in 0..vector {
        let cell = f32::cast_from(a.extract(v)) + f32::cast_from(b.extract(v));
        cells.insert(v, F::cast_from(cell));
    }
    sum[at] = cells;
}

/// silu(g)·u, with silu(x) = x / (1 + e^-x) (arXiv 2002.05202).
#[cube]
fn gate_of<F: Float, N: Size>(
    gate: Vector<F, N>,
    up: Vector<F, N>,
    #[comptime] vector: usize,
) -> Vector<F, N> {
    let mut y = Vector::<F, N>::new(F::new(0.0));
    #[unroll]
    for v in 0..vector {
        let g = f32::cast_from(gate.extract(v));
        let sigmoid = 1.0f32 / (1.0f32 + (0.0f32 - g).exp());
        y.insert(v, F::cast_from(g * sigmoid * f32::cast_from(up.extract(v))));
    }
    y
}

#[cube(launch)]
fn swiglu_kernel<F: Float, N: Size>(
    gate: &Tensor<Vector<F, N>>,
    up: &Tensor<Vector<F, N>>,
    y: &mut Tensor<Vector<F, N>>,
    count: u32,
    #[comptime] vector: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= count as usize {
        terminate!();
    }
    y[at] = gate_of::<F, N>(gate[at], up[at], vector);
}

/// The same of rows that hold the one beside the other.
#[cube(launch)]
fn gated_kernel<F: Float, N: Size>(
    gate_up: &Tensor<Vector<F, N>>,
    y: &mut Tensor<Vector<F, N>>,
    count: u32,
    #[comptime] inner: usize,
    #[comptime] vector: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= count as usize {
        terminate!();
    }
    let gate = at / inner * comptime!(2 * inner) + at % inner;
    y[at] = gate_of::<F, N>(gate_up[gate], gate_up[gate + inner], vector);
}

#[cube(launch)]
fn swiglu_backward_kernel<F: Float, N: Size>(
    gate: &Tensor<Vector<F, N>>,
    up: &Tensor<Vector<F, N>>,
    dy: &Tensor<Vector<F, N>>,
    dgate: &mut Tensor<Vector<F, N>>,
    dup: &mut Tensor<Vector<F, N>>,
    count: u32,
    #[comptime] vector: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= count as usize {
        terminate!();
    }
    let (gates, ups, slopes) = (gate[at], up[at], dy[at]);
    let mut of_gate = Vector::<F, N>::new(F::new(0.0));
    let mut of_up = Vector::<F, N>::new(F::new(0.0));
    #[unroll]
    for v in 0..vector {
        let g = f32::cast_from(gates.extract(v));
        let slope = f32::cast_from(slopes.extract(v));
        let sigmoid = 1.0f32 / (1.0f32 + (0.0f32 - g).exp());
        let rise = sigmoid * (1.0f32 + g * (1.0f32 - sigmoid));
        of_gate.insert(
            v,
            F::cast_from(slope * f32::cast_from(ups.extract(v)) * rise),
        );
        of_up.insert(v, F::cast_from(slope * g * sigmoid));
    }
    dgate[at] = of_gate;
    dup[at] = of_up;
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

/// x + y of one shape, or with y `[width]` added to each row of x.
pub(super) fn add(x: CubeTensor, y: CubeTensor) -> CubeTensor {
    let [x, y] = [x, y].map(into_contiguous);
    let (of_x, of_y) = (x.shape(), y.shape());
    let is_bias = of_y.num_dims() == 1 && of_y[0] == of_x[of_x.num_dims() - 1];
    assert!(is_bias || of_x == of_y, "a sum of {of_x:?} and {of_y:?}");
    let (sum, line) = (like(&x), Line::new(&x));
    let count = x.shape().num_elements() / line.vector;
    let period = y.shape().num_elements() / line.vector;
    let dim = CubeDim::new(&x.client, count);
    add_kernel::launch(
        &x.client.clone(),
        calculate_cube_count_elemwise(&x.client, count, dim),
        dim,
        line.vector,
        x.clone().into_tensor_arg(),
        y.into_tensor_arg(),
        sum.clone().into_tensor_arg(),
        count as u32,
        period as u32,
        line.vector,
        element(x.dtype),
    );
    sum
}

pub(super) fn swiglu(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let (y, line) = (like(&gate), Line::new(&gate));
    let count = gate.shape().num_elements() / line.vector;
    let dim = CubeDim::new(&gate.client, count);
    swiglu_kernel::launch(
        &gate.client.clone(),
        calculate_cube_count_elemwise(&gate.client, count, dim),
        dim,
        line.vector,
        gate.clone().into_tensor_arg(),
        up.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        count as u32,
        line.vector,
        element(gate.dtype),
    );
    y
}

/// silu(gate)·up `[rows, inner]` of gate and up in one, `[rows, 2 · inner]`.
pub(super) fn gated(gate_up: CubeTensor) -> CubeTensor {
    let gate_up = into_contiguous(gate_up);
    let [rows, width] = gate_up.shape().dims::<2>();
    assert!(
        width.is_multiple_of(2),
        "a gate beside its like in {width} columns"
    );
    let y = empty(&gate_up, [rows, width / 2].into(), gate_up.dtype);
    let line = Line::new(&y);
    let count = rows * line.vectors;
    let dim = CubeDim::new(&gate_up.client, count);
    gated_kernel::launch(
        &gate_up.client.clone(),
        calculate_cube_count_elemwise(&gate_up.client, count, dim),
        dim,
        line.vector,
        gate_up.clone().into_tensor_arg(),
        y.clone().into_tensor_arg(),
        count as u32,
        line.vectors,
        line.vector,
        element(gate_up.dtype),
    );
    y
}

pub(super) fn swiglu_backward(
    gate: CubeTensor,
    up: CubeTensor,
    dy: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let [gate, up, dy] = [gate, up, dy].map(into_contiguous);
    let (dgate, dup, line) = (like(&gate), like(&gate), Line::new(&gate));
    let count = gate.shape().num_elements() / line.vector;
    let dim = CubeDim::new(&gate.client, count);
    swiglu_backward_kernel::launch(
        &gate.client.clone(),
        calculate_cube_count_elemwise(&gate.client, count, dim),
        dim,
        line.vector,
        gate.clone().into_tensor_arg(),
        up.into_tensor_arg(),
        dy.into_tensor_arg(),
        dgate.clone().into_tensor_arg(),
        dup.clone().into_tensor_arg(),
        count as u32,
        line.vector,
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
