//! GMPO: the geometric mean of a sequence's ratios.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Granularity, PerToken, PolicyLoss, PolicyTerms};
use crate::{LossError, error::check_range};

/// Geometric-Mean Policy Optimization:
///
/// ```text
/// x = sgn(A)·min(sgn(A)·Δ, sgn(A)·clip(Δ, -ε_low, ε_high))
/// l = -⟨A⟩_sequence·exp(⟨x⟩_sequence), mean over sequences
/// ```
///
/// The clip is in log space. Every token of a sequence bears the sequence's loss, which the mean
/// over tokens leaves as it is.
///
/// # References
/// arXiv 2507.20673 and its published code, from which the clip of 0.4 is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gmpo {
    /// `ε_low`: Δ below `-ε_low` gets no gradient where A < 0.
    pub clip_low: f64,
    /// `ε_high`: Δ above `ε_high` gets no gradient where A > 0.
    pub clip_high: f64,
}

impl Default for Gmpo {
    fn default() -> Self {
        Self {
            clip_low: 0.4,
            clip_high: 0.4,
        }
    }
}

impl Gmpo {
    /// 1 where the clip holds, without a graph.
    fn clipped(self, log_ratio: &Tensor<2>, advantages: &Tensor<2>) -> Tensor<2> {
        let (log_ratio, advantages) = (
            log_ratio.clone().without_autodiff(),
            advantages.clone().without_autodiff(),
        );
        let above = log_ratio.clone().greater_elem(self.clip_high).float()
            * advantages.clone().greater_elem(0.0).float();
        let below =
            log_ratio.lower_elem(-self.clip_low).float() * advantages.lower_elem(0.0).float();
        above + below
    }
}

impl PolicyLoss for Gmpo {
    fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must be finite and at least 0";
        let passes = |v: f64| v.is_finite() && v >= 0.0;
        check_range("loss.clip_low", self.clip_low, requirement, passes)?;
        check_range("loss.clip_high", self.clip_high, requirement, passes)
    }

    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        let log_ratio = terms.log_ratio.clone();
        let clipped = self.clipped(&log_ratio, &terms.advantages);
        let is_gain = terms.advantages.clone().greater_elem(0.0);
        let is_nothing = terms.advantages.clone().equal_elem(0.0);
        let x = log_ratio
            .clone()
            .clamp_min(-self.clip_low)
            .mask_where(is_gain, log_ratio.clamp_max(self.clip_high))
            .mask_fill(is_nothing, 0.0);
        let advantage = terms.row_means(terms.advantages.clone());
        let loss = -(advantage * terms.row_means(x).exp());
        PerToken {
            loss: loss.expand(terms.mask.dims()),
            clipped: Some(clipped),
        }
    }

    fn granularity(&self) -> Granularity {
        Granularity::Sequence
    }
}
