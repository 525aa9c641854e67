//! The soft overlong punishment.

use serde::{Deserialize, Serialize};

use super::setting::Settings;
use crate::{Problem, Response, Reward, RewardError, Score};

/// A penalty that grows over the last tokens before the limit.
///
/// With `L` tokens of the response, `L_max = max_tokens` and `L_cache = cache_tokens`:
///
/// ```text
///  0                               L ≤ L_max - L_cache
/// (L_max - L_cache - L) / L_cache  L_max - L_cache < L ≤ L_max
/// -1                               L_max < L
/// ```
///
/// A response that generation cut off at `max_tokens` gets -1. It says nothing of whether an
/// answer is right, so it goes beside a reward that does.
///
/// # References
/// Yu et al., DAPO (arXiv 2503.14476), Eq. 13; the default is their setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OverlongReward {
    /// `L_max`: the tokens from which on the penalty is whole. It should be the run's limit on
    /// response tokens: where that is lower, no response ever gets the whole penalty.
    pub max_tokens: usize,
    /// `L_cache`: over how many tokens before that the penalty grows, from 1 to `max_tokens`.
    pub cache_tokens: usize,
}

impl Default for OverlongReward {
    fn default() -> Self {
        Self {
            max_tokens: 20_480,
            cache_tokens: 4_096,
        }
    }
}

impl OverlongReward {
    /// Checks the settings.
    ///
    /// # Errors
    /// If `cache_tokens` is 0 or more than `max_tokens`.
    pub fn validate(&self) -> Result<(), RewardError> {
        let settings = Settings { reward: "overlong" };
        settings.require(
            (1..=self.max_tokens).contains(&self.cache_tokens),
            "cache_tokens",
            self.cache_tokens,
            "must lie between 1 and `max_tokens`",
        )
    }

    /// The penalty for a number of tokens, from -1 to 0.
    fn penalty(self, tokens: usize) -> f64 {
        let free_tokens = self.max_tokens.saturating_sub(self.cache_tokens);
        let excess_tokens = tokens.saturating_sub(free_tokens);
        if excess_tokens == 0 {
            return 0.0;
        }
        -(excess_tokens as f64 / self.cache_tokens as f64).min(1.0)
    }
}

impl Reward for OverlongReward {
    fn score(&self, _problem: &Problem, response: &Response<'_>) -> Score {
        let penalty = self.penalty(response.tokens);
        let reason = if penalty < 0.0 {
            "overlong"
        } else {
            "length_allowed"
        };
        Score::of(penalty, reason)
    }

    fn judges_correctness(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::test_problem;

    fn reward_of(reward: OverlongReward, tokens: usize) -> Option<f64> {
        let response = Response {
            tokens,
            ..Response::default()
        };
        reward.score(&test_problem(""), &response).reward
    }

    #[test]
    fn the_penalty_grows_over_the_cache() {
        let reward = OverlongReward {
            max_tokens: 10,
            cache_tokens: 4,
        };
        // 0 up to 10 - 4 = 6 tokens; then (6 - L) / 4; -1 above 10.
        for (tokens, expected) in [
            (0, 0.0),
            (6, 0.0),
            (7, -0.25),
            (8, -0.5),
            (9, -0.75),
            (10, -1.0),
            (11, -1.0),
            (usize::MAX, -1.0),
        ] {
            assert_eq!(reward_of(reward, tokens), Some(expected), "{tokens}");
        }
    }

    #[test]
    fn the_cache_may_be_the_whole_length() {
        let reward = OverlongReward {
            max_tokens: 2,
            cache_tokens: 2,
        };
        assert!(reward.validate().is_ok());
        let penalties = [0, 1, 2, 3].map(|tokens| reward_of(reward, tokens));
        assert_eq!(penalties, [0.0, -0.5, -1.0, -1.0].map(Some));
    }

    #[test]
    fn the_default_is_the_papers() {
        let reward = OverlongReward::default();
        assert_eq!(reward_of(reward, 16_384), Some(0.0));
        assert_eq!(reward_of(reward, 18_432), Some(-0.5));
        assert_eq!(reward_of(reward, 20_480), Some(-1.0));
        assert!(reward.validate().is_ok());
    }

    #[test]
    fn caches_must_fit() {
        for (max_tokens, cache_tokens) in [(10, 0), (10, 11), (0, 0), (0, 1)] {
            let reward = OverlongReward {
                max_tokens,
                cache_tokens,
            };
            let error = reward.validate().unwrap_err();
            assert!(error.to_string().contains("`cache_tokens`"), "{error}");
            // Whatever the settings, no score is NaN.
            assert!(reward_of(reward, 11).is_some_and(f64::is_finite));
        }
    }
}
