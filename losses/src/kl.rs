//! Estimators of the KL divergence between two policies from the sampled tokens alone.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{LossError, error::check_range};

/// A per-token estimator, in nats, with `x = log π_ref - log π`.
///
/// # References
/// Schulman, "Approximating KL Divergence" (2020). verl calls k2 `mse` and k3 `low_var_kl`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `-x`: unbiased, of either sign; as a loss its gradient is zero in expectation.
    K1,
    /// `|x|`: the gradient has unit size whatever the divergence.
    Abs,
    /// `½x²`: as a loss its gradient is that of the divergence, near the reference.
    K2,
    /// `e^x - x - 1`: unbiased and never negative.
    #[default]
    K3,
}

impl KlEstimator {
    /// The estimate from `x = log π_ref - log π`, on the host.
    pub fn of_log_ratio(self, x: f64) -> f64 {
        match self {
            Self::K1 => -x,
            Self::Abs => x.abs(),
            Self::K2 => 0.5 * x * x,
            Self::K3 => x.exp() - x - 1.0,
        }
    }
}

/// Where a penalty goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlPlace {
    /// Added to the loss of each token, with its gradient (GRPO).
    #[default]
    Loss,
    /// Taken from the reward of each token, before the advantages (PPO).
    Reward,
}

/// Bounds on an estimate; outside them the gradient is zero. verl clamps k3 at 20 and 10.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlClamp {
    /// x is clamped to ± this.
    pub log_ratio: f64,
    /// The estimate is clamped to ± this.
    pub value: f64,
}

impl Default for KlClamp {
    fn default() -> Self {
        Self {
            log_ratio: 20.0,
            value: 10.0,
        }
    }
}

/// A penalty on the divergence from a reference policy.
///
/// # References
/// In the loss: GRPO, arXiv 2402.03300, Eq. 3. In the reward: arXiv 1909.08593, Eq. 2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReferenceKl {
    /// The factor of the penalty.
    pub coef: f64,
    /// The estimator.
    pub estimator: KlEstimator,
    /// Bounds on the estimate, none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clamp: Option<KlClamp>,
    /// Where it goes.
    pub place: KlPlace,
}

impl Default for ReferenceKl {
    fn default() -> Self {
        Self {
            coef: 1e-3,
            estimator: KlEstimator::K3,
            clamp: None,
            place: KlPlace::Loss,
        }
    }
}

impl ReferenceKl {
    /// Checks every setting.
    ///
    /// # Errors
    /// A negative or non-finite coefficient, or a bound that is not positive.
    pub fn validate(&self) -> Result<(), LossError> {
        let finite = |v: f64| v.is_finite() && v >= 0.0;
        check_range(
            "loss.reference_kl.coef",
            self.coef,
            "it must be finite and at least 0",
            finite,
        )?;
        let clamp = self.clamp;
        clamp.map_or(Ok(()), |clamp| clamp.validate("loss.reference_kl.clamp"))
    }
}

impl KlClamp {
    /// Checks both bounds; `table` is where they stand in the configuration, for the error.
    ///
    /// # Errors
    /// A bound that is not positive.
    pub fn validate(&self, table: &str) -> Result<(), LossError> {
        let bounds = [("log_ratio", self.log_ratio), ("value", self.value)];
        bounds.into_iter().try_for_each(|(name, bound)| {
            check_range(
                format!("{table}.{name}"),
                bound,
                "it must be above 0",
                |v| v > 0.0,
            )
        })
    }
}

impl ReferenceKl {
    /// What is taken from the reward of a token: `coef·k`, on the host.
    pub fn reward_penalty(&self, log_prob: f64, ref_log_prob: f64) -> f64 {
        let bounded = |value: f64, bound: Option<f64>| bound.map_or(value, |b| value.clamp(-b, b));
        let x = bounded(ref_log_prob - log_prob, self.clamp.map(|c| c.log_ratio));
        let estimate = self.estimator.of_log_ratio(x);
        self.coef * bounded(estimate, self.clamp.map(|c| c.value))
    }
}

/// The per-token estimate of `KL(π ‖ π_ref)`, in nats, for tokens sampled from π.
///
/// # Shapes
/// Both inputs and the result: `[batch, response_len]`.
///
/// # Panics
/// If the shapes differ.
pub fn kl_estimate(
    log_probs: Tensor<2>,
    ref_log_probs: Tensor<2>,
    estimator: KlEstimator,
    clamp: Option<KlClamp>,
) -> Tensor<2> {
    assert_eq!(
        log_probs.dims(),
        ref_log_probs.dims(),
        "log_probs and ref_log_probs differ"
    );
    let x = bounded(ref_log_probs - log_probs, clamp.map(|c| c.log_ratio));
    bounded(
        estimate_from_log_ratio(x, estimator),
        clamp.map(|c| c.value),
    )
}

/// The estimate from `x = log π_ref - log π`.
pub(crate) fn estimate_from_log_ratio(x: Tensor<2>, estimator: KlEstimator) -> Tensor<2> {
    match estimator {
        KlEstimator::K1 => -x,
        KlEstimator::Abs => x.abs(),
        KlEstimator::K2 => x.powi_scalar(2) * 0.5,
        KlEstimator::K3 => x.clone().exp() - x - 1.0,
    }
}

fn bounded(tensor: Tensor<2>, bound: Option<f64>) -> Tensor<2> {
    match bound {
        Some(bound) => tensor.clamp(-bound, bound),
        None => tensor,
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the values are exact in f32")]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn estimate(x: f32, estimator: KlEstimator, clamp: Option<KlClamp>) -> (f32, f32) {
        let device = Device::flex().autodiff();
        let log_probs = Tensor::<2>::from_data([[-x]], &device).require_grad();
        let reference = Tensor::zeros([1, 1], &device);
        let value = kl_estimate(log_probs.clone(), reference, estimator, clamp);
        let gradients = value.clone().sum().backward();
        (
            value.into_scalar(),
            log_probs.grad(&gradients).unwrap().into_scalar(),
        )
    }

    #[test]
    fn estimators_vanish_at_equal_policies_and_so_do_all_gradients_but_one() {
        for estimator in [KlEstimator::Abs, KlEstimator::K2, KlEstimator::K3] {
            assert_eq!(estimate(0.0, estimator, None), (0.0, 0.0), "{estimator:?}");
        }
        assert_eq!(estimate(0.0, KlEstimator::K1, None), (0.0, 1.0));
    }

    #[test]
    fn k3_worked_by_hand() {
        // x = ln 2: 2 - ln 2 - 1, and the gradient by log π is 1 - 2.
        let (value, gradient) = estimate(2.0_f32.ln(), KlEstimator::K3, None);
        assert!((value - (1.0 - 2.0_f32.ln())).abs() < 1e-6);
        assert!((gradient + 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_clamp_bounds_value_and_gradient() {
        let clamp = Some(KlClamp::default());
        assert_eq!(estimate(5.0, KlEstimator::K3, clamp), (10.0, 0.0));
        assert_eq!(estimate(-200.0, KlEstimator::K1, clamp), (10.0, 0.0));
        assert_eq!(estimate(15.0, KlEstimator::K2, clamp), (10.0, 0.0));
    }
}
