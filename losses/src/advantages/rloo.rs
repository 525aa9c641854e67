//! Leave-one-out advantages.

use serde::{Deserialize, Serialize};

use super::{AdvantageInputs, Advantages, Estimator, baseline};
use crate::LossError;

/// `A = R - mean of the group's other rewards = (R - μ)·n/(n-1)`. A group of one keeps its reward.
///
/// # References
/// RLOO, arXiv 2402.14740.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rloo {}

impl Estimator for Rloo {
    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        Ok(inputs.broadcast(&inputs.map_groups(|rewards, _| left_out(rewards))))
    }
}

fn left_out(rewards: &[f64]) -> Vec<f64> {
    let (mean, n) = (baseline(rewards), rewards.len() as f64);
    let scale = if n > 1.0 { n / (n - 1.0) } else { 1.0 };
    rewards
        .iter()
        .map(|reward| (reward - mean) * scale)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reward_is_compared_with_the_mean_of_the_others() {
        assert_eq!(left_out(&[1.0, 0.0, 0.5]), [0.75, -0.75, 0.0]);
        assert_eq!(left_out(&[0.25]), [0.25]);
    }
}
