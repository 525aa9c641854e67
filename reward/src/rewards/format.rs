//! The reward for form.

use serde::{Deserialize, Serialize};

use super::boxes::count_boxes;
use super::setting::Settings;
use crate::extract::after_thinking;
use crate::{Problem, Response, Reward, RewardError, Score};

const THINK_START: &str = "<think>";
const THINK_END: &str = "</think>";

/// Which tags a response must set its thinking off with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkTags {
    /// Any or none.
    #[default]
    Any,
    /// It begins with `<think>` and holds `</think>` later, each once, with text after that.
    Required,
    /// The same, without the `<think>` with which the chat template ends the prompt.
    OpenedByPrompt,
}

/// How many complete `\boxed{…}` must follow the thinking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxCount {
    /// Any number, none included.
    #[default]
    Any,
    /// One or more.
    AtLeastOne,
    /// One.
    ExactlyOne,
}

/// Reward 1 where the response has the form asked for, else 0.
///
/// Every setting asks for something of its own, and all of it must hold. Blanks around the response
/// do not count. It says nothing of whether an answer is right, so it goes beside a reward that
/// does.
///
/// # References
/// `think_tags` is the format reward of DeepSeek-R1 (arXiv 2501.12948), Section 2.2.2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FormatReward {
    /// Which tags set the thinking off.
    pub think_tags: ThinkTags,
    /// How many boxes follow the thinking.
    pub boxes: BoxCount,
    /// What the response begins with.
    pub prefix: Option<String>,
    /// What the response ends with.
    pub suffix: Option<String>,
}

impl FormatReward {
    /// Checks the settings.
    ///
    /// # Errors
    /// If they ask for nothing.
    pub fn validate(&self) -> Result<(), RewardError> {
        let settings = Settings { reward: "format" };
        let asks = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let asks_something = self.think_tags != ThinkTags::Any
            || self.boxes != BoxCount::Any
            || asks(&self.prefix)
            || asks(&self.suffix);
        let requirement = "asks for nothing: set `think_tags`, `boxes`, `prefix` or `suffix`";
        settings.require(asks_something, "think_tags", "any", requirement)
    }

    /// What is wrong with a response's form.
    fn objection(&self, response: &str) -> Option<&'static str> {
        let response = response.trim();
        if !self
            .prefix
            .as_deref()
            .is_none_or(|prefix| response.starts_with(prefix))
        {
            return Some("prefix_missing");
        }
        if !self
            .suffix
            .as_deref()
            .is_none_or(|suffix| response.ends_with(suffix))
        {
            return Some("suffix_missing");
        }
        if !self.think_tags.hold(response) {
            return Some("think_tags_wrong");
        }
        (!self.boxes.holds(response)).then_some("boxes_wrong")
    }
}

impl ThinkTags {
    fn hold(self, response: &str) -> bool {
        let thinking_on = match self {
            Self::Any => return true,
            Self::Required => response.strip_prefix(THINK_START),
            Self::OpenedByPrompt => Some(response),
        };
        let parts = thinking_on.and_then(|text| text.split_once(THINK_END));
        parts.is_some_and(|(thinking, answer)| {
            let tag_again = [thinking, answer]
                .iter()
                .any(|text| text.contains(THINK_START) || text.contains(THINK_END));
            !tag_again && !answer.trim().is_empty()
        })
    }
}

impl BoxCount {
    fn holds(self, response: &str) -> bool {
        match self {
            Self::Any => true,
            Self::AtLeastOne => count_boxes(after_thinking(response)) > 0,
            Self::ExactlyOne => count_boxes(after_thinking(response)) == 1,
        }
    }
}

impl Reward for FormatReward {
    fn score(&self, _problem: &Problem, response: &Response<'_>) -> Score {
        match self.objection(response.text) {
            None => Score::of(1.0, "well_formed"),
            Some(objection) => Score::of(0.0, objection),
        }
    }

    fn judges_correctness(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::problem::test_problem;

    #[track_caller]
    fn check(reward: &FormatReward, response: &str, reason: &str) {
        let score = reward.score(&test_problem(""), &response.into());
        assert_eq!(score.reason, reason, "{response}");
        let expected = if reason == "well_formed" { 1.0 } else { 0.0 };
        assert_eq!(score.reward, Some(expected));
        assert!(!score.correct);
    }

    #[test]
    fn thinking_is_closed_once_and_followed_by_text() {
        let reward = FormatReward {
            think_tags: ThinkTags::Required,
            ..FormatReward::default()
        };
        check(&reward, "<think>a</think>b", "well_formed");
        check(&reward, "\n<think>\n</think>\nb\n", "well_formed");
        for wrong in [
            "",
            "b",
            "<think>a",
            "<think>a</think>",
            "<think>a</think> \n",
            "a</think>b",
            "x<think>a</think>b",
            "</think>a<think>b",
            "<think><think>a</think>b",
            "<think>a</think>b</think>c",
            "<think>a</think>b<think>c</think>d",
            "<Think>a</think>b",
        ] {
            check(&reward, wrong, "think_tags_wrong");
        }
    }

    #[test]
    fn the_prompt_may_open_the_thinking() {
        let reward = FormatReward {
            think_tags: ThinkTags::OpenedByPrompt,
            ..FormatReward::default()
        };
        check(&reward, "a</think>b", "well_formed");
        check(&reward, "</think>b", "well_formed");
        check(&reward, "<think>a</think>b", "think_tags_wrong");
        check(&reward, "a</think>", "think_tags_wrong");
        check(&reward, "b", "think_tags_wrong");
    }

    #[test]
    fn boxes_are_counted_after_the_thinking() {
        let mut reward = FormatReward {
            boxes: BoxCount::AtLeastOne,
            ..FormatReward::default()
        };
        check(&reward, r"\boxed{1} \boxed{2}", "well_formed");
        check(&reward, r"<think>\boxed{1}</think>2", "boxes_wrong");
        check(&reward, r"\boxed{1", "boxes_wrong");
        reward.boxes = BoxCount::ExactlyOne;
        check(&reward, r"\boxed{1} \boxed{2}", "boxes_wrong");
        check(&reward, r"<think>\boxed{1}</think>\boxed{2}", "well_formed");
    }

    #[test]
    fn beginnings_and_ends_may_be_asked_for() {
        let reward = FormatReward {
            prefix: Some("Dear".into()),
            suffix: Some("Yours".into()),
            ..FormatReward::default()
        };
        check(&reward, " Dear all. Yours\n", "well_formed");
        check(&reward, "Dear all.", "suffix_missing");
        check(&reward, "Yours", "prefix_missing");
    }

    #[test]
    fn settings_ask_for_something() {
        assert!(FormatReward::default().validate().is_err());
        let empty: FormatReward = toml::from_str("prefix = ''").unwrap();
        assert!(empty.validate().is_err());
        for text in [
            "think_tags = 'required'",
            "think_tags = 'opened_by_prompt'",
            "boxes = 'exactly_one'",
            "boxes = 'at_least_one'",
            "prefix = 'a'",
            "suffix = 'a'",
        ] {
            let reward: FormatReward = toml::from_str(text).unwrap();
            assert!(reward.validate().is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(response in "(<think>|</think>|\\\\boxed\\{|\\}|\\PC){0,40}") {
            let reward = FormatReward {
                think_tags: ThinkTags::Required,
                boxes: BoxCount::ExactlyOne,
                ..FormatReward::default()
            };
            let _ = reward.score(&test_problem(""), &response.as_str().into());
        }
    }
}
