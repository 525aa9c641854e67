//! The model's head by kernels.

use burn::tensor::{DType, Int, Tensor};

use super::{FigurePlan, token_figures};
use crate::{CausalLm, HeadOptions, TokenScores, head::part_at_once};

impl CausalLm {
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
        let [tokens_at_once, ids_at_once] = part_at_once(&hidden.device());
        let plan = FigurePlan {
            temperature: options.temperature as f32,
            is_tied,
            tokens_at_once,
            ids_at_once,
        };
        TokenScores::from_figures(
            token_figures(hidden, weight, targets, plan),
            options.entropy,
        )
    }
}
