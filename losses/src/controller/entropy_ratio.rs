//! Entropy ratio clipping: a token whose entropy moved too far gets no gradient.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{LossError, error::check_range};

/// Entropy ratio clipping (ERC):
///
/// ```text
/// ρ_t = H_t / H_old,t        l ← sg(l) where ρ_t lies outside (ratio_low, ratio_high)
/// ```
///
/// The loss keeps its value, the gradient vanishes. A token whose entropy was 0 and still is has
/// ρ = 1.
///
/// # References
/// arXiv 2512.05591; its bounds of 0.95 and 1.05 are the default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntropyRatioClip {
    /// The lowest ratio that keeps its gradient is above this.
    pub ratio_low: f64,
    /// The highest ratio that keeps its gradient is below this.
    pub ratio_high: f64,
}

impl Default for EntropyRatioClip {
    fn default() -> Self {
        Self {
            ratio_low: 0.95,
            ratio_high: 1.05,
        }
    }
}

impl EntropyRatioClip {
    /// Checks every setting.
    ///
    /// # Errors
    /// Bounds that do not lie around 1.
    pub fn validate(&self) -> Result<(), LossError> {
        check_range(
            "entropy.ratio_clip.ratio_low",
            self.ratio_low,
            "it must be below 1: at 1 no token would keep its gradient",
            |v| v < 1.0,
        )?;
        check_range(
            "entropy.ratio_clip.ratio_high",
            self.ratio_high,
            "it must be above 1: at 1 no token would keep its gradient",
            |v| v > 1.0,
        )
    }

    /// The losses, without a gradient where the entropy's ratio is out of bounds; and where it is.
    ///
    /// # Shapes
    /// All `[batch, response_len]`.
    pub fn hold(
        &self,
        loss: Tensor<2>,
        entropies: Tensor<2>,
        old_entropies: Tensor<2>,
    ) -> (Tensor<2>, Tensor<2>) {
        let (now, before) = (
            entropies.without_autodiff(),
            old_entropies.without_autodiff(),
        );
        // Multiplied out, so that an entropy of 0 divides nothing.
        let low = now.clone().lower_equal(before.clone() * self.ratio_low);
        let high = now.clone().greater_equal(before.clone() * self.ratio_high);
        let is_outside = low.bool_or(high).bool_and(now.not_equal(before));
        let outside = is_outside.clone().float().without_autodiff();
        let held = loss.clone().detach();
        (loss.mask_where(is_outside, held), outside)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn tokens_outside_keep_their_loss_and_lose_their_gradient() {
        let device = Device::flex().autodiff();
        let leaf = Tensor::<2>::from_data([[1.0, 2.0, 3.0, 4.0, 5.0]], &device).require_grad();
        let now = Tensor::from_data([[1.0, 0.9, 1.1, 0.0, 0.0]], &device);
        let before = Tensor::from_data([[1.0, 1.0, 1.0, 0.0, 0.5]], &device);
        let control = EntropyRatioClip::default();
        let (loss, outside) = control.hold(leaf.clone() * 2.0, now, before);
        let gradients = loss.clone().sum().backward();
        let values = |tensor: Tensor<2>| tensor.into_data().iter::<f32>().collect::<Vec<_>>();
        assert_eq!(values(loss), [2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(
            values(leaf.grad(&gradients).unwrap()),
            [2.0, 0.0, 0.0, 2.0, 0.0]
        );
        assert_eq!(values(outside), [0.0, 1.0, 1.0, 0.0, 1.0]);
    }
}
