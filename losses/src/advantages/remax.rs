//! The greedy response as a baseline.

use serde::{Deserialize, Serialize};

use super::{AdvantageInputs, Advantages, Estimator};
use crate::LossError;

/// `A_t = Σ_{t' ≥ t} r_t' - R_greedy`, undiscounted; the greedy response is sampled apart from the
/// group.
///
/// # References
/// `ReMax`, arXiv 2310.10505.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remax {}

impl Estimator for Remax {
    fn compares_groups(&self) -> bool {
        false
    }

    fn needs_greedy_baseline(&self) -> bool {
        true
    }

    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        let greedy = inputs.greedy_rewards.ok_or(LossError::MissingInput {
            estimator: "remax",
            input: "the reward of a greedy response to each prompt",
        })?;
        let mut advantages = vec![0.0; inputs.mask.len()];
        let mut returns = advantages.clone();
        for (row, baseline) in inputs.rows().zip(greedy) {
            let mut rest = 0.0;
            for index in row.rev() {
                rest += inputs.reward(index);
                returns[index] = rest;
                if inputs.mask[index] > 0.0 {
                    advantages[index] = rest - baseline;
                }
            }
        }
        Ok(Advantages {
            advantages,
            returns,
        })
    }
}
