//! CISPO: the clip bounds the weight of a token, never its gradient.

use serde::{Deserialize, Serialize};

use super::{PerToken, PolicyLoss, PolicyTerms, PpoClip};
use crate::LossError;

/// The reference's bound on Δ.
const LARGEST_LOG_RATIO: f64 = 20.0;

/// Clipped importance-sampling weights:
///
/// ```text
/// l = -sg(clip(r, 1 - ε_low, 1 + ε_high))·A·log π
/// ```
///
/// # References
/// MiniMax-M1, arXiv 2506.13585, Eq. 4 and 5, which leaves the lower end open, as the default does: a bound there would raise
/// the weight of tokens that the policy has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cispo {
    /// `ε_low`: weights are at least `1 - ε_low`; 1 is no bound.
    pub clip_low: f64,
    /// `ε_high`: weights are at most `1 + ε_high`.
    pub clip_high: f64,
}

impl Default for Cispo {
    fn default() -> Self {
        Self {
            clip_low: 1.0,
            clip_high: 0.28,
        }
    }
}

impl PolicyLoss for Cispo {
    fn validate(&self) -> Result<(), LossError> {
        PpoClip {
            clip_low: self.clip_low,
            clip_high: self.clip_high,
            dual_clip: None,
        }
        .validate()
    }

    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        let log_ratio = terms.log_ratio.clone().detach();
        let ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp();
        let weight = ratio
            .clone()
            .clamp(1.0 - self.clip_low, 1.0 + self.clip_high);
        let clipped = ratio.not_equal(weight.clone()).float();
        PerToken {
            loss: -(terms.log_probs.clone() * (weight * terms.advantages.clone())),
            clipped: Some(clipped.without_autodiff()),
        }
    }
}
