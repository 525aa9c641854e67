//! Generalized advantage estimation.

use serde::{Deserialize, Serialize};

use super::{AdvantageInputs, Advantages, Estimator};
use crate::{LossError, error::check_range};

/// From a critic's values, backwards over a row:
///
/// ```text
/// δ_t = r_t + γ·v_{t+1} - v_t,   Â_t = δ_t + γλ·Â_{t+1}
/// returns = Â + v,   A = (Â - ⟨Â⟩) / (σ + ε) over all tokens of the rollout
/// ```
///
/// As in the reference, the recursion runs over the whole row, padding included: what rewards and
/// values hold after a response is what its last token is bootstrapped from. A response that ended
/// has 0 there.
///
/// # References
/// arXiv 1506.02438, Eq. 16; whitening as in the published code of PPO for language models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gae {
    /// γ, the discount of a token's distance.
    pub gamma: f64,
    /// λ: 0 trusts the critic's next value, 1 the rewards.
    pub lambda: f64,
}

impl Default for Gae {
    fn default() -> Self {
        Self {
            gamma: 1.0,
            lambda: 1.0,
        }
    }
}

impl Estimator for Gae {
    fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must lie in [0, 1]";
        let passes = |v: f64| (0.0..=1.0).contains(&v);
        check_range("advantage.gamma", self.gamma, requirement, passes)?;
        check_range("advantage.lambda", self.lambda, requirement, passes)
    }

    fn compares_groups(&self) -> bool {
        false
    }

    fn needs_values(&self) -> bool {
        true
    }

    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        let values = inputs.values.ok_or(LossError::MissingInput {
            estimator: "gae",
            input: "a critic's values",
        })?;
        let padded = [("the reward", inputs.token_rewards), ("the value", values)];
        for (quantity, values) in padded {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(LossError::NonFiniteReward {
                    quantity,
                    row: index / inputs.response_len(),
                    value: values[index],
                });
            }
        }
        let mut raw = vec![0.0; inputs.mask.len()];
        for row in inputs.rows() {
            let (mut next_value, mut next_advantage) = (0.0, 0.0);
            for index in row.rev() {
                let delta = inputs.token_rewards[index] + self.gamma * next_value - values[index];
                next_advantage = delta + self.gamma * self.lambda * next_advantage;
                next_value = values[index];
                raw[index] = next_advantage;
            }
        }
        let returns = raw.iter().zip(values).map(|(a, v)| a + v).collect();
        Ok(Advantages {
            advantages: inputs.whitened(&raw),
            returns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_worked_by_hand() {
        let inputs = AdvantageInputs {
            token_rewards: &[0.0, 1.0, 0.0],
            mask: &[1., 1., 0.],
            groups: &[0],
            values: Some(&[0.5, 0.25, 0.0]),
            greedy_rewards: None,
        };
        let gae = Gae {
            gamma: 0.5,
            lambda: 0.5,
        };
        // Â_1 = 1 - 0.25 = 0.75; Â_0 = 0.125 - 0.5 + 0.25·0.75 = -0.1875.
        let found = gae.estimate(&inputs).unwrap();
        assert_eq!(found.returns, [0.3125, 1.0, 0.0]);
        // Whitened: two tokens lie one deviation of √½ times their distance from the mean.
        assert!((found.advantages[1] - 0.5_f64.sqrt()).abs() < 1e-6);
        assert!((found.advantages[0] + found.advantages[1]).abs() < 1e-12);
    }
}
