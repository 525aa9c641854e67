//! Grouped-query self-attention.

use burn::{
    module::Module,
    nn::{Linear, RmsNorm, RmsNormConfig},
    tensor::{Device, Tensor},
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
    pub(super) head_dim: usize,
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

    /// softmax(q·kᵀ/√d)·v over the given keys, or over the cache's once the given ones are in it.
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
        let heads = |projection, norm| {
            let projected = operations.linear(projection, x.clone());
            self.heads(projected, norm, operations)
        };
        let query = heads(&self.q_proj, self.q_norm.as_ref());
        let key = heads(&self.k_proj, self.k_norm.as_ref());
        let value = heads(&self.v_proj, None).swap_dims(1, 2);
        let query = operations.rotate(query, rotation);
        let key = operations.rotate(key, rotation);
        let mixed = match cache {
            Some(cache) => {
                let is_fresh = cache.is_fresh();
                let cached = cache.update(key.clone(), value.clone());
                // Kernels need no mask of the cache's slots to see what came with a token.
                if is_fresh && operations.are_kernels() {
                    operations.attend(query, key, value, visibility)
                } else {
                    let (key, value) = cached;
                    operations.attend_cached(query, key, value, visibility)
                }
            }
            None => operations.attend(query, key, value, visibility),
        };
        operations.linear(&self.o_proj, mixed)
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
