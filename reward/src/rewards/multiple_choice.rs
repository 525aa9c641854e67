//! The reward for the right letter.

use serde::{Deserialize, Serialize};

use super::letters::Letters;
use super::setting::Settings;
use super::stated::without_text_command;
use crate::extract::after_thinking;
use crate::{ExtractionRule, Problem, Response, Reward, RewardError, Score, extract_by_rule};

/// Reward 1 where the response chooses the gold letter, else 0.
///
/// The letter stands, of the first kind that there is, in the last box (`\boxed{B}`), after the
/// last "the answer is", in the last brackets or bold (`(B)`, `**B**`), or last alone; only what
/// follows the last `</think>` counts. The gold answer is `B`, `(B)` or `B. text`; where it is
/// nothing of the kind, there is no reward.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultipleChoiceReward {
    /// The letters that choices are named by.
    pub letters: Letters,
}

impl MultipleChoiceReward {
    /// Checks the settings.
    ///
    /// # Errors
    /// If the letters are not two or more of A to Z, or one is there twice.
    pub fn validate(&self) -> Result<(), RewardError> {
        let settings = Settings {
            reward: "multiple_choice",
        };
        let requirement = "must be two or more letters of A to Z, in upper case and each once";
        let usable = self.letters.are_usable();
        settings.require(usable, "letters", &self.letters.0, requirement)
    }

    fn choice(&self, response: &str) -> Option<char> {
        let by_rule = |rule| {
            let found = extract_by_rule(rule, response)?;
            self.letters.announced(without_text_command(&found.text))
        };
        let visible = after_thinking(response);
        by_rule(ExtractionRule::Boxed)
            .or_else(|| by_rule(ExtractionRule::AnswerPhrase))
            .or_else(|| self.letters.last_marked(visible))
            .or_else(|| self.letters.last_alone(visible))
            .or_else(|| self.letters.leading(visible))
    }
}

impl Reward for MultipleChoiceReward {
    fn score(&self, problem: &Problem, response: &Response<'_>) -> Score {
        let Some(gold) = self.letters.leading(&problem.answer) else {
            return Score::missing("gold_is_no_choice");
        };
        let Some(choice) = self.choice(response.text) else {
            return Score::binary(false, None, "no_answer");
        };
        let reason = if choice == gold {
            "same_choice"
        } else {
            "different_choice"
        };
        Score::binary(choice == gold, Some(choice.to_string()), reason)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::problem::test_problem;

    #[track_caller]
    fn chooses(response: &str, expected: Option<char>) {
        let choice = MultipleChoiceReward::default().choice(response);
        assert_eq!(choice, expected, "{response}");
    }

    #[test]
    fn boxes_and_phrases_come_first() {
        chooses(r"(A) is wrong: \boxed{B}. Not (C).", Some('B'));
        chooses(r"\boxed{\text{B}}", Some('B'));
        chooses(r"\boxed{(b)}", Some('B'));
        chooses(r"\boxed{B. 12 apples}", Some('B'));
        chooses(r"\boxed{\textbf{(D)} }", Some('D'));
        chooses("The answer is B, since (A) is too small.", Some('B'));
        chooses("**Answer: (C)** and nothing else", Some('C'));
        chooses("The answer is **B**.", Some('B'));
        chooses("The answer is option D", Some('D'));
        chooses("The answer is A because it fits", Some('A'));
        chooses(r"The box holds \boxed{12}, which is (C)", Some('C'));
    }

    #[test]
    fn marked_letters_come_before_lone_ones() {
        chooses("I choose **B**. A is wrong, C too", Some('B'));
        chooses("(A) no, (B) yes. D is near", Some('B'));
        chooses("so B", Some('B'));
        chooses("First A, then B.", Some('B'));
        chooses("b", Some('B'));
        chooses("B) 12", Some('B'));
        chooses("<think>(A)</think>B", Some('B'));
    }

    #[test]
    fn words_are_no_choices() {
        for response in [
            "",
            "A train leaves",
            "Because Adam said it",
            "E-mail and D'Artagnan",
            "CD",
            "F",
            "é",
            "<think>B</think>",
            "the answer is about five",
        ] {
            chooses(response, None);
        }
        chooses("C is right. A train leaves.", Some('C'));
        chooses("éB", None);
    }

    #[test]
    fn gold_answers_have_several_forms() {
        let reward = MultipleChoiceReward::default();
        for gold in ["B", "(B)", "B. text", "B) text", " b ", "B: x"] {
            let score = reward.score(&test_problem(gold), &"(B)".into());
            assert_eq!(score, Score::binary(true, Some("B".into()), "same_choice"));
            let score = reward.score(&test_problem(gold), &"(C)".into());
            assert_eq!(score.reason, "different_choice");
            assert_eq!(score.reward, Some(0.0));
            let score = reward.score(&test_problem(gold), &"none".into());
            assert_eq!(score, Score::binary(false, None, "no_answer"));
        }
        for gold in ["", "12", "F", "Bob", "A train"] {
            let score = reward.score(&test_problem(gold), &"(B)".into());
            assert_eq!(score, Score::missing("gold_is_no_choice"));
        }
    }

    #[test]
    fn letters_can_be_chosen() {
        let reward: MultipleChoiceReward = toml::from_str("letters = 'ABCDEFGHIJ'").unwrap();
        assert!(reward.validate().is_ok());
        assert_eq!(reward.choice("It is J."), Some('J'));
        assert_eq!(reward.choice("J, I think"), Some('J'));
        for wrong in ["", "A", "ab", "ABA", "A1", "ÄB"] {
            let letters = Letters(wrong.into());
            let error = MultipleChoiceReward { letters }.validate().unwrap_err();
            assert!(error.to_string().contains("`letters`"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(gold in "\\PC{0,8}", response in "(\\PC|[A-E(*]){0,80}") {
            let reward = MultipleChoiceReward::default();
            let _ = reward.score(&test_problem(&gold), &response.as_str().into());
        }

        #[test]
        fn boxed_letters_are_found(letter in "[A-E]", before in "[a-z (AB)*.]{0,30}") {
            let response = format!("{before}\\boxed{{{letter}}}");
            let choice = MultipleChoiceReward::default().choice(&response);
            prop_assert_eq!(choice, letter.chars().next());
        }
    }
}
