//! What is hot on a GPU, as kernels in `CubeCL`: one trait for burn's dispatch, with backward passes of its own.
//!
//! The plain form of the model is the portable fallback, and what each operation is tested against.

#![allow(
    clippy::collapsible_if,
    clippy::collapsible_else_if,
    clippy::manual_midpoint,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::explicit_counter_loop,
    clippy::needless_range_loop,
    clippy::float_cmp,
    clippy::too_many_arguments,
    clippy::too_many_lines,
    clippy::used_underscore_binding,
    reason = "kernels are written in a subset of Rust, and a negated comparison is what finds NaN"
)]

mod attend;
mod attention;
mod decoder;
mod elementwise;
mod gather;
mod gradients;
mod head;
mod norm;
mod product;
mod reduce;
mod sample;
mod scatter;
mod scores;
mod step;
#[cfg(test)]
mod tests;

use burn::{
    backend::{
        Backend, Dispatch, DispatchDevice, TensorMetadata, backend_extension,
        cubecl::dtype_to_storage_type,
        ops::FloatTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Device, Int, Shape, Tensor},
};
use burn_cubecl::{CubeBackend, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::ir::ElemType;

use super::{CausalLm, Truncation, rows::Picks};
use attend::{Attention, QUERIES};
use attention::WIDEST_HEAD;
pub(super) use decoder::StepWeights;
pub use reduce::{UNITS as CUBE_UNITS, sum_of_units};
pub(super) use step::HeadLayout;

/// Operations for burn's dispatch. Sums are in f32 whatever the tensors hold.
#[backend_extension(Cube, Autodiff)]
pub(super) trait CubeOps: Backend {
    /// x / rms(x) · gamma over the last dimension.
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;

    /// silu(gate)·up.
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Rotary positions: `[batch, length, heads, head_dim]` by angles in f32 `[batch · length, head_dim / 2]`, which
    /// have no gradient.
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Figures `[tokens, 3]` in f32 of hidden states `[tokens, width]` and taken tokens `[tokens]`: log-probability,
    /// entropy, entropy at the temperature, the last without a gradient.
    fn token_figures(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        plan: FigurePlan,
    ) -> FloatTensor<Self>;

    /// softmax(scores) of `[batch, heads, length, keys]` over the keys, at `[batch, keys]`, that the queries, at
    /// `[batch, length]`, see.
    fn attention_weights(
        scores: FloatTensor<Self>,
        query_positions: IntTensor<Self>,
        key_positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self>;

    /// softmax(q·kᵀ/√d)·v of queries `[batch, length, heads, head_dim]`, keys and values `[batch, length, groups, head_dim]` of
    /// the same tokens, at `[batch, length]`, of which none sees one that comes after it:
    /// `[batch, length, heads, head_dim]`.
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self>;

    /// Attention of queries `[rows, heads, head_dim]` over caches `[rows, groups, capacity, head_dim]`, whose tokens lie in
    /// the slots of their positions, without a gradient.
    fn decode_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        query_positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self>;

    /// Heads of `projected` `[rows, (heads + 2 · groups) · head_dim]` with their biases and norms, turned to their positions:
    /// queries `[rows, heads, head_dim]`, and caches `[rows, groups, slots, head_dim]` with keys and values in the slots of
    /// their positions, without a gradient.
    fn place_heads(
        projected: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        query_norm: FloatTensor<Self>,
        key_norm: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        positions: IntTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        sizes: HeadLayout,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// x + y `[rows, width]` and its norm, without a gradient.
    fn add_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// silu(gate)·up `[rows, inner]` of `[rows, 2 · inner]`, without a gradient.
    fn gated(gate_up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `rows` `[count, width]` in the places `slots` `[count]` of `target` `[slots, width]`, without a gradient.
    fn write_rows(
        target: FloatTensor<Self>,
        slots: IntTensor<Self>,
        rows: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// The same of integers.
    fn write_int_rows(
        target: IntTensor<Self>,
        slots: IntTensor<Self>,
        rows: IntTensor<Self>,
    ) -> IntTensor<Self>;

    /// Rows `picks` `[count]` of `[rows, width]`; each row's own are `order[starts[row]..starts[row + 1]]`.
    fn pick_rows(
        x: FloatTensor<Self>,
        picks: IntTensor<Self>,
        order: IntTensor<Self>,
        starts: IntTensor<Self>,
    ) -> FloatTensor<Self>;

    /// x + y, packed: burn's sums may leave gaps between rows, which every kernel after them would first have to close.
    fn add(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Rows `[rows, width]` and a bias `[width]` added to each.
    fn add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;

    /// A product of matrices in their own type, or of as many pairs of them, summed in f32.
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Nothing, `[1]`, and a way back from it as from x + inner·weight whose gradient is `slope`, which is not computed:
    /// `[rows, width]`, `[rows, inner]`, `[inner, width]` and `[rows, width]`. It is the whole of what is gone back from.
    fn pull(
        x: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        slope: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `y` `[rows, outputs]` as it is, of which x·s·A·B is a part already, with the gradients of A `[inputs, rank]` and
    /// B `[rank, outputs]` on its way back; `x` `[rows, inputs]` has none.
    fn with_adapter_gradient(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// Logits `[rows, vocab]` in f32 of hidden states `[rows, width]`, without a gradient, whatever is multiplied.
    fn logits(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        is_tied: bool,
    ) -> FloatTensor<Self>;

    /// A token for each row of logits `[rows, vocab]` in f32, without a gradient: figures `[rows, 4]` and ids `[rows]`.
    fn draw_logits(
        logits: FloatTensor<Self>,
        uniforms: FloatTensor<Self>,
        truncation: Truncation,
    ) -> (FloatTensor<Self>, IntTensor<Self>);
}

/// What the head is given besides tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FigurePlan {
    pub(super) temperature: f32,
    /// Whether the weight is `[vocab, width]`, the embedding's, rather than `[width, vocab]`.
    pub(super) is_tied: bool,
    /// Tokens and ids whose logits are held at once.
    pub(super) tokens_at_once: usize,
    pub(super) ids_at_once: usize,
}

/// A type as kernels name it.
fn element(dtype: DType) -> ElemType {
    dtype_to_storage_type(dtype)
}

/// Whether decoding's kernel takes the heads of a model.
pub(super) fn takes_heads(model: &CausalLm) -> bool {
    let layers = &model.model.layers;
    layers
        .iter()
        .all(|layer| layer.self_attn.head_dim <= WIDEST_HEAD)
}

/// A tensor to be written, beside another.
fn empty(beside: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(beside.client.clone(), beside.device.clone(), shape, dtype)
}

/// A tensor to be written, of another's shape and type.
fn like(x: &CubeTensor) -> CubeTensor {
    empty(x, x.shape(), x.dtype)
}

/// Whether a device runs these kernels.
pub(super) fn runs_on(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Cube(_)
    )
}

/// Whether decoding's kernel takes queries `[rows, heads, length, head_dim]`.
pub(super) fn takes_query([_, _, length, head_dim]: [usize; 4]) -> bool {
    length == 1 && head_dim <= WIDEST_HEAD
}

impl CubeOps for CubeBackend {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        norm::rms_norm(x, gamma, epsilon)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        elementwise::swiglu(gate, up)
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        elementwise::rotate(x, cos, sin, false)
    }

    fn token_figures(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        plan: FigurePlan,
    ) -> FloatTensor<Self> {
        head::figures(hidden, weight, targets, plan).0
    }

    fn attention_weights(
        scores: FloatTensor<Self>,
        query_positions: IntTensor<Self>,
        key_positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self> {
        attention::attention_weights(scores, query_positions, key_positions, window)
    }

    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self> {
        Attention::new([query, key, value], positions, window).mixed()
    }

    fn decode_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        query_positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self> {
        attention::decode_attention(query, keys, values, query_positions, window)
    }

    fn place_heads(
        projected: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        query_norm: FloatTensor<Self>,
        key_norm: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        positions: IntTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        sizes: HeadLayout,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        step::place_heads(
            projected,
            [bias, query_norm, key_norm],
            [cos, sin],
            positions,
            [keys, values],
            sizes,
            epsilon,
        )
    }

    fn add_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm::add_norm(x, y, gamma, epsilon)
    }

    fn gated(gate_up: FloatTensor<Self>) -> FloatTensor<Self> {
        elementwise::gated(gate_up)
    }

    fn write_rows(
        target: FloatTensor<Self>,
        slots: IntTensor<Self>,
        rows: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        scatter::write_rows(target, slots, rows)
    }

    fn write_int_rows(
        target: IntTensor<Self>,
        slots: IntTensor<Self>,
        rows: IntTensor<Self>,
    ) -> IntTensor<Self> {
        scatter::write_rows(target, slots, rows)
    }

    fn pick_rows(
        x: FloatTensor<Self>,
        picks: IntTensor<Self>,
        _order: IntTensor<Self>,
        _starts: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        gather::pick_rows(x, picks)
    }

    fn add(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        elementwise::add(x, y)
    }

    fn add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        elementwise::add(x, bias)
    }

    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = lhs.dtype;
        product::product(lhs, rhs, dtype)
    }

    fn pull(
        x: FloatTensor<Self>,
        _inner: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _slope: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        empty(&x, [1].into(), x.dtype)
    }

    fn with_adapter_gradient(
        y: FloatTensor<Self>,
        _x: FloatTensor<Self>,
        _a: FloatTensor<Self>,
        _b: FloatTensor<Self>,
        _scale: f32,
    ) -> FloatTensor<Self> {
        y
    }

    fn logits(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        is_tied: bool,
    ) -> FloatTensor<Self> {
        let weight = if is_tied {
            CubeBackend::float_swap_dims(weight, 0, 1)
        } else {
            weight
        };
        head::product(hidden, weight)
    }

    fn draw_logits(
        logits: FloatTensor<Self>,
        uniforms: FloatTensor<Self>,
        truncation: Truncation,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        sample::sample(logits, uniforms, truncation)
    }
}

/// x / rms(x) · gamma over the last dimension.
pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let y =
        <Dispatch as CubeOps>::rms_norm(x.into_dispatch(), gamma.into_dispatch(), epsilon as f32);
    Tensor::from_dispatch(y)
}

/// silu(gate)·up.
pub(super) fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::swiglu(
        gate.into_dispatch(),
        up.into_dispatch(),
    ))
}

