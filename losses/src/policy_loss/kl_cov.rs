//! KL-Cov as a loss of its own: the unclipped surrogate under the penalty of `controller/kl_cov.rs`.

use serde::{Deserialize, Serialize};

use super::{PerToken, PolicyLoss, PolicyTerms, importance_weighted};
use crate::{CovPenalty, KlCovControl, LossError, SelectionScope};

/// KL-Cov: `l = -A·r` without a PPO clip, and [`KlCovControl`].
///
/// # References
/// arXiv 2505.22617, Section 4, and its published code.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlCov {
    /// As in [`KlCovControl`].
    pub top_fraction: f64,
    /// As in [`KlCovControl`].
    pub kl_coef: f64,
    /// As in [`KlCovControl`].
    pub penalty: CovPenalty,
    /// As in [`KlCovControl`].
    pub selection: SelectionScope,
}

impl Default for KlCov {
    fn default() -> Self {
        let KlCovControl {
            top_fraction,
            kl_coef,
            penalty,
            selection,
        } = KlCovControl::default();
        Self {
            top_fraction,
            kl_coef,
            penalty,
            selection,
        }
    }
}

impl KlCov {
    fn control(self) -> KlCovControl {
        KlCovControl {
            top_fraction: self.top_fraction,
            kl_coef: self.kl_coef,
            penalty: self.penalty,
            selection: self.selection,
        }
    }
}

impl PolicyLoss for KlCov {
    fn validate(&self) -> Result<(), LossError> {
        self.control().validate("loss")
    }

    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        PerToken {
            loss: importance_weighted(terms.log_ratio.clone(), terms.advantages.clone()),
            clipped: None,
        }
    }

    fn kl_cov(&self) -> Option<KlCovControl> {
        Some(self.control())
    }
}
