//! Clip-Cov: a random few of the tokens with a high covariance get no gradient.

use burn::tensor::Tensor;
use entropy::token_covariances;
use serde::{Deserialize, Serialize};

use super::selection::{Quota, Selection, SelectionKey, SelectionScope, SelectionView, first_by};
use crate::{LossError, PpoClip, error::check_range};

/// Clip-Cov.
///
/// ```text
/// candidates: ω_low < Cov_t < ω_high, trained, and not clipped by PPO already
/// selected:   max(⌊fraction·N⌋, 1) of them at random, all where there are fewer
/// effect:     the loss of a selected token is 0, in value and gradient; it stays in the denominator
/// ```
///
/// The choice ranks candidates by a draw keyed by the token's identity, so neither the order of
/// rows nor threads nor micro-batches change it. The defaults are the paper's, in which the PPO
/// clip is in effect off.
///
/// # References
/// arXiv 2505.22617, Section 4, and its published code, from which the minimum of one, the open
/// interval and the zeroed value are taken; the paper's text has ⌊fraction·N⌋ and a closed one.
/// The code selects within a micro-batch: [`SelectionScope::MicroBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipCov {
    /// `ε_low` of the PPO clip underneath.
    pub clip_low: f64,
    /// `ε_high` of the PPO clip underneath.
    pub clip_high: f64,
    /// Share of the trained tokens to select: 2e-4 is 0.02 %.
    pub fraction: f64,
    /// `ω_low`, the lower end of the covariance band.
    pub cov_low: f64,
    /// `ω_high`, its upper end.
    pub cov_high: f64,
    /// The tokens among which to select.
    pub selection: SelectionScope,
}

impl Default for ClipCov {
    fn default() -> Self {
        Self {
            clip_low: 1.0,
            clip_high: 1.0,
            fraction: 2e-4,
            cov_low: 1.0,
            cov_high: 5.0,
            selection: SelectionScope::MiniBatch,
        }
    }
}

impl ClipCov {
    /// Checks every setting.
    ///
    /// # Errors
    /// A setting out of its range, or an empty band.
    pub fn validate(&self) -> Result<(), LossError> {
        self.clip().validate()?;
        let share = |v: f64| v > 0.0 && v <= 1.0;
        let requirement = "it must lie in (0, 1]: 2e-4 is 0.02 %";
        check_range("clip_cov.fraction", self.fraction, requirement, share)?;
        if self.cov_low < self.cov_high {
            return Ok(());
        }
        Err(LossError::EmptyBand {
            low: self.cov_low,
            high: self.cov_high,
        })
    }

    /// The PPO clip underneath.
    pub fn clip(&self) -> PpoClip {
        PpoClip {
            clip_low: self.clip_low,
            clip_high: self.clip_high,
            dual_clip: None,
        }
    }

    /// Selects among the batch's tokens.
    ///
    /// # Errors
    /// A trained token that is not finite.
    ///
    /// # Panics
    /// If the view's lengths differ.
    pub fn select(&self, view: &SelectionView, key: &SelectionKey) -> Result<Selection, LossError> {
        view.check()?;
        let covariances = token_covariances(view.advantages, view.log_probs, view.mask);
        let drawn: Vec<_> = view
            .trained()
            .filter(|&index| self.is_candidate(view, index, covariances[index]))
            .map(|index| {
                let (row_key, token) = view.identity(index);
                (key.draw(row_key, token), row_key, token, index)
            })
            .collect();
        let (quota, candidates) = (Quota::of(view, self.fraction), drawn.len());
        let chosen: Vec<usize> = first_by(drawn, quota.count, Ord::cmp)
            .into_iter()
            .map(|drawn| drawn.3)
            .collect();
        Ok(Selection::of(
            view,
            &covariances,
            quota,
            candidates,
            &chosen,
        ))
    }

    /// The losses with those of the selected tokens taken out.
    ///
    /// # Shapes
    /// `per_token`, `selected` and the result: `[batch, response_len]`.
    pub fn take_out(per_token: Tensor<2>, selected: Tensor<2>) -> Tensor<2> {
        per_token.mask_fill(selected.greater_elem(0.0), 0.0)
    }

