//! GRPO without its division.

use serde::{Deserialize, Serialize};

use super::{AdvantageInputs, Advantages, Estimator, baseline};
use crate::LossError;

/// `A = R - μ_group`: without the division by the standard deviation, which favours prompts that
/// are nearly always or nearly never solved. A group of one has μ = 0.
///
/// # References
/// Dr. GRPO, arXiv 2503.20783, Section 3.2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrGrpo {}

impl Estimator for DrGrpo {
    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        Ok(inputs.broadcast(&inputs.map_groups(|rewards, _| centred(rewards))))
    }
}

/// Rewards less their group's mean.
pub(super) fn centred(rewards: &[f64]) -> Vec<f64> {
    let mean = baseline(rewards);
    rewards.iter().map(|reward| reward - mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_are_centred_by_group() {
        assert_eq!(centred(&[1.0, 0.0, 0.5]), [0.5, -0.5, 0.0]);
        assert_eq!(centred(&[0.25]), [0.25]);
    }
}
