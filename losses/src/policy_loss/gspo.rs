//! GSPO: the ratio of whole sequences.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Granularity, PerToken, PolicyLoss, PolicyTerms, PpoClip};
use crate::LossError;

/// The reference's bound on the log of the ratio.
const LARGEST_LOG_RATIO: f64 = 10.0;

/// Group Sequence Policy Optimization, in its token form:
///
/// ```text
/// s     = exp(⟨Δ⟩_sequence)
/// log s_t = sg(log s) + log π_t - sg(log π_t), at most 10
/// l     = max(-A·s_t, -A·clip(s_t, 1 - ε_low, 1 + ε_high)), mean over sequences of the mean over tokens
/// ```
///
/// Every token of a sequence has the sequence's ratio, and a gradient by its own `log π_t`.
///
/// # References
/// arXiv 2507.18071, Eq. 7 and Section 4.3 (GSPO-token); its clip of 3e-4 and 4e-4 is the default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gspo {
    /// `ε_low`: sequence ratios below `1 - ε_low` get no gradient where A < 0.
    pub clip_low: f64,
    /// `ε_high`: sequence ratios above `1 + ε_high` get no gradient where A > 0.
    pub clip_high: f64,
}

impl Default for Gspo {
    fn default() -> Self {
        Self {
            clip_low: 3e-4,
            clip_high: 4e-4,
        }
    }
}

impl Gspo {
    fn sequence_clip(self) -> PpoClip {
        PpoClip {
            clip_low: self.clip_low,
            clip_high: self.clip_high,
            dual_clip: None,
        }
    }

    fn log_sequence_ratio(terms: &PolicyTerms) -> Tensor<2> {
        let mean = terms.row_means(terms.log_ratio.clone()).detach();
        let own = terms.log_probs.clone() - terms.log_probs.clone().detach();
        (own + mean).clamp_max(LARGEST_LOG_RATIO)
    }
}

impl PolicyLoss for Gspo {
    fn validate(&self) -> Result<(), LossError> {
        self.sequence_clip().validate()
    }

    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        self.sequence_clip().per_token(&PolicyTerms {
            log_ratio: Self::log_sequence_ratio(terms),
            ..terms.clone()
        })
    }

    fn granularity(&self) -> Granularity {
        Granularity::TokenOfSequence
    }
}
