//! What a program answers.

use serde::Deserialize;
use serde_json::Value;

use crate::Score;

/// An answer to one request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Answer {
    reward: Option<f64>,
    correct: Option<bool>,
    extracted: Option<String>,
    reason: Option<String>,
}

impl Answer {
    /// The answer to request `id` that a line holds, if it does.
    pub(super) fn read(line: &[u8], id: u64) -> Option<Self> {
        if let Ok(value) = serde_json::from_slice(line) {
            return Self::from_value(value, id);
        }
        // Python and JavaScript write numbers that JSON does not have.
        let value = serde_json::from_str(&without_non_finite(std::str::from_utf8(line).ok()?));
        let answer = Self::from_value(value.ok()?, id)?;
        Some(match answer.reward {
            Some(_) => answer,
            None => Self::without_reward("external_reward_not_finite"),
        })
    }

    fn from_value(value: Value, id: u64) -> Option<Self> {
        if value.get("id")?.as_u64()? != id {
            return None;
        }
        let unreadable = |_| Self::without_reward("external_answer_unreadable");
        Some(serde_json::from_value(value).unwrap_or_else(unreadable))
    }

    fn without_reward(reason: &str) -> Self {
        Self {
            reward: None,
            correct: None,
            extracted: None,
            reason: Some(reason.into()),
        }
    }

    pub(super) fn into_score(self) -> Score {
        let score = match self.reward {
            Some(reward) => Score::of(reward, "external"),
            None => Score::missing("external_reward_null"),
        };
        let is_whole = self.reward.is_some_and(|reward| reward >= 1.0);
        Score {
            correct: self.correct.unwrap_or(is_whole),
            extracted: self.extracted,
            reason: self.reason.map_or(score.reason, Into::into),
            ..score
        }
    }
}

/// The text with `NaN`, `Infinity` and `-Infinity` as null, but for those within strings.
fn without_non_finite(text: &str) -> String {
    // Between two quotes that no backslash escapes stands a string.
    let mut outside = true;
    let mut escaped = false;
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let word = ["NaN", "Infinity", "-Infinity"]
            .into_iter()
            .find(|word| outside && rest.starts_with(word));
        if let Some(word) = word {
            plain.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        if next == '"' && !escaped {
            outside = !outside;
        }
        escaped = next == '\\' && !escaped;
        plain.push(next);
        rest = &rest[next.len_utf8()..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score(line: &str) -> Option<Score> {
        Answer::read(line.as_bytes(), 7).map(Answer::into_score)
    }

    #[test]
    fn answers_become_scores() {
        let full = r#"{"id":7,"reward":0.5,"correct":true,"extracted":"4","reason":"near"}"#;
        let expected = Score {
            correct: true,
            extracted: Some("4".into()),
            ..Score::of(0.5, "near")
        };
        assert_eq!(score(full), Some(expected));
        let brief = score(r#" {"reward": 1, "id": 7, "seconds": 3} "#).unwrap();
        assert_eq!(brief, Score::binary(true, None, "external"));
        let low = score(r#"{"id":7,"reward":0.99}"#).unwrap();
        assert_eq!((low.reward, low.correct), (Some(0.99), false));
    }

    #[test]
    fn answers_without_a_usable_reward_have_none() {
        for (line, reason) in [
            (r#"{"id":7,"reward":null}"#, "external_reward_null"),
            (r#"{"id":7}"#, "external_reward_null"),
            (r#"{"id":7,"reward":null,"reason":"busy"}"#, "busy"),
            (r#"{"id":7,"reward":"1"}"#, "external_answer_unreadable"),
            (
                r#"{"id":7,"reward":1,"correct":1}"#,
                "external_answer_unreadable",
            ),
            (r#"{"id":7,"reward":NaN}"#, "external_reward_not_finite"),
            (
                r#"{"id":7,"reward":-Infinity}"#,
                "external_reward_not_finite",
            ),
        ] {
            assert_eq!(score(line), Some(Score::missing(reason)), "{line}");
        }
    }

    #[test]
    fn strings_may_hold_any_word() {
        let line = r#"{"id":7,"reward":1,"extracted":"\"NaN","x":NaN}"#;
        let found = score(line).unwrap();
        assert_eq!(found.extracted.as_deref(), Some("\"NaN"));
        assert_eq!(found.reward, Some(1.0));
    }

    #[test]
    fn other_lines_are_no_answers() {
        for line in [
            "",
            "loading",
            "7",
            "[]",
            "{}",
            r#"{"id":8,"reward":1}"#,
            r#"{"id":"7","reward":1}"#,
            r#"{"id":-7,"reward":1}"#,
            r#"{"reward":1}"#,
            r#"{"id":7,"reward":1"#,
            r#"{"id":7,"reward":1}{"id":7}"#,
        ] {
            assert_eq!(score(line), None, "{line}");
        }
        assert_eq!(Answer::read(b"\xff", 7), None);
    }

    proptest! {
        #[test]
        fn never_panics(line in "(\\{\"id\":7|NaN|\"|\\\\|\\PC){0,20}") {
            let _ = score(&line);
        }
    }
}
