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

mod attention;
mod elementwise;
mod gradients;
mod head;
mod norm;
mod reduce;
mod sample;
mod scatter;
mod scores;
#[cfg(test)]
mod tests;

use burn::{
    backend::{
        Backend, Dispatch, DispatchDevice, backend_extension,
        cubecl::dtype_to_storage_type,
        ops::FloatTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Device, Int, Tensor},
};
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;

use super::Truncation;
use attention::WIDEST_HEAD;

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

    /// Attention of queries `[rows, heads, head_dim]` over caches `[rows, groups, capacity, head_dim]`, without a
    /// gradient.
    fn decode_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        key_positions: IntTensor<Self>,
        query_positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self>;

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

/// Whether a device runs these kernels.
pub(super) fn runs_on(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Cube(_)
    )
}

/// Whether decoding's kernel takes heads of this width.
pub(super) fn takes_head(head_dim: usize) -> bool {
    head_dim <= WIDEST_HEAD
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

    fn decode_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        key_positions: IntTensor<Self>,
        query_positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self> {
        attention::decode_attention(query, keys, values, key_positions, query_positions, window)
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

/// Attention of one new token a row over the cache.
pub(super) fn decode_attention(
    query: Tensor<3>,
    [keys, values]: [Tensor<4>; 2],
    key_positions: Tensor<2, Int>,
    query_positions: Tensor<1, Int>,
    window: Option<usize>,
) -> Tensor<3> {
    let window = window.map_or(i32::MAX, |window| window as i32);
    Tensor::from_dispatch(<Dispatch as CubeOps>::decode_attention(
        query.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        key_positions.into_dispatch(),
        query_positions.into_dispatch(),
        window,
    ))
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
    weight: Tensor<2>,
    uniforms: Tensor<1>,
    truncation: Truncation,
    is_tied: bool,
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
