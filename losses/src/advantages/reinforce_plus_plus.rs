//! Advantages whitened over a whole rollout's tokens.

use serde::{Deserialize, Serialize};

use super::{AdvantageInputs, Advantages, Estimator, dr_grpo::centred};
use crate::{LossError, error::check_range};

/// `G_t = Σ_{t' ≥ t} γ^{t'-t}·r_t'`, whitened over all tokens of the rollout: no groups.
///
/// # References
/// REINFORCE++, arXiv 2501.03262.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReinforcePlusPlus {
    /// γ, the discount of a token's distance.
    pub gamma: f64,
}

impl Default for ReinforcePlusPlus {
    fn default() -> Self {
        Self { gamma: 1.0 }
    }
}

impl Estimator for ReinforcePlusPlus {
    fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must lie in [0, 1]";
        check_range("advantage.gamma", self.gamma, requirement, |v| {
            (0.0..=1.0).contains(&v)
        })
    }

    fn compares_groups(&self) -> bool {
        false
    }

    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        let mut returns = vec![0.0; inputs.mask.len()];
        for row in inputs.rows() {
            let mut rest = 0.0;
            for index in row.rev() {
                rest = inputs.reward(index) + self.gamma * rest;
                returns[index] = rest;
                // As the reference: nothing is carried over a position that is not trained.
                if inputs.mask[index] == 0.0 {
                    rest = 0.0;
                }
            }
        }
        Ok(Advantages {
            advantages: inputs.without_padding(inputs.whitened(&returns)),
            returns,
        })
    }
}

/// `R - μ_group`, whitened over all tokens of the rollout.
///
/// # References
/// The baseline form of REINFORCE++, arXiv 2501.03262.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReinforcePlusPlusBaseline {}

impl Estimator for ReinforcePlusPlusBaseline {
    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        let centred = inputs.broadcast(&inputs.map_groups(|rewards, _| centred(rewards)));
        let advantages = inputs.without_padding(inputs.whitened(&centred.advantages));
        Ok(Advantages {
            returns: advantages.clone(),
            advantages,
        })
    }
}
