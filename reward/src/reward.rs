//! From responses to rewards.

use std::borrow::Cow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Problem, Verifier};

/// What a response earned, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The reward that advantages are computed from.
    pub reward: f64,
    /// Whether the answer is right, which accuracies count.
    pub correct: bool,
    /// The answer found in the response.
    pub extracted: Option<String>,
    /// Why, in a few words joined by underscores.
    pub reason: Cow<'static, str>,
}

impl Score {
    /// Reward 1 for a right answer, 0 for a wrong one.
    pub fn binary(
        correct: bool,
        extracted: Option<String>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            reward: f64::from(u8::from(correct)),
            correct,
            extracted,
            reason: reason.into(),
        }
    }
}

/// Turns a response into a score. Equal inputs must give equal scores.
pub trait Reward: Send + Sync {
    /// Scores one response to one problem.
    fn score(&self, problem: &Problem, response: &str) -> Score;
}

/// Reward 1 where the [`Verifier`] finds the answer right, else 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifierReward {
    /// The verifier asked.
    pub verifier: Verifier,
}

impl Reward for VerifierReward {
    fn score(&self, problem: &Problem, response: &str) -> Score {
        let verdict = self.verifier.verify(&problem.answer, response);
        Score::binary(
            verdict.correct,
            verdict.pred_answer,
            verdict.reason.as_str(),
        )
    }
}

/// Scores every pair, in parallel; the scores are in the pairs' order.
pub fn score_all(reward: &dyn Reward, pairs: &[(&Problem, &str)]) -> Vec<Score> {
    pairs
        .par_iter()
        .map(|(problem, response)| reward.score(problem, response))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(answer: &str) -> Problem {
        Problem {
            id: "1".into(),
            prompt: "p".into(),
            answer: answer.into(),
            source: "test".into(),
            numbers: None,
            solution: None,
        }
    }

    #[test]
    fn scores_are_one_or_zero() {
        let reward = VerifierReward::default();
        let right = reward.score(&problem("7"), r"\boxed{7.0}");
        assert_eq!(
            right,
            Score::binary(true, Some("7.0".into()), "equal_number")
        );
        assert!((right.reward - 1.0).abs() < f64::EPSILON);
        let wrong = reward.score(&problem("7"), "nothing here");
        assert_eq!(wrong, Score::binary(false, None, "no_answer"));
        assert!(wrong.reward.abs() < f64::EPSILON);
    }

    #[test]
    fn batches_keep_their_order() {
        let problems: Vec<Problem> = (0..500).map(|n| problem(&n.to_string())).collect();
        let responses: Vec<String> = (0..500).map(|n| format!("#### {}", n - n % 3)).collect();
        let pairs: Vec<(&Problem, &str)> = problems
            .iter()
            .zip(responses.iter().map(String::as_str))
            .collect();
        let scores = score_all(&VerifierReward::default(), &pairs);
        let correct: Vec<bool> = scores.iter().map(|score| score.correct).collect();
        let expected: Vec<bool> = (0..500).map(|n| n % 3 == 0).collect();
        assert_eq!(correct, expected);
        assert_eq!(scores[7].extracted.as_deref(), Some("6"));
    }
}
