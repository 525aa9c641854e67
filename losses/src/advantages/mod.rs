//! From the rewards of a group of responses to one prompt, to an advantage for each response.

mod dr_grpo;
mod grpo;
mod rloo;

use serde::{Deserialize, Serialize};

pub use self::{
    dr_grpo::DrGrpo,
    grpo::{Grpo, GrpoScale},
    rloo::Rloo,
};
use crate::LossError;

/// Which estimator turns rewards into advantages, tagged by `type` in a file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AdvantageConfig {
    /// `(R - μ) / (σ + ε)`.
    Grpo(Grpo),
    /// `R - μ`.
    DrGrpo(DrGrpo),
    /// `R` minus the mean of the others.
    Rloo(Rloo),
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        Self::Grpo(Grpo::default())
    }
}

impl AdvantageConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn validate(&self) -> Result<(), LossError> {
        match self {
            Self::Grpo(grpo) => grpo.validate(),
            Self::DrGrpo(_) | Self::Rloo(_) => Ok(()),
        }
    }

    /// One advantage for each response, in the groups' own order. Every token of a response has
    /// its response's advantage.
    ///
    /// # Shapes
    /// `groups[g][i]` is the reward of response i to prompt g; the result has the same shape.
    ///
    /// # Errors
    /// A group without a response, or a reward that is not finite.
    pub fn advantages(&self, groups: &[impl AsRef<[f64]>]) -> Result<Vec<Vec<f64>>, LossError> {
        let groups: Vec<&[f64]> = groups.iter().map(AsRef::as_ref).collect();
        check(&groups)?;
        Ok(match self {
            Self::Grpo(grpo) => grpo.advantages(&groups),
            Self::DrGrpo(dr_grpo) => dr_grpo.advantages(&groups),
            Self::Rloo(rloo) => rloo.advantages(&groups),
        })
    }
}

fn check(groups: &[&[f64]]) -> Result<(), LossError> {
    for (group, rewards) in groups.iter().enumerate() {
        if rewards.is_empty() {
            return Err(LossError::EmptyGroup { group });
        }
        if let Some(response) = rewards.iter().position(|r| !r.is_finite()) {
            let reward = rewards[response];
            return Err(LossError::NonFiniteReward {
                group,
                response,
                reward,
            });
        }
    }
    Ok(())
}

/// The mean that a group's rewards are compared with: 0 for a group of one, which has no other
/// response to compare with.
fn baseline(rewards: &[f64]) -> f64 {
    if rewards.len() < 2 {
        0.0
    } else {
        rewards.iter().sum::<f64>() / rewards.len() as f64
    }
}

/// The unbiased standard deviation, and 1 for a single reward, which leaves it as it is.
fn deviation(rewards: impl ExactSizeIterator<Item = f64> + Clone) -> f64 {
    let count = rewards.len();
    if count < 2 {
        return 1.0;
    }
    let mean = rewards.clone().sum::<f64>() / count as f64;
    let squares: f64 = rewards.map(|r| (r - mean).powi(2)).sum();
    (squares / (count - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rewards_are_typed_errors() {
        let config = AdvantageConfig::default();
        let empty = config.advantages(&[vec![1.0], vec![]]).unwrap_err();
        assert_eq!(empty, LossError::EmptyGroup { group: 1 });
        let infinite = config.advantages(&[vec![1.0, f64::INFINITY]]).unwrap_err();
        let expected = LossError::NonFiniteReward {
            group: 0,
            response: 1,
            reward: f64::INFINITY,
        };
        assert_eq!(infinite, expected);
        assert_eq!(
            config.advantages(&[] as &[Vec<f64>]).unwrap(),
            Vec::<Vec<f64>>::new()
        );
    }

    #[test]
    fn deviation_is_unbiased() {
        assert!((deviation([1.0, 3.0].into_iter()) - 2.0_f64.sqrt()).abs() < 1e-15);
        assert!((deviation([7.0].into_iter()) - 1.0).abs() < 1e-15);
    }
}
