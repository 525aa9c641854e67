//! Attention of one new token a row over the cache.

use burn::backend::TensorMetadata;
use burn_cubecl::{
    kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{ir::ElemType, prelude::*};

use super::{
    element,
    reduce::{UNITS, cube_for_each, largest_of_units, sum_of_units},
};

/// softmax(q·kᵀ/√d)·v of one query head over the keys that it sees, a tile of them at a time with running sums
/// (arXiv 2205.14135), so that no score is written to memory.
#[cube(launch)]
fn decode_attention_kernel<F: Float>(
    query: &Tensor<F>,
    keys: &Tensor<F>,
    values: &Tensor<F>,
    key_positions: &Tensor<i32>,
    query_positions: &Tensor<i32>,
    out: &mut Tensor<F>,
    window: i32,
    count: u32,
    slots: u32,
    #[comptime] heads: usize,
    #[comptime] groups: usize,
    #[comptime] head_dim: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let mut weights = Shared::<[f32]>::new_slice(UNITS);
    let mut q = Shared::<[f32]>::new_slice(head_dim);
    if CUBE_POS >= count as usize {
        terminate!();
    }
    let capacity = slots as usize;
    let unit = UNIT_POS as usize;
    let head = CUBE_POS % heads;
    let row = CUBE_POS / heads;
    let group = head / (heads / groups);
    let scale = 1.0f32 / (head_dim as f32).sqrt();
    let query_start = (row * heads + head) * head_dim;
    let mut i = unit;
    while i < head_dim {
        q[i] = f32::cast_from(query[query_start + i]) * scale;
        i += UNITS;
    }
    sync_cube();
    let at = query_positions[row];
    let cache_start = (row * groups + group) * capacity;
    // A token lies in the slot of its position: beyond the query's own there is nothing to see.
    let mut largest = f32::new(-1e30);
    let mut total = 0.0f32;
    let mut mixed = 0.0f32;
    let mut tile = 0usize;
    while tile < capacity {
        let slot = tile + unit;
        let mut score = f32::new(-1e30);
        let mut visible = false;
        if slot < capacity {
            let position = key_positions[row * capacity + slot];
            visible = position <= at && at - position < window;
        }
        if visible {
            let start = (cache_start + slot) * head_dim;
            let mut dot = 0.0f32;
            for d in 0..head_dim {
                dot += q[d] * f32::cast_from(keys[start + d]);
            }
            score = dot;
        }
        let peak = largest_of_units(&mut scratch, score);
        let mut next = largest;
        if peak > next {
            next = peak;
        }
        let mut weight = 0.0f32;
        if visible {
            weight = (score - next).exp();
        }
        weights[unit] = weight;
        let sum = sum_of_units(&mut scratch, weight);
        let shrink = (largest - next).exp();
        total = total * shrink + sum;
        mixed *= shrink;
        if unit < head_dim && tile as i32 <= at {
            for j in 0..UNITS {
                if tile + j < capacity {
                    let weight = weights[j];
                    if weight > 0.0f32 {
                        mixed += weight
                            * f32::cast_from(values[(cache_start + tile + j) * head_dim + unit]);
                    }
                }
            }
        }
        largest = next;
        sync_cube();
        tile += UNITS;
    }
    if unit < head_dim {
        let mut value = 0.0f32;
        // Nothing visible is nothing mixed; what is no number stays none.
        if total != 0.0f32 {
            value = mixed / total;
        }
        out[query_start + unit] = F::cast_from(value);
    }
}

/// The widest head that the kernel takes: a unit for each of its elements.
pub(super) const WIDEST_HEAD: usize = UNITS;

/// Attention of queries `[rows, heads, head_dim]` over caches `[rows, groups, capacity, head_dim]`, whose slots hold the
/// tokens of `key_positions` `[rows, capacity]`.
pub(super) fn decode_attention(
    query: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    key_positions: CubeTensor,
    query_positions: CubeTensor,
    window: i32,
) -> CubeTensor {
    let [query, keys, values] = [query, keys, values].map(into_contiguous);
    let [key_positions, query_positions] = [key_positions, query_positions].map(into_contiguous);
    let [rows, heads, head_dim] = query.shape().dims::<3>();
    let [_, groups, capacity, _] = keys.shape().dims::<4>();
    let out = empty_device_contiguous_dtype(
        query.client.clone(),
        query.device.clone(),
        query.shape(),
        query.dtype,
    );
    decode_attention_kernel::launch(
        &query.client.clone(),
        cube_for_each(rows * heads),
        CubeDim::new_1d(UNITS as u32),
        query.clone().into_tensor_arg(),
        keys.into_tensor_arg(),
        values.into_tensor_arg(),
        key_positions.into_tensor_arg(),
        query_positions.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        window,
        (rows * heads) as u32,
        capacity as u32,
        heads,
        groups,
        head_dim,
        element(query.dtype),
    );
    out
}
