//! What a response earns.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

/// What a response earned, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The reward that advantages are computed from; `None` where it could not be had, because an
    /// external program failed or an answer could not be decided. That is no reward of 0: a group
    /// with such a score is left out of training, and counted.
    pub reward: Option<f64>,
    /// Whether the answer is right, which accuracies count.
    pub correct: bool,
    /// Whether the budget of work ended before right or wrong was decided; `correct` is then false.
    #[serde(default)]
    pub undecided: bool,
    /// The answer found in the response.
    pub extracted: Option<String>,
    /// Why, in a few words joined by underscores.
    pub reason: Cow<'static, str>,
    /// What each part of a sum gave, by its name and before its weight; empty where the reward is no sum.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, f64>,
}

impl Score {
    /// Reward 1 for a right answer, 0 for a wrong one.
    pub fn binary(
        correct: bool,
        extracted: Option<String>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            correct,
            extracted,
            ..Self::of(f64::from(u8::from(correct)), reason)
        }
    }

    /// The reward, where there is one and it is a finite number.
    pub fn finite_reward(&self) -> Option<f64> {
        self.reward.filter(|reward| reward.is_finite())
    }

    /// A reward that says nothing of whether the answer is right.
    pub fn of(reward: f64, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reward: Some(reward),
            ..Self::missing(reason)
        }
    }

    /// No reward, since it could not be had.
    pub fn missing(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reward: None,
            correct: false,
            undecided: false,
            extracted: None,
            reason: reason.into(),
            parts: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_one_zero_a_value_or_missing() {
        assert_eq!(Score::binary(true, None, "a").reward, Some(1.0));
        assert_eq!(Score::binary(false, None, "a").reward, Some(0.0));
        let penalty = Score::of(-0.5, "overlong");
        assert_eq!((penalty.reward, penalty.correct), (Some(-0.5), false));
        assert_eq!(Score::missing("external_timeout").reward, None);
    }

    #[test]
    fn missing_rewards_survive_writing() {
        let missing = Score::missing("external_timeout");
        let written = serde_json::to_string(&missing).unwrap();
        assert_eq!(
            written,
            concat!(
                r#"{"reward":null,"correct":false,"undecided":false,"extracted":null,"#,
                r#""reason":"external_timeout"}"#,
            )
        );
        assert_eq!(serde_json::from_str::<Score>(&written).unwrap(), missing);
    }
}
