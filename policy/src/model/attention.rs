//! Grouped-query self-attention.

use burn::{
    module::Module,
    nn::{Linear, RmsNorm, RmsNormConfig},
    tensor::{DType, Device, Tensor, activation::softmax},
};

use super::{
    cache::LayerCache,
    mlp::projection,
    operations::Operations,
    rope::{Rotation, Visibility},
};
use crate::{Family, ModelConfig};

/// Self-attention with rotary positions and fewer key heads than query heads (arXiv 2305.13245).
#[derive(Module, Debug)]
pub(super) struct Attention {
    pub(super) q_proj: Linear,
    pub(super) k_proj: Linear,
    pub(super) v_proj: Linear,
    pub(super) o_proj: Linear,
    pub(super) q_norm: Option<RmsNorm>,
    pub(super) k_norm: Option<RmsNorm>,
    #[module(skip)]
    head_dim: usize,
}

impl Attention {
    pub(super) fn new(config: &ModelConfig, device: &Device) -> Self {
        let width = config.hidden_size;
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let bias = config.attention_bias;
        let head_norm = || {
            let norm = RmsNormConfig::new(config.head_dim).with_epsilon(config.rms_norm_eps);
            (config.family == Family::Qwen3).then(|| norm.init(device))
        };
        Self {
            q_proj: projection(width, queries, bias, device),
            k_proj: projection(width, keys, bias, device),
            v_proj: projection(width, keys, bias, device),
            o_proj: projection(queries, width, config.attention_output_bias, device),
            q_norm: head_norm(),
            k_norm: head_norm(),
            head_dim: config.head_dim,
        }
    }

    /// softmax(q·kᵀ/√d + bias)·v over the given keys, or over the cache's once the given ones are in it.
    ///
    /// # Shapes
    /// `[batch, length, hidden_size]` in and out.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        visibility: &Visibility,
        cache: Option<&mut LayerCache>,
        operations: Operations,
    ) -> Tensor<3> {
        let heads = |projected, norm| self.heads(projected, norm, operations);
        let query = heads(self.q_proj.forward(x.clone()), self.q_norm.as_ref());
        let key = heads(self.k_proj.forward(x.clone()), self.k_norm.as_ref());
        let value = heads(self.v_proj.forward(x), None).swap_dims(1, 2);
        let query = operations.rotate(query, rotation);
        let key = operations.rotate(key, rotation);
        let has_gradient = cache.is_none();
        let (key, value) = match cache {
            Some(cache) => cache.update(key, value),
            None => (key, value),
        };
        let mixed = if has_gradient {
            attend(query, key, value, visibility)
        } else {
            operations.attend(query, key, value, visibility)
        };
        self.o_proj.forward(mixed)
    }

    /// Splits `[batch, length, heads · head_dim]` into `[batch, length, heads, head_dim]`, normed where Qwen 3 norms.
    fn heads(&self, x: Tensor<3>, norm: Option<&RmsNorm>, operations: Operations) -> Tensor<4> {
        let [batch, length, width] = x.dims();
        let x = x.reshape([batch, length, width / self.head_dim, self.head_dim]);
        match norm {
            Some(norm) => operations.rms_norm(norm, x),
            None => x,
        }
    }
}

/// Attention proper. Query heads of one group are laid as rows beside each other, so keys need no copies.
pub(super) fn attend(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    visibility: &Visibility,
) -> Tensor<3> {
    let [batch, heads, length, head_dim] = query.dims();
    let [_, groups, keys, _] = key.dims();
    let rows = heads / groups * length;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let query = (query * scale).reshape([batch, groups, rows, head_dim]);
    let scores = query
        .matmul(key.swap_dims(2, 3))
        .reshape([batch, heads, length, keys]);
    let dtype = scores.dtype();
    // Sums of exponentials in f32, whatever is multiplied.
    let weights = softmax(scores.cast(DType::F32) + visibility.bias(), 3).cast(dtype);
    let weights = weights.reshape([batch, groups, rows, keys]);
    let mixed = weights
        .matmul(value)
        .reshape([batch, heads, length, head_dim]);
    mixed
        .swap_dims(1, 2)
        .reshape([batch, length, heads * head_dim])
}
