//! The reward for one text.

use serde::{Deserialize, Serialize};

use super::stated::stated_answer;
use crate::{Problem, Response, Reward, Score};

/// Reward 1 where the answer is the gold text, character by character, else 0.
///
/// The answer is what the last box holds, what follows "the answer is", or the last line; only what
/// follows the last `</think>` counts. Blanks around either text do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExactTextReward {
    /// Whether upper and lower case are the same.
    pub ignore_case: bool,
    /// Whether the whole response must be the gold text, its thinking included.
    pub whole_response: bool,
}

impl Reward for ExactTextReward {
    fn score(&self, problem: &Problem, response: &Response<'_>) -> Score {
        let Some(answer) = self.answer(response.text) else {
            return Score::binary(false, None, "no_answer");
        };
        let same = self.is_same(problem.answer.trim(), &answer);
        let reason = if same { "same_text" } else { "different_text" };
        Score::binary(same, Some(answer), reason)
    }
}

impl ExactTextReward {
    fn answer(self, response: &str) -> Option<String> {
        if self.whole_response {
            let whole = response.trim();
            return (!whole.is_empty()).then(|| whole.to_owned());
        }
        stated_answer(response)
    }

    fn is_same(self, gold: &str, answer: &str) -> bool {
        if self.ignore_case {
            return gold.to_lowercase() == answer.to_lowercase();
        }
        gold == answer
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::problem::test_problem;

    fn reason(reward: ExactTextReward, gold: &str, response: &str) -> String {
        let score = reward.score(&test_problem(gold), &response.into());
        assert_eq!(score.correct, score.reason == "same_text");
        assert_eq!(score.reward, Some(f64::from(u8::from(score.correct))));
        score.reason.into_owned()
    }

    #[test]
    fn answers_are_compared_character_by_character() {
        let reward = ExactTextReward::default();
        for (gold, response, expected) in [
            (" Paris ", "It is in France.\nParis\n", "same_text"),
            ("Paris", r"\boxed{Paris}, not \boxed{ Rome", "same_text"),
            ("Paris", "paris", "different_text"),
            ("1.0", "1", "different_text"),
            ("Paris", "<think>Paris</think>Rome", "different_text"),
            ("Paris", " \n", "no_answer"),
            ("", "", "no_answer"),
        ] {
            assert_eq!(reason(reward, gold, response), expected, "{response}");
        }
    }

    #[test]
    fn case_may_be_ignored() {
        let reward = ExactTextReward {
            ignore_case: true,
            ..ExactTextReward::default()
        };
        assert_eq!(reason(reward, "ÉCOLE", "école"), "same_text");
        assert_eq!(reason(reward, "ÉCOLE", "ecole"), "different_text");
    }

    #[test]
    fn the_whole_response_may_be_asked_for() {
        let reward = ExactTextReward {
            whole_response: true,
            ..ExactTextReward::default()
        };
        assert_eq!(reason(reward, "a\nb", "\na\nb\n"), "same_text");
        assert_eq!(reason(reward, "b", "a\nb"), "different_text");
        assert_eq!(reason(reward, "b", "<think>a</think>b"), "different_text");
        assert_eq!(reason(reward, "", "  "), "no_answer");
    }

    #[test]
    fn what_was_found_is_shown() {
        let score = ExactTextReward::default().score(&test_problem("x"), &"the answer: y".into());
        assert_eq!(score.extracted.as_deref(), Some("y"));
    }

    proptest! {
        #[test]
        fn never_panics(gold in "\\PC{0,20}", response in "\\PC{0,120}") {
            let _ = ExactTextReward::default().score(&test_problem(&gold), &response.as_str().into());
        }
    }
}
