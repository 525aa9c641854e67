//! PPO's clipped surrogate, with clip-higher and the dual clip.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{PerToken, PolicyLoss, PolicyTerms};
use crate::{LossError, error::check_range};

/// PPO's clipped surrogate, per token:
///
/// ```text
/// r = e^Δ,  Δ = log π - log π_old
/// l = max(-A·r, -A·clip(r, 1 - ε_low, 1 + ε_high))
/// l = min(l, -A·c)          where A < 0, with the dual clip c
/// ```
///
/// A higher `clip_high` than `clip_low` is clip-higher. `clip_low` of 1 or more never clips from
/// below, as a ratio is never negative.
///
/// # References
/// PPO, arXiv 1707.06347, Eq. 7; dual clip, arXiv 1912.09729, Eq. 5; clip-higher (DAPO),
/// arXiv 2503.14476, Section 3.1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PpoClip {
    /// `ε_low`: ratios below `1 - ε_low` get no gradient where A < 0.
    pub clip_low: f64,
    /// `ε_high`: ratios above `1 + ε_high` get no gradient where A > 0.
    pub clip_high: f64,
    /// c, above 1: ratios above it get no gradient where A < 0. 3 is usual, none the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f64>,
}

impl Default for PpoClip {
    fn default() -> Self {
        Self {
            clip_low: 0.2,
            clip_high: 0.2,
            dual_clip: None,
        }
    }
}

impl PolicyLoss for PpoClip {
    fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must be finite and at least 0";
        let passes = |v: f64| v.is_finite() && v >= 0.0;
        check_range("loss.clip_low", self.clip_low, requirement, passes)?;
        check_range("loss.clip_high", self.clip_high, requirement, passes)?;
        match self.dual_clip {
            None => Ok(()),
            Some(c) => check_range("loss.dual_clip", c, "it must be finite and above 1", |v| {
                v.is_finite() && v > 1.0
            }),
        }
    }

    /// The clip bounds Δ before the exponential, which is the same function: where it holds, a
    /// ratio beyond f32 does not turn the gradient into 0·∞.
    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        let (log_ratio, advantages) = (terms.log_ratio.clone(), terms.advantages.clone());
        let (lowest, highest) = self.bounds();
        // Where there is no advantage either bound will do, as long as one is there: 0·∞ is no number.
        let gain = advantages.clone().greater_equal_elem(0.0);
        let clipped = self.clipped(&log_ratio, &advantages);

        let mut of_losses = match lowest {
            Some(lowest) => log_ratio.clone().clamp_min(lowest),
            None => log_ratio.clone(),
        };
        if let Some(c) = self.dual_clip {
            of_losses = of_losses.clamp_max(c.ln() as f32);
        }
        let bounded = of_losses.mask_where(gain, log_ratio.clamp_max(highest));
        PerToken {
            loss: -(bounded.exp() * advantages),
            clipped: Some(clipped),
        }
    }

    fn clip(&self) -> Option<PpoClip> {
        Some(*self)
    }
}

impl PpoClip {
    /// Whether the clip removes a token's gradient: the host's form of [`Self::per_token`]'s
    /// `clipped`, with the same f32 comparisons. The dual clip does not count.
    pub(crate) fn clips(&self, log_ratio: f32, advantage: f32) -> bool {
        let (lowest, highest) = self.bounds();
        (advantage > 0.0 && log_ratio > highest)
            || (advantage < 0.0 && lowest.is_some_and(|lowest| log_ratio < lowest))
    }

    /// 1 where the clip removes a token's gradient, `[batch, response_len]`, without a graph.
    pub(super) fn clipped(&self, log_ratio: &Tensor<2>, advantages: &Tensor<2>) -> Tensor<2> {
        let (lowest, highest) = self.bounds();
        let (log_ratio, advantages) = (
            log_ratio.clone().without_autodiff(),
            advantages.clone().without_autodiff(),
        );
        let above = log_ratio.clone().greater_elem(highest).float()
            * advantages.clone().greater_elem(0.0).float();
        match lowest {
            Some(lowest) => {
                above + log_ratio.lower_elem(lowest).float() * advantages.lower_elem(0.0).float()
            }
            None => above,
        }
    }