/// Rotary positions.
///
/// # Shapes
/// `x` `[batch, length, heads, head_dim]`, `cos` and `sin` `[batch · length, head_dim / 2]` in f32.
pub(super) fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::rotate(
        x.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
    ))
}

/// Figures of taken tokens, `[tokens, 3]`.
pub(super) fn token_figures(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    plan: FigurePlan,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::token_figures(
        hidden.into_dispatch(),
        weight.into_dispatch(),
        targets.into_dispatch(),
        plan,
    ))
}

/// Rows of `[rows, width]`.
pub(super) fn pick_rows(x: Tensor<2>, picks: &Picks) -> Tensor<2> {
    let [rows, order, starts] =
        [&picks.rows, &picks.order, &picks.starts].map(|numbers| numbers.clone().into_dispatch());
    let picked = <Dispatch as CubeOps>::pick_rows(x.into_dispatch(), rows, order, starts);
    Tensor::from_dispatch(picked)
}

/// x + y.
pub(super) fn add<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::add(
        x.into_dispatch(),
        y.into_dispatch(),
    ))
}

/// Rows `[rows, width]` with a bias `[width]` added to each.
pub(super) fn add_bias(x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::add_bias(
        x.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// A product of matrices, or of as many pairs of them.
pub(super) fn product<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::product(
        lhs.into_dispatch(),
        rhs.into_dispatch(),
    ))
}

