//! Rollouts with their scores, gathered by problem.

use reward::{Problem, Score};
use rollout::Rollout;
use serde::{Deserialize, Serialize};

use crate::FilterBy;

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
    /// The rewards, in sample order; `None` where one could not be had or is not finite.
    pub fn rewards(&self) -> Option<Vec<f64>> {
        let scores = self.samples.iter().map(|sample| &sample.score);
        scores.map(Score::finite_reward).collect()
    }

    /// Whether the responses differ in what is looked at.
    pub fn differs_by(&self, figure: FilterBy) -> bool {
        match figure {
            FilterBy::Reward => self.differs(|score| score.reward),
            FilterBy::Correct => self.differs(|score| score.correct),
        }
    }

    fn differs<T: PartialEq>(&self, figure: impl Fn(&Score) -> T) -> bool {
        let mut figures = self.samples.iter().map(|sample| figure(&sample.score));
        figures
            .next()
            .is_some_and(|first| figures.any(|other| other != first))
    }
}
