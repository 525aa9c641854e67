//! Correction for a sampler whose log-probabilities differ from the trainer's.

use serde::{Deserialize, Serialize};

use crate::{LossError, error::check_range};

/// What a weight belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionLevel {
    /// Each token has its own ratio.
    #[default]
    Token,
    /// All tokens of a sequence have the product of its tokens' ratios.
    Sequence,
}

/// What happens to a weight out of bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionMode {
    /// It is set to the upper bound.
    #[default]
    Truncate,
    /// It is set to 0: the token or sequence is not trained on, but stays in the denominator.
    Mask,
}

/// Importance weights between the policy that sampled and the trainer's form of it:
///
/// ```text
/// w = exp(log π_old - log π_sampler)      token
/// w = exp(Σ_t (log π_old - log π_sampler))  sequence
/// l ← w·l, with w ← min(w, threshold), or w ← 0 outside [lower, threshold]
/// ```
///
/// The same model gives slightly different probabilities in another engine or number format, so
/// that even a first update is off its policy.
///
/// # References
/// Truncated: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"
/// (2025). Masked: `IcePop`, arXiv 2510.18855. The threshold of 2 is that of the peers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutCorrection {
    /// What a weight belongs to.
    pub level: CorrectionLevel,
    /// What happens to a weight out of bounds.
    pub mode: CorrectionMode,
    /// The largest weight.
    pub threshold: f64,
    /// The smallest weight that [`CorrectionMode::Mask`] lets through.
    pub lower: f64,
}

impl Default for RolloutCorrection {
    fn default() -> Self {
        Self {
            level: CorrectionLevel::Token,
            mode: CorrectionMode::Truncate,
            threshold: 2.0,
            lower: 0.0,
        }
    }
}

impl RolloutCorrection {
    /// Checks every setting.
    ///
    /// # Errors
    /// A threshold below 1, or a lower bound outside [0, 1].
    pub fn validate(&self) -> Result<(), LossError> {
        check_range(
            "loss.rollout_correction.threshold",
            self.threshold,
            "it must be at least 1: equal policies have a weight of 1",
            |v| v >= 1.0,
        )?;
        check_range(
            "loss.rollout_correction.lower",
            self.lower,
            "it must lie in [0, 1]: equal policies have a weight of 1",
            |v| (0.0..=1.0).contains(&v),
        )
    }

    /// The weights of one sequence's trained tokens, in their order.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn weights(&self, old_log_probs: &[f32], sampler_log_probs: &[f32]) -> Vec<f32> {
        assert_eq!(
            old_log_probs.len(),
            sampler_log_probs.len(),
            "the trainer and the sampler have different tokens"
        );
        let pairs = old_log_probs.iter().zip(sampler_log_probs);
        let ratios: Vec<f64> = pairs.map(|(o, s)| f64::from(*o) - f64::from(*s)).collect();
        match self.level {
            CorrectionLevel::Token => ratios.iter().map(|ratio| self.bounded(*ratio)).collect(),
            CorrectionLevel::Sequence => vec![self.bounded(ratios.iter().sum()); ratios.len()],
        }
    }

    fn bounded(&self, log_ratio: f64) -> f32 {
        let weight = log_ratio.exp();
        let is_inside = weight >= self.lower && weight <= self.threshold;
        let bounded = match self.mode {
            CorrectionMode::Truncate => weight.min(self.threshold),
            CorrectionMode::Mask if is_inside => weight,
            CorrectionMode::Mask => 0.0,
        };
        bounded as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(level: CorrectionLevel, mode: CorrectionMode) -> Vec<f32> {
        let correction = RolloutCorrection {
            level,
            mode,
            threshold: 2.0,
            lower: 0.5,
        };
        // Ratios 3, 1 and 1/4: their product is 3/4.
        let old = [3.0_f32.ln(), -1.0, 0.25_f32.ln()];
        correction.weights(&old, &[0.0, -1.0, 0.0])
    }

    #[track_caller]
    fn assert_weights(found: &[f32], expected: [f32; 3]) {
        let close = found
            .iter()
            .zip(expected)
            .all(|(f, e)| (f - e).abs() < 1e-6);
        assert!(close, "{found:?}, expected {expected:?}");
    }

    #[test]
    fn weights_worked_by_hand() {
        use CorrectionLevel::{Sequence, Token};
        use CorrectionMode::{Mask, Truncate};
        assert_weights(&weights(Token, Truncate), [2.0, 1.0, 0.25]);
        assert_weights(&weights(Token, Mask), [0.0, 1.0, 0.0]);
        assert_weights(&weights(Sequence, Truncate), [0.75; 3]);
        assert_weights(&weights(Sequence, Mask), [0.75; 3]);
    }

    #[test]
    fn equal_policies_have_weight_one() {
        let correction = RolloutCorrection::default();
        assert_eq!(correction.weights(&[-1.5, -0.1], &[-1.5, -0.1]), [1.0, 1.0]);
    }
}
