//! From rewards to an advantage for each token. One estimator a file.

mod dr_grpo;
mod gae;
mod grpo;
mod inputs;
mod opo;
mod pass_at_k;
mod reinforce_plus_plus;
mod remax;
mod rloo;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

pub use self::{
    dr_grpo::DrGrpo,
    gae::Gae,
    grpo::{Grpo, GrpoScale},
    inputs::{AdvantageInputs, Advantages},
    opo::Opo,
    pass_at_k::PassAtK,
    reinforce_plus_plus::{ReinforcePlusPlus, ReinforcePlusPlusBaseline},
    remax::Remax,
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
    /// The discounted return, whitened over all tokens.
    ReinforcePlusPlus(ReinforcePlusPlus),
    /// `R - μ`, whitened over all tokens.
    ReinforcePlusPlusBaseline(ReinforcePlusPlusBaseline),
    /// The return minus the reward of the greedy response.
    Remax(Remax),
    /// `R` minus the length-weighted mean.
    Opo(Opo),
    /// The best response of a group, by its lead.
    PassAtK(PassAtK),
    /// Generalized advantage estimation, from a critic's values.
    Gae(Gae),
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        Self::Grpo(Grpo::default())
    }
}

/// An estimator of advantages: its file implements [`estimate`](Self::estimate), and its configuration is the type itself.
pub trait Estimator: Debug + Send + Sync {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    fn validate(&self) -> Result<(), LossError> {
        Ok(())
    }

    /// The fewest responses to a prompt that it can compare.
    fn least_group_size(&self) -> usize {
        1
    }

    /// Whether it compares the responses to a prompt with each other alone, so that equal rewards teach nothing.
    fn compares_groups(&self) -> bool {
        true
    }

    /// Whether it needs a critic's values.
    fn needs_values(&self) -> bool {
        false
    }

    /// Whether it needs the reward of a greedy response to each prompt.
    fn needs_greedy_baseline(&self) -> bool {
        false
    }

    /// Advantages of inputs that have been checked.
    ///
    /// # Errors
    /// An input that is missing, or a group too small to compare.
    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError>;

    /// The advantage of every token, and the return that a critic learns.
    ///
    /// # Errors
    /// A figure that is not finite, and as [`estimate`](Self::estimate).
    ///
    /// # Panics
    /// If the inputs' lengths do not fit together.
    fn advantages(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        inputs.check()?;
        self.estimate(inputs)
    }
}

impl AdvantageConfig {
    /// The default of every type, in the order of the enum.
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::Grpo(Grpo::default()),
            Self::DrGrpo(DrGrpo {}),
            Self::Rloo(Rloo {}),
            Self::ReinforcePlusPlus(ReinforcePlusPlus::default()),
            Self::ReinforcePlusPlusBaseline(ReinforcePlusPlusBaseline {}),
            Self::Remax(Remax {}),
            Self::Opo(Opo {}),
            Self::PassAtK(PassAtK::default()),
            Self::Gae(Gae::default()),
        ]
    }

    fn estimator(&self) -> &dyn Estimator {
        match self {
            Self::Grpo(estimator) => estimator,
            Self::DrGrpo(estimator) => estimator,
            Self::Rloo(estimator) => estimator,
            Self::ReinforcePlusPlus(estimator) => estimator,
            Self::ReinforcePlusPlusBaseline(estimator) => estimator,
            Self::Remax(estimator) => estimator,
            Self::Opo(estimator) => estimator,
            Self::PassAtK(estimator) => estimator,
            Self::Gae(estimator) => estimator,
        }
    }
}

impl Estimator for AdvantageConfig {
    fn validate(&self) -> Result<(), LossError> {
        self.estimator().validate()
    }

    fn least_group_size(&self) -> usize {
        self.estimator().least_group_size()
    }

    fn compares_groups(&self) -> bool {
        self.estimator().compares_groups()
    }

    fn needs_values(&self) -> bool {
        self.estimator().needs_values()
    }

    fn needs_greedy_baseline(&self) -> bool {
        self.estimator().needs_greedy_baseline()
    }

    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        self.estimator().estimate(inputs)
    }
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
fn deviation(rewards: &[f64]) -> f64 {
    let count = rewards.len();
    if count < 2 {
        return 1.0;
    }
    let mean = rewards.iter().sum::<f64>() / count as f64;
    let squares: f64 = rewards.iter().map(|r| (r - mean).powi(2)).sum();
    (squares / (count - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviation_is_unbiased() {
        assert!((deviation(&[1.0, 3.0]) - 2.0_f64.sqrt()).abs() < 1e-15);
        assert!((deviation(&[7.0]) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn figures_that_are_not_finite_are_named() {
        let inputs = AdvantageInputs {
            token_rewards: &[0.0, 1.0, 0.0, f64::NAN, f64::INFINITY, 0.0],
            mask: &[1., 1., 1., 0., 1., 0.],
            groups: &[7, 7, 7],
            values: None,
            greedy_rewards: None,
        };
        for config in AdvantageConfig::defaults() {
            let message = config.advantages(&inputs).unwrap_err().to_string();
            assert!(
                message.contains("the reward of response 2 is inf"),
                "{message}"
            );
        }
    }

    #[test]
    fn missing_inputs_are_named() {
        let inputs = AdvantageInputs {
            token_rewards: &[1.0],
            mask: &[1.0],
            groups: &[0],
            values: None,
            greedy_rewards: None,
        };
        let message = |config: AdvantageConfig| config.advantages(&inputs).unwrap_err().to_string();
        assert!(message(AdvantageConfig::Gae(Gae::default())).contains("critic"));
        assert!(message(AdvantageConfig::Remax(Remax {})).contains("greedy"));
        let single = message(AdvantageConfig::PassAtK(PassAtK::default()));
        assert!(single.contains("at least two"), "{single}");
    }

    #[test]
    fn equal_rewards_and_empty_responses_give_finite_advantages() {
        let inputs = AdvantageInputs {
            token_rewards: &[0.5, 0.0, 0.5, 0.0, 0.0, 0.0],
            mask: &[1., 1., 1., 0., 0., 0.],
            groups: &[1, 1, 1],
            values: Some(&[0.0; 6]),
            greedy_rewards: Some(&[0.5; 3]),
        };
        for config in AdvantageConfig::defaults() {
            let found = config.advantages(&inputs).unwrap();
            assert!(
                found.advantages.iter().all(|a| a.is_finite()),
                "{config:?}: {found:?}"
            );
        }
    }

    #[test]
    fn padding_may_hold_anything_and_gets_nothing() {
        let inputs = AdvantageInputs {
            token_rewards: &[0.0, 1.0, 9.0, 0.3, f64::NAN, 0.0],
            mask: &[1., 1., 0., 1., 0., 0.],
            groups: &[0, 0],
            values: None,
            greedy_rewards: Some(&[0.5; 2]),
        };
        let configs = AdvantageConfig::defaults();
        for config in configs.into_iter().filter(|config| !config.needs_values()) {
            let found = config.advantages(&inputs).unwrap().advantages;
            assert!(
                found[2] == 0.0 && found[4] == 0.0 && found[5] == 0.0,
                "{config:?}: {found:?}"
            );
            assert!(found[0].is_finite() && found[3].is_finite());
        }
    }
}
