//! The optimal baseline of on-policy gradients.

use serde::{Deserialize, Serialize};

use super::{AdvantageInputs, Advantages, Estimator};
use crate::LossError;

/// `A = R - Σ L·R / Σ L` over a group, L the responses' lengths: the baseline of least variance
/// where a gradient's size grows with the length. A group of one keeps its reward.
///
/// # References
/// OPO, arXiv 2505.23585.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opo {}

impl Estimator for Opo {
    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        let lengths = inputs.lengths();
        let figures = inputs.map_groups(|rewards, rows| {
            let lengths: Vec<f64> = rows.iter().map(|&row| lengths[row]).collect();
            centred_by_length(rewards, &lengths)
        });
        Ok(inputs.broadcast(&figures))
    }
}

fn centred_by_length(rewards: &[f64], lengths: &[f64]) -> Vec<f64> {
    let total: f64 = lengths.iter().sum();
    let weighted: f64 = rewards.iter().zip(lengths).map(|(r, l)| r * l).sum();
    // A group of empty responses has nothing to train on, whatever its baseline.
    let mean = if rewards.len() < 2 || total == 0.0 {
        0.0
    } else {
        weighted / total
    };
    rewards.iter().map(|reward| reward - mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_responses_weigh_more_in_the_baseline() {
        // (3·1 + 1·0) / 4
        assert_eq!(centred_by_length(&[1.0, 0.0], &[3.0, 1.0]), [0.25, -0.75]);
        assert_eq!(centred_by_length(&[0.5], &[3.0]), [0.5]);
        assert_eq!(centred_by_length(&[0.5, 0.5], &[0.0, 0.0]), [0.5, 0.5]);
    }
}
