//! Leave-one-out advantages.

use serde::{Deserialize, Serialize};

use super::baseline;

/// `A = R - mean of the group's other rewards = (R - μ)·n/(n-1)`. A group of one keeps its reward.
///
/// # References
/// RLOO, arXiv 2402.14740.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rloo {}

impl Rloo {
    #[expect(clippy::unused_self, reason = "every estimator is called alike")]
    pub(super) fn advantages(self, groups: &[&[f64]]) -> Vec<Vec<f64>> {
        let left_out = |rewards: &&[f64]| {
            let (mean, n) = (baseline(rewards), rewards.len() as f64);
            let scale = if n > 1.0 { n / (n - 1.0) } else { 1.0 };
            rewards
                .iter()
                .map(|reward| (reward - mean) * scale)
                .collect()
        };
        groups.iter().map(left_out).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reward_is_compared_with_the_mean_of_the_others() {
        let found = Rloo {}.advantages(&[&[1.0, 0.0, 0.5], &[0.25]]);
        assert_eq!(found, [vec![0.75, -0.75, 0.0], vec![0.25]]);
    }
}
