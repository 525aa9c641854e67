//! The critic's loss.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{LossError, PerToken, error::check_range};

/// PPO's clipped value loss, per token:
///
/// ```text
/// l = ½·max((v - R)², (clip(v, v_old - c, v_old + c) - R)²)
/// ```
///
/// # References
/// PPO's published code (2017); verl's `compute_value_loss`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValueLoss {
    /// c: how far a value may move from the old one before its gradient vanishes.
    pub clip: f64,
}

impl Default for ValueLoss {
    fn default() -> Self {
        Self { clip: 0.5 }
    }
}

impl ValueLoss {
    /// Checks every setting.
    ///
    /// # Errors
    /// A clip that is not above 0.
    pub fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must be above 0; inf turns the clip off";
        check_range("critic.clip", self.clip, requirement, |v| v > 0.0)
    }

    /// The loss of each token, and where the clipped form is the larger one.
    ///
    /// # Shapes
    /// All `[batch, response_len]`.
    pub fn per_token(
        &self,
        values: Tensor<2>,
        old_values: Tensor<2>,
        returns: Tensor<2>,
    ) -> PerToken {
        let near = if self.clip.is_finite() {
            let bound = |tensor: Tensor<2>| tensor.min_pair(old_values.clone() + self.clip);
            bound(values.clone().max_pair(old_values.clone() - self.clip))
        } else {
            values.clone()
        };
        let plain = (values - returns.clone()).square();
        let clipped = (near - returns).square();
        let is_clipped = clipped.clone().greater(plain.clone()).float();
        PerToken {
            loss: plain.max_pair(clipped) * 0.5,
            clipped: Some(is_clipped.without_autodiff()),
        }
    }
}
