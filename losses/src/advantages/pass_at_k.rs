//! Advantages for the best of a group.

use serde::{Deserialize, Serialize};

use super::{AdvantageInputs, Advantages, Estimator, deviation};
use crate::{LossError, error::check_range};

/// Only the best response of a group has an advantage, its lead over the second best:
///
/// ```text
/// A_best = (R_best - R_second) / (σ + ε),  A = 0 for the others
/// ```
///
/// # References
/// arXiv 2503.19595, as verl's `grpo_passk` has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PassAtK {
    /// Whether to divide by the group's standard deviation.
    pub scale_by_std: bool,
    /// ε, added to the standard deviation.
    pub epsilon: f64,
}

impl Default for PassAtK {
    fn default() -> Self {
        Self {
            scale_by_std: true,
            epsilon: 1e-6,
        }
    }
}

impl Estimator for PassAtK {
    fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must be finite and above 0";
        check_range("advantage.epsilon", self.epsilon, requirement, |v| {
            v.is_finite() && v > 0.0
        })
    }

    fn least_group_size(&self) -> usize {
        2
    }

    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        if let Some((group, _)) = inputs.by_group().iter().find(|(_, rows)| rows.len() < 2) {
            return Err(LossError::GroupOfOne {
                group: *group,
                estimator: "pass_at_k",
            });
        }
        Ok(inputs.broadcast(&inputs.map_groups(|rewards, _| self.leads(rewards))))
    }
}

impl PassAtK {
    fn leads(self, rewards: &[f64]) -> Vec<f64> {
        let mut order: Vec<usize> = (0..rewards.len()).collect();
        order.sort_by(|&i, &j| rewards[j].total_cmp(&rewards[i]));
        let (best, second) = (order[0], order[1]);
        let divisor = if self.scale_by_std {
            deviation(rewards) + self.epsilon
        } else {
            1.0
        };
        let mut leads = vec![0.0; rewards.len()];
        leads[best] = (rewards[best] - rewards[second]) / divisor;
        leads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_leads_the_second_best() {
        let plain = PassAtK {
            scale_by_std: false,
            ..PassAtK::default()
        };
        assert_eq!(plain.leads(&[0.25, 1.0, 0.75]), [0.0, 0.25, 0.0]);
        assert_eq!(plain.leads(&[1.0, 1.0]), [0.0, 0.0]);
        // σ = 1/2.
        let scaled = PassAtK::default().leads(&[1.0, 0.0, 0.0, 0.0]);
        assert!((scaled[0] - 2.0).abs() < 1e-5 && scaled[1] == 0.0);
    }
}
