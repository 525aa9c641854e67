//! What a policy loss reads, and what it returns.

use burn::tensor::Tensor;

use crate::LossStats;

/// A micro-batch on the device. All tensors are `[batch, response_len]`, f32.
///
/// Padding (mask 0) may hold anything, NaN included: it reaches neither value nor gradient.
#[derive(Debug, Clone)]
pub struct LossInputs {
    /// `log π` of each response token under the policy that is trained, with its graph.
    pub log_probs: Tensor<2>,
    /// `log π_old`, by the trainer before the update.
    pub old_log_probs: Tensor<2>,
    /// The advantage of each token.
    pub advantages: Tensor<2>,
    /// 1 for a trained token, 0 for padding.
    pub mask: Tensor<2>,
    /// What only some objectives read.
    pub optional: OptionalInputs,
}

/// Inputs that only some objectives read; all `[batch, response_len]`.
#[derive(Debug, Clone, Default)]
pub struct OptionalInputs {
    /// `log π_ref`, where a KL penalty to a reference policy is configured.
    pub ref_log_probs: Option<Tensor<2>>,
    /// Entropies under the policy that is trained, at temperature 1, in nats: with their graph
    /// where a bonus is configured.
    pub entropies: Option<Tensor<2>>,
    /// The same under the old policy.
    pub old_entropies: Option<Tensor<2>>,
    /// Factors of the policy loss, from [`RolloutCorrection`](crate::RolloutCorrection).
    pub weights: Option<Tensor<2>>,
}

impl LossInputs {
    /// The inputs that every objective reads.
    pub fn new(
        log_probs: Tensor<2>,
        old_log_probs: Tensor<2>,
        advantages: Tensor<2>,
        mask: Tensor<2>,
    ) -> Self {
        Self {
            log_probs,
            old_log_probs,
            advantages,
            mask,
            optional: OptionalInputs::default(),
        }
    }

    /// These inputs with 0 wherever the mask is 0.
    ///
    /// # Panics
    /// If a shape differs from the mask's.
    pub(crate) fn without_padding(&self) -> Self {
        let padding = self.mask.clone().equal_elem(0.0);
        let blank = |name: &str, tensor: &Tensor<2>| {
            let (found, expected) = (tensor.dims(), self.mask.dims());
            assert_eq!(
                found, expected,
                "{name} is {found:?}, the mask is {expected:?}"
            );
            tensor.clone().mask_fill(padding.clone(), 0.0)
        };
        let optional =
            |name: &str, tensor: &Option<Tensor<2>>| tensor.as_ref().map(|t| blank(name, t));
        Self {
            log_probs: blank("log_probs", &self.log_probs),
            old_log_probs: blank("old_log_probs", &self.old_log_probs),
            advantages: blank("advantages", &self.advantages),
            mask: self.mask.clone(),
            optional: OptionalInputs {
                ref_log_probs: optional("ref_log_probs", &self.optional.ref_log_probs),
                entropies: optional("entropies", &self.optional.entropies),
                old_entropies: optional("old_entropies", &self.optional.old_entropies),
                weights: optional("weights", &self.optional.weights),
            },
        }
    }

    /// `Δ = log π - log π_old`.
    pub(crate) fn log_ratio(&self) -> Tensor<2> {
        self.log_probs.clone() - self.old_log_probs.clone()
    }
}

/// A micro-batch's share of the mini-batch's loss, and its statistics.
#[derive(Debug, Clone)]
pub struct LossOutput {
    /// The loss to take the gradient of, `[1]`. Those of a mini-batch's micro-batches add up.
    pub loss: Tensor<1>,
    /// Sums over the micro-batch, still on the device and without a graph.
    pub stats: LossStats,
}
