//! GRPO without its division.

use serde::{Deserialize, Serialize};

use super::baseline;

/// `A = R - μ_group`: without the division by the standard deviation, which favours prompts that
/// are nearly always or nearly never solved. A group of one has μ = 0.
///
/// # References
/// Dr. GRPO, arXiv 2503.20783, Section 3.2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrGrpo {}

impl DrGrpo {
    #[expect(clippy::unused_self, reason = "every estimator is called alike")]
    pub(super) fn advantages(self, groups: &[&[f64]]) -> Vec<Vec<f64>> {
        let centred = |rewards: &&[f64]| {
            let mean = baseline(rewards);
            rewards.iter().map(|reward| reward - mean).collect()
        };
        groups.iter().map(centred).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_are_centred_by_group() {
        let found = DrGrpo {}.advantages(&[&[1.0, 0.0, 0.5], &[0.25]]);
        assert_eq!(found, [vec![0.5, -0.5, 0.0], vec![0.25]]);
    }
}
