//! Advantages that favour uncertain tokens.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{LossError, error::check_range};

/// Entropy-shaped advantage: `A ← A + min(α·sg(H_t), |A|/κ)`.
///
/// The bound keeps the sign of A, and shapes nothing where A is 0.
///
/// # References
/// arXiv 2506.14758: α = 0.4 and κ = 2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShapedAdvantage {
    /// α, the factor of the entropy.
    pub alpha: f64,
    /// κ, above 1: the shaping is at most the advantage's size divided by this.
    pub kappa: f64,
}

impl Default for ShapedAdvantage {
    fn default() -> Self {
        Self {
            alpha: 0.4,
            kappa: 2.0,
        }
    }
}

impl ShapedAdvantage {
    /// Checks every setting.
    ///
    /// # Errors
    /// A negative α, or a κ of 1 or less, which could turn an advantage's sign.
    pub fn validate(&self) -> Result<(), LossError> {
        check_range(
            "entropy.shaped_advantage.alpha",
            self.alpha,
            "it must be finite and at least 0",
            |v| v.is_finite() && v >= 0.0,
        )?;
        check_range(
            "entropy.shaped_advantage.kappa",
            self.kappa,
            "it must be above 1, so that the sign of an advantage stays",
            |v| v > 1.0,
        )
    }

    /// The shaped advantages, without a graph.
    ///
    /// # Shapes
    /// All `[batch, response_len]`.
    pub fn shape(&self, advantages: Tensor<2>, entropies: Tensor<2>) -> Tensor<2> {
        let most = advantages.clone().abs() / self.kappa;
        let bonus = (entropies.detach() * self.alpha).min_pair(most);
        advantages + bonus
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_bonus_is_bounded_by_the_advantage() {
        let device = Device::flex();
        let advantages = Tensor::from_data([[1.0, -1.0, 0.0, -2.0]], &device);
        let entropies = Tensor::from_data([[0.5, 5.0, 5.0, 1.0]], &device);
        let shaped = ShapedAdvantage::default().shape(advantages, entropies);
        let shaped: Vec<f32> = shaped.into_data().iter().collect();
        for (found, expected) in shaped.iter().zip([1.2, -0.5, 0.0, -1.6]) {
            assert!((found - expected).abs() < 1e-6, "{shaped:?}");
        }
    }
}
