//! The model's head by kernels.

use burn::tensor::{DType, Int, Tensor};

use super::{super::operations::Operations, FigurePlan, token_figures};
use crate::{CausalLm, HeadOptions, TokenScores};

/// Tokens and ids whose logits are held at once: 4,096 × 8,192 in f32 are 134 MB.
const TOKENS: usize = 4096;
const IDS: usize = 8192;

impl CausalLm {
    /// Whether this model's head, norms, activations, rotations and decoding are kernels of our own.
    pub(crate) fn has_kernels(&self) -> bool {
        self.operations() != Operations::Plain
    }

    pub(crate) fn kernel_scores(
        &self,
        hidden: Tensor<2>,
        targets: &[u32],
        options: HeadOptions,
    ) -> TokenScores {
        let targets: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
        let targets =
            Tensor::<1, Int>::from_data(targets.as_slice(), (&hidden.device(), DType::I32));
        let (weight, is_tied) = self.head_weight();
        let plan = FigurePlan {
            temperature: options.temperature as f32,
            is_tied,
            tokens_at_once: TOKENS,
            ids_at_once: IDS,
        };
        TokenScores::from_figures(
            token_figures(hidden, weight, targets, plan),
            options.entropy,
        )
    }
}