/// The end of a block as its gradient alone: x + inner·weight goes back as if `slope` were its own.
///
/// # Shapes
/// `x` and `slope` `[rows, width]`, `inner` `[rows, inner]`, `weight` `[inner, width]`.
pub(super) fn pull([x, inner, weight, slope]: [Tensor<2>; 4]) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::pull(
        x.into_dispatch(),
        inner.into_dispatch(),
        weight.into_dispatch(),
        slope.into_dispatch(),
    ))
}

/// `y` as it is, with the gradients of an adapter that is merged into what it was multiplied with.
///
/// # Shapes
/// `y` `[rows, outputs]`, `x` `[rows, inputs]`, factors `[inputs, rank]` and `[rank, outputs]`.
pub(super) fn with_adapter_gradient(
    y: Tensor<2>,
    x: Tensor<2>,
    [a, b]: [Tensor<2>; 2],
    scale: f32,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::with_adapter_gradient(
        y.into_dispatch(),
        x.into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
        scale,
    ))
}

/// Weights of keys for scores.
///
/// # Shapes
/// `scores` `[batch, heads, length, keys]`, positions `[batch, length]` and `[batch, keys]`.
pub(super) fn attention_weights(
    scores: Tensor<4>,
    query_positions: Tensor<2, Int>,
    key_positions: Tensor<2, Int>,
    window: Option<usize>,
) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::attention_weights(
        scores.into_dispatch(),
        query_positions.into_dispatch(),
        key_positions.into_dispatch(),
        window_or_all(window),
    ))
}

/// Attention of a pass's tokens to each other.
///
/// # Shapes
/// `query` `[batch, length, heads, head_dim]`, `key` and `value` `[batch, length, groups, head_dim]`, `positions`
/// `[batch, length]`, to `[batch, length, heads, head_dim]`.
pub(super) fn attend(
    [query, key, value]: [Tensor<4>; 3],
    positions: Tensor<2, Int>,
    window: Option<usize>,
) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::attend(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        positions.into_dispatch(),
        window_or_all(window),
    ))
}