    /// `log(1 - ε_low)`, where there is one, and `log(1 + ε_high)`.
    fn bounds(&self) -> (Option<f32>, f32) {
        let lowest = (self.clip_low < 1.0).then(|| (1.0 - self.clip_low).ln() as f32);
        (lowest, (1.0 + self.clip_high).ln() as f32)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the values are exact in f32")]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Loss, gradient by Δ and clip of one token.
    fn token(clip: &PpoClip, ratio: f32, advantage: f32) -> (f32, f32, f32) {
        at(clip, ratio.ln(), advantage)
    }

    fn at(clip: &PpoClip, log_ratio: f32, advantage: f32) -> (f32, f32, f32) {
        let device = Device::flex().autodiff();
        let log_ratio = Tensor::<2>::from_data([[log_ratio]], &device).require_grad();
        let output = clip.per_token(&PolicyTerms {
            log_probs: log_ratio.clone(),
            log_ratio: log_ratio.clone(),
            advantages: Tensor::from_data([[advantage]], &device),
            mask: Tensor::ones([1, 1], &device),
        });
        let gradients = output.loss.clone().sum().backward();
        let gradient = log_ratio.grad(&gradients).unwrap().into_scalar();
        (
            output.loss.into_scalar(),
            gradient,
            output.clipped.unwrap().into_scalar(),
        )
    }

    #[track_caller]
    fn assert_token(found: (f32, f32, f32), expected: (f32, f32, f32)) {
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(
            close(found.0, expected.0) && close(found.1, expected.1) && found.2 == expected.2,
            "{found:?}, expected {expected:?}"
        );
    }

    #[test]
    fn values_worked_by_hand() {
        let clip = PpoClip {
            clip_low: 0.2,
            clip_high: 0.28,
            dual_clip: None,
        };
        // Inside: l = -A·r and its gradient by Δ is the same.
        assert_token(token(&clip, 1.1, 2.0), (-2.2, -2.2, 0.0));
        assert_token(token(&clip, 0.9, -2.0), (1.8, 1.8, 0.0));
        // Above, with a gain: clipped. Above, with a loss: not.
        assert_token(token(&clip, 1.5, 2.0), (-2.56, 0.0, 1.0));
        assert_token(token(&clip, 1.5, -2.0), (3.0, 3.0, 0.0));
        // Below, with a loss: clipped. Below, with a gain: not.
        assert_token(token(&clip, 0.5, -2.0), (1.6, 0.0, 1.0));
        assert_token(token(&clip, 0.5, 2.0), (-1.0, -1.0, 0.0));
        // No advantage, nothing to clip.
        assert_token(token(&clip, 9.0, 0.0), (0.0, 0.0, 0.0));
    }

    #[test]
    fn the_dual_clip_bounds_losses_and_is_not_counted() {
        let clip = PpoClip {
            dual_clip: Some(3.0),
            ..PpoClip::default()
        };
        assert_token(token(&clip, 5.0, -2.0), (6.0, 0.0, 0.0));
        assert_token(token(&clip, 2.9, -1.0), (2.9, 2.9, 0.0));
        assert_token(token(&clip, 5.0, 2.0), (-2.4, 0.0, 1.0));
    }

    #[test]
    fn a_low_clip_of_one_never_clips_from_below() {
        let clip = PpoClip {
            clip_low: 1.0,
            clip_high: 1.0,
            dual_clip: None,
        };
        assert_token(token(&clip, 1e-3, -1.0), (1e-3, 1e-3, 0.0));
        assert_token(token(&clip, 2.5, 1.0), (-2.0, 0.0, 1.0));
    }

    #[test]
    fn a_ratio_beyond_f32_leaves_the_clipped_gradient_zero() {
        assert_token(at(&PpoClip::default(), 200.0, 1.0), (-1.2, 0.0, 1.0));
        assert_token(at(&PpoClip::default(), -200.0, -1.0), (0.8, 0.0, 1.0));
        assert_token(at(&PpoClip::default(), 200.0, 0.0), (0.0, 0.0, 0.0));
    }

    #[test]
    fn the_host_agrees_with_the_device_on_what_is_clipped() {
        let clip = PpoClip {
            clip_low: 0.2,
            clip_high: 0.28,
            dual_clip: Some(3.0),
        };
        let edge = 1.28_f64.ln() as f32;
        for log_ratio in [edge, edge.next_up(), edge.next_down(), 0.0, -0.3, -0.1, 2.0] {
            for advantage in [1.0, -1.0, 0.0] {
                let device = at(&clip, log_ratio, advantage).2 > 0.5;
                assert_eq!(
                    clip.clips(log_ratio, advantage),
                    device,
                    "{log_ratio} {advantage}"
                );
            }
        }
    }
}