    fn is_candidate(&self, view: &SelectionView, index: usize, covariance: f64) -> bool {
        let log_ratio = view.log_probs[index] - view.old_log_probs[index];
        covariance > self.cov_low
            && covariance < self.cov_high
            && !self.clip().clips(log_ratio, view.advantages[index])
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the values are exact in f32")]
mod tests {
    use super::*;
    use crate::SelectionStats;

    const KEY: SelectionKey = SelectionKey {
        seed: 7,
        step: 1,
        mini_batch: 0,
    };

    /// Two rows of four; ⟨A⟩ = 0 and ⟨log π⟩ = -2 over the seven trained tokens, so that the
    /// covariances are 2, -1, 0, -1 | 1.5, -1.5, 0 and padding.
    fn view() -> SelectionView<'static> {
        SelectionView {
            log_probs: &[-1.0, -2.5, -2.0, -2.5, -1.0, -3.0, -2.0, 50.0],
            old_log_probs: &[-1.0, -2.5, -2.0, -2.5, -1.0, -3.0, -2.0, 0.0],
            advantages: &[2.0, 2.0, -4.0, 2.0, 1.5, 1.5, -5.0, 50.0],
            mask: &[1., 1., 1., 1., 1., 1., 1., 0.],
            row_keys: &[10, 20],
        }
    }

    fn selected(config: ClipCov, view: &SelectionView) -> Vec<usize> {
        let selection = config.select(view, &KEY).unwrap();
        (0..selection.mask.len())
            .filter(|&i| selection.mask[i] > 0.0)
            .collect()
    }

    #[test]
    fn the_band_is_open_and_padding_stays_out() {
        let all = ClipCov {
            fraction: 1.0,
            cov_low: 0.0,
            ..ClipCov::default()
        };
        assert_eq!(selected(all, &view()), [0, 4]);
        // The ends themselves are outside.
        assert_eq!(
            selected(
                ClipCov {
                    cov_low: 1.5,
                    ..all
                },
                &view()
            ),
            [0]
        );
        assert_eq!(
            selected(
                ClipCov {
                    cov_high: 2.0,
                    ..all
                },
                &view()
            ),
            [4]
        );
    }

    #[test]
    fn tokens_that_ppo_clips_already_are_not_eligible() {
        let old_log_probs = [-1.3, -2.5, -2.0, -2.5, -1.0, -3.0, -2.0, 0.0];
        let view = SelectionView {
            old_log_probs: &old_log_probs,
            ..view()
        };
        let config = ClipCov {
            fraction: 1.0,
            cov_low: 0.0,
            clip_high: 0.2,
            ..ClipCov::default()
        };
        assert_eq!(selected(config, &view), [4]);
    }

    #[test]
    fn one_token_at_least_and_the_statistics_say_so() {
        let config = ClipCov {
            cov_low: 0.0,
            ..ClipCov::default()
        };
        let stats = config.select(&view(), &KEY).unwrap().stats;
        assert_eq!((stats.tokens, stats.candidates, stats.count), (7, 2, 1));
        assert!(stats.from_minimum_of_one);
        assert!((stats.fraction - 1.0 / 7.0).abs() < 1e-15);

        let quota_of_one = ClipCov {
            fraction: 0.2,
            ..config
        };
        assert!(
            !quota_of_one
                .select(&view(), &KEY)
                .unwrap()
                .stats
                .from_minimum_of_one
        );
    }

    #[test]
    fn an_empty_band_or_batch_selects_nothing() {
        let config = ClipCov {
            cov_low: 50.0,
            cov_high: 60.0,
            ..ClipCov::default()
        };
        let stats = config.select(&view(), &KEY).unwrap().stats;
        assert_eq!((stats.count, stats.from_minimum_of_one), (0, false));
        assert_eq!(stats.mean_covariance, None);
        let empty = SelectionView {
            mask: &[0.0; 8],
            ..view()
        };
        assert_eq!(
            config.select(&empty, &KEY).unwrap().stats,
            SelectionStats::default()
        );
    }

    #[test]
    fn every_candidate_has_an_equal_chance() {
        let config = ClipCov {
            cov_low: 0.0,
            ..ClipCov::default()
        };
        let first = (0..2000)
            .filter(|&step| {
                let key = SelectionKey { step, ..KEY };
                config.select(&view(), &key).unwrap().mask[0] > 0.0
            })
            .count();
        // Five standard deviations of a fair coin thrown 2,000 times: 5·√500 ≈ 112.
        assert!(first.abs_diff(1000) < 112, "{first} of 2000");
    }
}
