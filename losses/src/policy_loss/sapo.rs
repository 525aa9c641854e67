//! SAPO: a soft gate in the place of the clip.

use burn::tensor::activation::sigmoid;
use serde::{Deserialize, Serialize};

use super::{Granularity, PerToken, PolicyLoss, PolicyTerms};
use crate::{LossError, error::check_range};

/// The reference's bound on Δ.
const LARGEST_LOG_RATIO: f64 = 20.0;

/// Soft Adaptive Policy Optimization:
///
/// ```text
/// l = -A·σ(τ·(r - 1))·4/τ,  τ = τ_pos where A > 0, else τ_neg;  mean over sequences of the mean over tokens
/// ```
///
/// The gate's slope is 1 at r = 1 and falls smoothly to 0 away from it.
///
/// # References
/// arXiv 2511.20347.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sapo {
    /// The gate's temperature where A > 0.
    pub tau_pos: f64,
    /// The gate's temperature where A ≤ 0: higher, as negative updates are less stable.
    pub tau_neg: f64,
}

impl Default for Sapo {
    fn default() -> Self {
        Self {
            tau_pos: 1.0,
            tau_neg: 1.05,
        }
    }
}

impl PolicyLoss for Sapo {
    fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must be finite and above 0";
        let passes = |v: f64| v.is_finite() && v > 0.0;
        check_range("loss.tau_pos", self.tau_pos, requirement, passes)?;
        check_range("loss.tau_neg", self.tau_neg, requirement, passes)
    }

    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        let log_ratio = terms.log_ratio.clone();
        let ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp();
        let is_gain = terms.advantages.clone().greater_elem(0.0);
        let tau = terms.mask.full_like(self.tau_neg);
        let tau = tau.mask_fill(is_gain, self.tau_pos);
        let gate = sigmoid((ratio - 1.0) * tau.clone()) / tau * 4.0;
        PerToken {
            loss: -(gate * terms.advantages.clone()),
            clipped: None,
        }
    }

    fn granularity(&self) -> Granularity {
        Granularity::TokenOfSequence
    }
}
