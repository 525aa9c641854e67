//! Rollouts with their scores, gathered by problem.

use reward::{Problem, Score};
use rollout::Rollout;
use serde::{Deserialize, Serialize};

/// A scored response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The response's tokens and how they were sampled.
    pub rollout: Rollout,
    /// The response as text.
    pub text: String,
    /// What it earned.
    pub score: Score,
}

/// All scored responses to one problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The problem.
    pub problem: Problem,
    /// Its responses, in sample order.
    pub samples: Vec<Scored>,
}

impl Group {
    /// The rewards, in sample order.
    pub fn rewards(&self) -> Vec<f64> {
        self.samples
            .iter()
            .map(|sample| sample.score.reward)
            .collect()
    }

    /// Whether the rewards differ; where they do not, no advantage does and nothing can be learnt.
    pub fn is_informative(&self) -> bool {
        let first = self.samples.first().map(|sample| sample.score.reward);
        self.samples
            .iter()
            .any(|sample| Some(sample.score.reward) != first)
    }
}
