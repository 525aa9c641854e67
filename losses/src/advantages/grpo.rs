//! Group-relative advantages.

use serde::{Deserialize, Serialize};

use super::{AdvantageInputs, Advantages, Estimator, baseline, deviation};
use crate::{LossError, error::check_range};

/// What a group-relative advantage is divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrpoScale {
    /// The standard deviation of the group's rewards.
    #[default]
    Group,
    /// The standard deviation of all rewards given at once, so that an easy prompt's rare failure
    /// is not blown up.
    Batch,
    /// Nothing: equal to Dr. GRPO.
    None,
}

/// `A = (R - μ_group) / (σ + ε)`, with the unbiased standard deviation σ.
///
/// A group of one has μ = 0 and σ = 1.
///
/// # References
/// Group Relative Policy Optimization, arXiv 2402.03300, Section 4.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grpo {
    /// What to divide by.
    pub scale: GrpoScale,
    /// ε, added to the standard deviation.
    pub epsilon: f64,
}

impl Default for Grpo {
    fn default() -> Self {
        Self {
            scale: GrpoScale::Group,
            epsilon: 1e-6,
        }
    }
}

impl Estimator for Grpo {
    fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must be finite and above 0";
        check_range("advantage.epsilon", self.epsilon, requirement, |v| {
            v.is_finite() && v > 0.0
        })
    }

    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        let all = deviation(&inputs.outcomes());
        let figures = inputs.map_groups(|rewards, _| self.group_advantages(rewards, all));
        Ok(inputs.broadcast(&figures))
    }
}

impl Grpo {
    fn group_advantages(&self, rewards: &[f64], batch_deviation: f64) -> Vec<f64> {
        let mean = baseline(rewards);
        let divisor = match self.scale {
            GrpoScale::Group => deviation(rewards) + self.epsilon,
            GrpoScale::Batch => batch_deviation + self.epsilon,
            GrpoScale::None => 1.0,
        };
        rewards
            .iter()
            .map(|reward| (reward - mean) / divisor)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Advantages of responses of one token each.
    fn advantages(scale: GrpoScale, rewards: &[f64], groups: &[u64]) -> Vec<f64> {
        let inputs = AdvantageInputs {
            token_rewards: rewards,
            mask: &vec![1.0; rewards.len()],
            groups,
            values: None,
            greedy_rewards: None,
        };
        let grpo = Grpo {
            scale,
            ..Grpo::default()
        };
        grpo.estimate(&inputs).unwrap().advantages
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        // ε moves a quotient by about 2e-6.
        let close = found
            .iter()
            .zip(expected)
            .all(|(f, e)| (f - e).abs() < 1e-5);
        assert!(
            close && found.len() == expected.len(),
            "{found:?}, expected {expected:?}"
        );
    }

    #[test]
    fn one_right_of_four() {
        // μ = 1/4, σ = 1/2.
        let found = advantages(GrpoScale::Group, &[1.0, 0.0, 0.0, 0.0], &[5; 4]);
        assert_close(&found, &[1.5, -0.5, -0.5, -0.5]);
    }

    #[test]
    fn batch_scale_divides_all_groups_by_one_deviation() {
        // All rewards 1, 0, 1, 1: σ = 1/2; the second group has no deviation of its own.
        let found = advantages(GrpoScale::Batch, &[1.0, 1.0, 0.0, 1.0], &[1, 2, 1, 2]);
        assert_close(&found, &[1.0, 0.0, -1.0, 0.0]);
    }

    #[test]
    fn a_group_of_one_keeps_its_reward_and_equal_rewards_give_nothing() {
        let found = advantages(GrpoScale::Group, &[0.7, 1.0, 1.0], &[1, 2, 2]);
        assert_close(&found, &[0.7, 0.0, 0.0]);
    }
}
