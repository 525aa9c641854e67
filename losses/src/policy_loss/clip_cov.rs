//! Clip-Cov as a loss of its own: PPO's clip under the selection of `controller/clip_cov.rs`.

use serde::{Deserialize, Serialize};

use super::{PerToken, PolicyLoss, PolicyTerms, PpoClip};
use crate::{ClipCovControl, LossError, SelectionScope};

/// Clip-Cov: PPO's clip, in effect off as in the paper's scripts, and [`ClipCovControl`].
///
/// # References
/// arXiv 2505.22617, Section 4, and its published code.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipCov {
    /// `ε_low` of the PPO clip underneath.
    pub clip_low: f64,
    /// `ε_high` of the PPO clip underneath.
    pub clip_high: f64,
    /// As in [`ClipCovControl`].
    pub fraction: f64,
    /// As in [`ClipCovControl`].
    pub cov_low: f64,
    /// As in [`ClipCovControl`].
    pub cov_high: f64,
    /// As in [`ClipCovControl`].
    pub selection: SelectionScope,
}

impl Default for ClipCov {
    fn default() -> Self {
        let ClipCovControl {
            fraction,
            cov_low,
            cov_high,
            selection,
        } = ClipCovControl::default();
        Self {
            clip_low: 1.0,
            clip_high: 1.0,
            fraction,
            cov_low,
            cov_high,
            selection,
        }
    }
}

impl ClipCov {
    fn ppo_clip(self) -> PpoClip {
        PpoClip {
            clip_low: self.clip_low,
            clip_high: self.clip_high,
            dual_clip: None,
        }
    }

    fn control(self) -> ClipCovControl {
        ClipCovControl {
            fraction: self.fraction,
            cov_low: self.cov_low,
            cov_high: self.cov_high,
            selection: self.selection,
        }
    }
}

impl PolicyLoss for ClipCov {
    fn validate(&self) -> Result<(), LossError> {
        self.ppo_clip().validate()?;
        self.control().validate("loss")
    }

    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        self.ppo_clip().per_token(terms)
    }

    fn clip(&self) -> Option<PpoClip> {
        Some(self.ppo_clip())
    }

    fn clip_cov(&self) -> Option<ClipCovControl> {
        Some(self.control())
    }
}
