//! The model's fast form on the CPU: packed sequences, each block one operation, the head another.

mod block;
mod decode;
mod head;
mod low_rank;
mod norm;
mod operation;
mod packing;
mod shape;

use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor};
pub use kernels::{Compute, Packing};

pub use decode::{Decoder, PackedModel, Prefilled, Prefix};
pub(super) use low_rank::{Adapters, merged};
pub use packing::PackedTokens;
pub use shape::Recompute;
pub(super) use shape::Shape;

use self::{
    head::{HeadPlan, token_figures},
    norm::row_norm,
    operation::decoder_block,
    shape::{BlockPlan, Layout},
};
use super::CausalLm;
use crate::{EntropyPass, HeadOptions, TokenScores};

/// How a model is computed. No choice changes a result beyond the rounding that it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Execution {
    /// Whether the plain form is used even where a faster one is at hand: it is what the fast one is tested against.
    pub plain: bool,
    /// What the fast form computes again in its backward pass.
    pub recompute: Recompute,
    /// What the fast form's products round their operands to; sums, norms and weights stay f32.
    pub compute: Compute,
    /// What generation's copy of the weights is rounded to, where that is not what [`compute`](Self::compute) says.
    pub generation: Option<Packing>,
}

impl Execution {
    /// What generation rounds to.
    pub fn packing(&self) -> Packing {
        self.generation.unwrap_or_else(|| self.compute.into())
    }
}

impl CausalLm {
    /// The same model, computed in another way.
    #[must_use]
    pub fn with_execution(mut self, execution: Execution) -> Self {
        self.execution = execution;
        self
    }

    /// How this model is computed.
    pub fn execution(&self) -> Execution {
        self.execution
    }

    /// Whether the fast form computes this model: on the CPU, in f32, unless the plain form was asked for.
    pub fn is_fused(&self) -> bool {
        !self.execution.plain
            && self.device().inner() == Device::flex()
            && self.dtype() == DType::F32
            && kernels::is_fast()
    }

    /// The hidden states, after the last norm, that predict the response tokens, in the sequences' order.
    ///
    /// # Shapes
    /// `[response tokens, hidden_size]`.
    pub fn response_states(&self, tokens: &PackedTokens) -> Tensor<2> {
        if self.is_fused() {
            return self.fused_states(tokens);
        }
        self.packed_states(tokens)
    }

    fn fused_states(&self, tokens: &PackedTokens) -> Tensor<2> {
        let device = self.device();
        let ids: Vec<i32> = tokens.ids().iter().map(|&id| id as i32).collect();
        let ids = Tensor::<1, Int>::from_data(ids.as_slice(), (&device, DType::I32));
        let layout = Arc::new(Layout::new(tokens, &self.inverse_frequencies));
        let mut x = self.model.embed_tokens.weight.val().select(0, ids);
        for (layer, shape) in self.model.layers.iter().zip(&self.shapes) {
            let (matrices, factors, adapters) = layer.bases();
            let plan = BlockPlan {
                shape: shape.clone(),
                layout: layout.clone(),
                recompute: self.execution.recompute,
                compute: self.execution.compute,
                adapters: Arc::new(adapters),
            };
            let factors = factors.unwrap_or_else(|| Tensor::zeros([1], &device));
            x = decoder_block(x, layer.vectors(), matrices, factors, plan);
        }
        let predictors = Tensor::<1, Int>::from_data(tokens.predictors(), (&device, DType::I32));
        let epsilon = self.shapes.first().map_or(0.0, |shape| shape.epsilon);
        row_norm(
            x.select(0, predictors),
            self.model.norm.gamma.val(),
            epsilon,
        )
    }

    pub(crate) fn fused_scores(
        &self,
        hidden: Tensor<2>,
        targets: &[u32],
        options: HeadOptions,
    ) -> TokenScores {
        let (weight, is_tied) = self.head_weight();
        let plan = HeadPlan {
            targets: Arc::new(targets.to_vec()),
            temperature: options.temperature as f32,
            has_entropy: options.entropy != EntropyPass::Skip,
            is_tied,
            compute: self.execution.compute,
        };
        TokenScores::from_figures(token_figures(hidden, weight, plan), options.entropy)
    }
}
