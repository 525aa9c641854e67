//! What lies between a decoding step's products, each one kernel.

use burn::backend::TensorMetadata;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::ElemType, prelude::*};

use super::{
    element,
    reduce::{cube_for_each, sum_of_units},
};

/// Units of a cube that has one head: two elements each of the heads that are common.
const HEAD_UNITS: usize = 32;

/// The sizes of a layer's heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::model) struct HeadLayout {
    pub(in crate::model) heads: usize,
    pub(in crate::model) groups: usize,
    pub(in crate::model) head_dim: usize,
    /// Whether queries and keys are normed (Qwen 3).
    pub(in crate::model) has_norm: bool,
}

/// One head of a token's projection `[heads + 2 · groups, head_dim]`: with its bias, normed, turned to its position, into
/// `query` or into the cache's slot of its position.
#[cube(launch)]
fn place_heads_kernel<F: Float>(
    projected: &Tensor<F>,
    bias: &Tensor<F>,
    query_norm: &Tensor<F>,
    key_norm: &Tensor<F>,
    cos: &Tensor<f32>,
    sin: &Tensor<f32>,
    positions: &Tensor<i32>,
    query: &mut Tensor<F>,
    keys: &mut Tensor<F>,
    values: &mut Tensor<F>,
    epsilon: f32,
    count: u32,
    slots: u32,
    #[comptime] sizes: HeadLayout,
    #[define(F)] _dtype: ElemType,
) {
    let mut scratch = Shared::<[f32]>::new_slice(HEAD_UNITS);
    if CUBE_POS >= count as usize {
        terminate!();
    }
    let all = comptime!(sizes.heads + 2 * sizes.groups);
    let half = comptime!(sizes.head_dim / 2);
    let head_dim = comptime!(sizes.head_dim);
    let row = CUBE_POS / all;
    let head = CUBE_POS % all;
    let start = CUBE_POS * head_dim;
    let unit = UNIT_POS as usize;
    let is_query = head < sizes.heads;
    let is_value = head >= comptime!(sizes.heads + sizes.groups);
    let at = positions[row];
    // Idle rows write to the last slot, which no sequence reaches.
    let mut slot = slots - 1;
    if at < slots as i32 {
        slot = at as u32;
    }
    let slot = slot as usize;
    let mut scale = 1.0f32;
    if comptime!(sizes.has_norm) {
        let mut squares = 0.0f32;
        let mut i = unit;
        while i < head_dim {
            let x =
                f32::cast_from(projected[start + i]) + f32::cast_from(bias[head * head_dim + i]);
            squares += x * x;
            i += HEAD_UNITS;
        }
        let total = sum_of_units(&mut scratch, squares);
        if !is_value {
            scale = 1.0f32 / (total / head_dim as f32 + epsilon).sqrt();
        }
    }
    let mut i = unit;
    while i < half {
        let mut a =
            f32::cast_from(projected[start + i]) + f32::cast_from(bias[head * head_dim + i]);
        let mut b = f32::cast_from(projected[start + half + i])
            + f32::cast_from(bias[head * head_dim + half + i]);
        if comptime!(sizes.has_norm) {
            if is_query {
                a *= scale * f32::cast_from(query_norm[i]);
                b *= scale * f32::cast_from(query_norm[half + i]);
            } else if !is_value {
                a *= scale * f32::cast_from(key_norm[i]);
                b *= scale * f32::cast_from(key_norm[half + i]);
            }
        }
        if is_value {
            let group = head - comptime!(sizes.heads + sizes.groups);
            let place = ((row * sizes.groups + group) * slots as usize + slot) * head_dim + i;
            values[place] = F::cast_from(a);
            values[place + half] = F::cast_from(b);
        } else {
            // Rounded as the plain form rounds before it turns.
            let a = f32::cast_from(F::cast_from(a));
            let b = f32::cast_from(F::cast_from(b));
            let c = cos[slot * half + i];
            let s = sin[slot * half + i];
            let first = F::cast_from(a * c - b * s);
            let second = F::cast_from(b * c + a * s);
            if is_query {
                let place = (row * sizes.heads + head) * head_dim + i;
                query[place] = first;
                query[place + half] = second;
            } else {
                let group = head - sizes.heads;
                let place = ((row * sizes.groups + group) * slots as usize + slot) * head_dim + i;
                keys[place] = first;
                keys[place + half] = second;
            }
        }
        i += HEAD_UNITS;
    }
}

/// Places the heads of `projected` `[rows, (heads + 2 · groups) · head_dim]`, to which `bias` is added, and norms of
/// `[head_dim]` applied where the sizes say so: queries `[rows, heads, head_dim]` come back
/// with the cache's keys and values `[rows, groups, slots, head_dim]`, written in place where nothing else holds them.
pub(super) fn place_heads(
    projected: CubeTensor,
    [bias, query_norm, key_norm]: [CubeTensor; 3],
    [cos, sin]: [CubeTensor; 2],
    positions: CubeTensor,
    [keys, values]: [CubeTensor; 2],
    sizes: HeadLayout,
    epsilon: f32,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let owned = |cache: CubeTensor| {
        let cache = if cache.can_mut() { cache } else { cache.copy() };
        into_contiguous(cache)
    };
    let [keys, values] = [keys, values].map(owned);
    let [projected, cos, sin, positions] = [projected, cos, sin, positions].map(into_contiguous);
    let [bias, query_norm, key_norm] = [bias, query_norm, key_norm].map(into_contiguous);
    let [rows, _] = projected.shape().dims::<2>();
    let [_, _, slots, _] = keys.shape().dims::<4>();
    let query = super::empty(
        &projected,
        [rows, sizes.heads, sizes.head_dim].into(),
        projected.dtype,
    );
    let count = rows * (sizes.heads + 2 * sizes.groups);
    place_heads_kernel::launch(
        &projected.client.clone(),
        cube_for_each(count),
        CubeDim::new_1d(HEAD_UNITS as u32),
        projected.clone().into_tensor_arg(),
        bias.into_tensor_arg(),
        query_norm.into_tensor_arg(),
        key_norm.into_tensor_arg(),
        cos.into_tensor_arg(),
        sin.into_tensor_arg(),
        positions.into_tensor_arg(),
        query.clone().into_tensor_arg(),
        keys.clone().into_tensor_arg(),
        values.clone().into_tensor_arg(),
        epsilon,
        count as u32,
        slots as u32,
        sizes,
        element(projected.dtype),
    );
    (query, keys, values)
}
