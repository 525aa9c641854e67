//! CE-GPPO: outside the clip, a bounded gradient instead of none.

use serde::{Deserialize, Serialize};

use super::{PerToken, PolicyLoss, PolicyTerms, PpoClip};
use crate::{LossError, error::check_range};

/// Gradient-preserving clipping:
///
/// ```text
/// l = -β1·(1 - ε_low)·r/sg(r)·A     where A < 0 and r < 1 - ε_low
/// l = -β2·(1 + ε_high)·r/sg(r)·A    where A > 0 and r > 1 + ε_high
/// l = -A·r                          elsewhere
/// ```
///
/// β1 moves entropy down (it pushes unlikely tokens further down), β2 up. With both at 0 the
/// gradient is that of PPO's clip.
///
/// # References
/// arXiv 2509.20712, Eq. 8. It tunes β1 and β2 by model; the defaults keep three quarters of the bound
/// below the clip and all of it above, with the clip of the authors' runs, 0.2 on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CeGppo {
    /// `ε_low` of the clip.
    pub clip_low: f64,
    /// `ε_high` of the clip.
    pub clip_high: f64,
    /// β1: the share of the bound that is kept below the clip.
    pub beta_low: f64,
    /// β2: the share of the bound that is kept above the clip.
    pub beta_high: f64,
}

impl Default for CeGppo {
    fn default() -> Self {
        Self {
            clip_low: 0.2,
            clip_high: 0.2,
            beta_low: 0.75,
            beta_high: 1.0,
        }
    }
}

impl PolicyLoss for CeGppo {
    fn validate(&self) -> Result<(), LossError> {
        self.ppo_clip().validate()?;
        let requirement = "it must be finite and at least 0";
        let passes = |v: f64| v.is_finite() && v >= 0.0;
        check_range("loss.beta_low", self.beta_low, requirement, passes)?;
        check_range("loss.beta_high", self.beta_high, requirement, passes)
    }

    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        let (log_ratio, advantages) = (terms.log_ratio.clone(), terms.advantages.clone());
        let clipped = self.ppo_clip().clipped(&log_ratio, &advantages);
        let is_clipped = clipped.clone().greater_elem(0.0);
        let is_gain = advantages.clone().greater_elem(0.0);
        let bound = advantages
            .full_like(self.beta_low * (1.0 - self.clip_low))
            .mask_fill(is_gain, self.beta_high * (1.0 + self.clip_high));
        // r/sg(r) is 1, and its gradient by Δ is 1 too.
        let ratio_over_itself = (log_ratio.clone() - log_ratio.clone().detach()).exp();
        let inside = log_ratio.mask_fill(is_clipped.clone(), 0.0).exp();
        let weight = inside.mask_where(is_clipped, ratio_over_itself * bound);
        PerToken {
            loss: -(weight * advantages),
            clipped: Some(clipped),
        }
    }
}

impl CeGppo {
    fn ppo_clip(self) -> PpoClip {
        PpoClip {
            clip_low: self.clip_low,
            clip_high: self.clip_high,
            dual_clip: None,
        }
    }
}
