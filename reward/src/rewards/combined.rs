//! Several rewards as one.

use crate::{ExternalStats, Problem, Response, Reward, Score, StopCheck};

/// The weighted sum of several rewards: `Σ weight · reward`.
///
/// Whether the answer is right, what was extracted and why come from the first part that judges
/// correctness; where none does, no answer counts as right. Where a part has no reward, neither has
/// the sum, and the reason is that part's.
pub struct CombinedReward {
    parts: Vec<WeightedReward>,
}

/// A part of a [`CombinedReward`].
pub struct WeightedReward {
    /// What the part is called in [`Score::parts`]; each has a name of its own.
    pub name: String,
    /// What its reward is multiplied by.
    pub weight: f64,
    /// The reward.
    pub reward: Box<dyn Reward>,
}

impl CombinedReward {
    /// The sum of some parts, in the order in which they judge.
    pub fn new(parts: Vec<WeightedReward>) -> Self {
        Self { parts }
    }

    /// The part whose judgment is the sum's; without one that judges, the first.
    fn judge(&self) -> usize {
        let judges = |part: &WeightedReward| part.reward.judges_correctness();
        self.parts.iter().position(judges).unwrap_or_default()
    }

    fn sum(&self, scores: &[Score]) -> Option<f64> {
        let weighted = |(part, score): (&WeightedReward, &Score)| Some(part.weight * score.reward?);
        self.parts.iter().zip(scores).map(weighted).sum()
    }
}

impl Reward for CombinedReward {
    fn score(&self, problem: &Problem, response: &Response<'_>) -> Score {
        let score = |part: &WeightedReward| part.reward.score(problem, response);
        let scores: Vec<Score> = self.parts.iter().map(score).collect();
        let Some(judgment) = scores.get(self.judge()) else {
            return Score::missing("no_reward_given");
        };
        let named = self.parts.iter().zip(&scores);
        let named = named.filter_map(|(part, score)| Some((part.name.clone(), score.reward?)));
        let without_reward = scores.iter().find(|score| score.reward.is_none());
        Score {
            reward: self.sum(&scores),
            reason: without_reward.unwrap_or(judgment).reason.clone(),
            parts: named.collect(),
            ..judgment.clone()
        }
    }

    fn judges_correctness(&self) -> bool {
        self.parts
            .iter()
            .any(|part| part.reward.judges_correctness())
    }

    fn stop_when(&self, is_stopped: &StopCheck) {
        for part in &self.parts {
            part.reward.stop_when(is_stopped);
        }
    }

    fn external_stats(&self) -> Option<ExternalStats> {
        let stats = self
            .parts
            .iter()
            .filter_map(|part| part.reward.external_stats());
        stats.reduce(|sum, stats| sum + stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::test_problem;
    use crate::{BoxCount, FormatReward, OverlongReward, VerifierReward};

    /// Always gives the same score.
    struct Always(Score);

    impl Reward for Always {
        fn score(&self, _problem: &Problem, _response: &Response<'_>) -> Score {
            self.0.clone()
        }

        fn external_stats(&self) -> Option<ExternalStats> {
            let asked = 2;
            Some(ExternalStats {
                asked,
                ..ExternalStats::default()
            })
        }
    }

    fn part(weight: f64, reward: impl Reward + 'static) -> WeightedReward {
        let reward = Box::new(reward);
        WeightedReward {
            name: format!("{weight}"),
            weight,
            reward,
        }
    }

    fn format() -> FormatReward {
        FormatReward {
            boxes: BoxCount::ExactlyOne,
            ..FormatReward::default()
        }
    }

    #[test]
    fn rewards_are_summed_by_weight() {
        let overlong = OverlongReward {
            max_tokens: 10,
            cache_tokens: 4,
        };
        let reward = CombinedReward::new(vec![
            part(0.25, format()),
            part(2.0, VerifierReward::default()),
            part(0.5, overlong),
        ]);
        let score = |text, tokens| {
            let response = Response {
                text,
                tokens,
                truncated: false,
            };
            reward.score(&test_problem("7"), &response)
        };
        // 0.25 + 2 - 0.5 · 0.5
        let right = score(r"\boxed{7}", 8);
        assert_eq!(right.reward, Some(2.0));
        assert!(right.correct);
        assert_eq!(right.extracted.as_deref(), Some("7"));
        assert_eq!(right.reason, "same_text");
        // 0.25 + 0 + 0
        let wrong = score(r"\boxed{8}", 6);
        assert_eq!((wrong.reward, wrong.correct), (Some(0.25), false));
        // 0 + 2 - 0.5
        let long = score("#### 7", 20);
        assert_eq!((long.reward, long.correct), (Some(1.5), true));
        assert!(reward.judges_correctness());
    }

    #[test]
    fn the_first_judge_decides() {
        let right = Score::binary(true, Some("a".into()), "right");
        let wrong = Score::binary(false, Some("b".into()), "wrong");
        let reward = CombinedReward::new(vec![
            part(1.0, format()),
            part(0.0, Always(wrong.clone())),
            part(1.0, Always(right)),
        ]);
        let score = reward.score(&test_problem("7"), &"".into());
        let expected = Score {
            reward: Some(1.0),
            parts: [("0".to_owned(), 0.0), ("1".to_owned(), 1.0)].into(),
            ..wrong
        };
        assert_eq!(score, expected);
        assert_eq!(reward.external_stats().unwrap().asked, 4);
    }

    #[test]
    fn form_alone_judges_nothing() {
        let reward = CombinedReward::new(vec![part(1.0, format())]);
        let score = reward.score(&test_problem("7"), &r"\boxed{7}".into());
        let expected = Score {
            parts: [("1".to_owned(), 1.0)].into(),
            ..Score::of(1.0, "well_formed")
        };
        assert_eq!(score, expected);
        assert!(!reward.judges_correctness());
        assert_eq!(reward.external_stats(), None);
    }

    #[test]
    fn a_missing_part_makes_the_sum_missing() {
        let right = Score::binary(true, Some("a".into()), "right");
        let reward = CombinedReward::new(vec![
            part(1.0, Always(right.clone())),
            part(0.0, Always(Score::missing("external_timeout"))),
        ]);
        let score = reward.score(&test_problem("7"), &"".into());
        // The part that has none is not among the parts' rewards.
        let expected = Score {
            reward: None,
            reason: "external_timeout".into(),
            parts: [("1".to_owned(), 1.0)].into(),
            ..right
        };
        assert_eq!(score, expected);
        let nothing = CombinedReward::new(Vec::new());
        let score = nothing.score(&test_problem("7"), &"".into());
        assert_eq!(score.reward, None);
    }
}