/// Of rows of `length`, how many queries' scores are held at once.
pub(super) fn queries_at_once(length: usize) -> usize {
    length.min(QUERIES)
}

/// Attention of one new token a row over the cache.
pub(super) fn decode_attention(
    query: Tensor<3>,
    [keys, values]: [Tensor<4>; 2],
    query_positions: Tensor<1, Int>,
    window: Option<usize>,
) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::decode_attention(
        query.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        query_positions.into_dispatch(),
        window_or_all(window),
    ))
}

fn window_or_all(window: Option<usize>) -> i32 {
    window.map_or(i32::MAX, |window| window as i32)
}

/// What is placed besides a projection: see [`place_heads`].
#[derive(Debug)]
pub(super) struct Placing {
    /// Biases of queries, keys and values in one.
    pub(super) bias: Tensor<1>,
    /// Norms of queries and keys, where they have any.
    pub(super) norms: [Tensor<1>; 2],
    pub(super) sizes: HeadLayout,
    pub(super) epsilon: f32,
}

/// Queries `[rows, heads, head_dim]` of a projection, and the cache with its keys and values.
///
/// # Shapes
/// `projected` `[rows, (heads + 2 · groups) · head_dim]`, `angles` `[slots, head_dim / 2]`, `positions` `[rows]`, `cache`
/// `[rows, groups, slots, head_dim]`.
pub(super) fn place_heads(
    projected: Tensor<2>,
    placing: &Placing,
    angles: &[Tensor<2>; 2],
    positions: Tensor<1, Int>,
    cache: [Tensor<4>; 2],
) -> (Tensor<3>, [Tensor<4>; 2]) {
    let [query_norm, key_norm] = placing.norms.clone().map(Tensor::into_dispatch);
    let [cos, sin] = angles.clone().map(Tensor::into_dispatch);
    let [keys, values] = cache.map(Tensor::into_dispatch);
    let (query, keys, values) = <Dispatch as CubeOps>::place_heads(
        projected.into_dispatch(),
        placing.bias.clone().into_dispatch(),
        query_norm,
        key_norm,
        cos,
        sin,
        positions.into_dispatch(),
        keys,
        values,
        placing.sizes,
        placing.epsilon,
    );
    let [keys, values] = [keys, values].map(Tensor::from_dispatch);
    (Tensor::from_dispatch(query), [keys, values])
}

/// x + y and its norm.
pub(super) fn add_norm(
    x: Tensor<2>,
    y: Tensor<2>,
    gamma: Tensor<1>,
    epsilon: f64,
) -> [Tensor<2>; 2] {
    let (sum, normed) = <Dispatch as CubeOps>::add_norm(
        x.into_dispatch(),
        y.into_dispatch(),
        gamma.into_dispatch(),
        epsilon as f32,
    );
    [sum, normed].map(Tensor::from_dispatch)
}

/// silu(gate)·up of `[rows, 2 · inner]`.
pub(super) fn gated(gate_up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::gated(gate_up.into_dispatch()))
}

/// Rows in places of a target.
pub(super) fn write_rows(target: Tensor<2>, slots: Tensor<1, Int>, rows: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::write_rows(
        target.into_dispatch(),
        slots.into_dispatch(),
        rows.into_dispatch(),
    ))
}

/// The same of integers.
pub(super) fn write_int_rows(
    target: Tensor<2, Int>,
    slots: Tensor<1, Int>,
    rows: Tensor<2, Int>,
) -> Tensor<2, Int> {
    Tensor::from_dispatch(<Dispatch as CubeOps>::write_int_rows(
        target.into_dispatch(),
        slots.into_dispatch(),
        rows.into_dispatch(),
    ))
}

/// A token after each hidden state.
pub(super) fn draw(
    hidden: Tensor<2>,
    (weight, is_tied): (Tensor<2>, bool),
    uniforms: Tensor<1>,
    truncation: Truncation,
) -> (Tensor<2>, Tensor<1, Int>) {
    let logits =
        <Dispatch as CubeOps>::logits(hidden.into_dispatch(), weight.into_dispatch(), is_tied);
    draw_logits(Tensor::from_dispatch(logits), uniforms, truncation)
}

/// A token for each row of logits `[rows, vocab]`.
fn draw_logits(
    logits: Tensor<2>,
    uniforms: Tensor<1>,
    truncation: Truncation,
) -> (Tensor<2>, Tensor<1, Int>) {
    let (drawn, ids) = <Dispatch as CubeOps>::draw_logits(
        logits.into_dispatch(),
        uniforms.into_dispatch(),
        truncation,
    );
    (Tensor::from_dispatch(drawn), Tensor::from_dispatch(ids))
}
