//! From responses to rewards.

use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{ExternalStats, ExtractionRule, Problem, Response, Score, Verifier};

/// Says whether scores are not wanted any more.
pub type StopCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// Turns a response into a score.
///
/// Equal inputs give equal scores; of an external program that is for its author to see to.
pub trait Reward: Send + Sync {
    /// Scores one response to one problem.
    fn score(&self, problem: &Problem, response: &Response<'_>) -> Score;

    /// Whether its scores say if the answer is right; a reward for form or length does not.
    fn judges_correctness(&self) -> bool {
        true
    }

    /// Gives the reward something to ask while it waits for others: once it says so, a score may come at once without a
    /// reward, and nobody will use it.
    fn stop_when(&self, _is_stopped: &StopCheck) {}

    /// What became of the requests to external programs, where it asks any.
    fn external_stats(&self) -> Option<ExternalStats> {
        None
    }
}

/// Reward 1 where the [`Verifier`] finds the answer right, else 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifierReward {
    /// The verifier asked.
    #[serde(skip)]
    pub verifier: Verifier,
    /// The one rule that an answer must be found by; unset, any will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<ExtractionRule>,
    /// Whether a response that the limit on tokens cut short is wrong, whatever it says.
    pub truncated_is_wrong: bool,
    /// Whether an undecided answer has no reward, rather than that of a wrong one.
    pub undecided_is_missing: bool,
}

impl Reward for VerifierReward {
    fn score(&self, problem: &Problem, response: &Response<'_>) -> Score {
        if self.truncated_is_wrong && response.truncated {
            return Score::binary(false, None, "truncated");
        }
        let verifier = Verifier {
            required_rule: self.rule.or(self.verifier.required_rule),
            ..self.verifier
        };
        let verdict = verifier.verify(&problem.answer, response.text);
        let undecided = verdict.reason.is_undecided();
        let reason = verdict.reason.as_str();
        let score = Score::binary(verdict.correct, verdict.pred_answer, reason);
        let has_reward = !(undecided && self.undecided_is_missing);
        Score {
            reward: score.reward.filter(|_| has_reward),
            undecided,
            ..score
        }
    }
}

/// Scores every pair, in parallel; the scores are in the pairs' order.
pub fn score_all(reward: &dyn Reward, pairs: &[(&Problem, Response<'_>)]) -> Vec<Score> {
    pairs
        .par_iter()
        .map(|(problem, response)| reward.score(problem, response))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::test_problem as problem;

    #[test]
    fn scores_are_one_or_zero() {
        let reward = VerifierReward::default();
        let right = reward.score(&problem("7"), &r"\boxed{7.0}".into());
        let expected = Score::binary(true, Some("7.0".into()), "equal_number");
        assert_eq!(right, expected);
        assert_eq!(right.reward, Some(1.0));
        let wrong = reward.score(&problem("7"), &"nothing here".into());
        assert_eq!(wrong, Score::binary(false, None, "no_answer"));
        assert_eq!(wrong.reward, Some(0.0));
    }

    #[test]
    fn undecided_answers_are_wrong_or_missing() {
        let too_large = format!(r"\boxed{{{}}}", "9".repeat(5_000));
        let mut reward = VerifierReward::default();
        let wrong = reward.score(&problem("7"), &too_large.as_str().into());
        assert_eq!((wrong.reward, wrong.undecided), (Some(0.0), true));
        reward.undecided_is_missing = true;
        let missing = reward.score(&problem("7"), &too_large.as_str().into());
        assert_eq!((missing.reward, missing.undecided), (None, true));
        assert!(!missing.correct);
        let decided = reward.score(&problem("7"), &"8".into());
        assert_eq!((decided.reward, decided.undecided), (Some(0.0), false));
    }

    #[test]
    fn an_answer_may_have_to_be_boxed_and_complete() {
        let cut = |text| Response {
            text,
            tokens: 3,
            truncated: true,
        };
        let (stated, boxed) = ("It is 7, but wait", r"\boxed{7}");
        let lenient = VerifierReward::default();
        assert!(lenient.score(&problem("7"), &cut(stated)).correct);
        let strict = VerifierReward {
            rule: Some(ExtractionRule::Boxed),
            truncated_is_wrong: true,
            ..lenient
        };
        let score = strict.score(&problem("7"), &stated.into());
        assert_eq!(score, Score::binary(false, None, "no_answer"));
        let score = strict.score(&problem("7"), &cut(boxed));
        assert_eq!(score, Score::binary(false, None, "truncated"));
        assert!(strict.score(&problem("7"), &boxed.into()).correct);
    }

    #[test]
    fn batches_keep_their_order() {
        let problems: Vec<Problem> = (0..500).map(|n| problem(&n.to_string())).collect();
        let responses: Vec<String> = (0..500).map(|n| format!("#### {}", n - n % 3)).collect();
        let pairs: Vec<(&Problem, Response<'_>)> = problems
            .iter()
            .zip(responses.iter().map(|text| text.as_str().into()))
            .collect();
        let scores = score_all(&VerifierReward::default(), &pairs);
        let correct: Vec<bool> = scores.iter().map(|score| score.correct).collect();
        let expected: Vec<bool> = (0..500).map(|n| n % 3 == 0).collect();
        assert_eq!(correct, expected);
        assert_eq!(scores[7].extracted.as_deref(), Some("6"));
    }
}
