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
/// rows nor threads nor micro-batches change it. The defaults are the paper's.
///
/// # References
/// arXiv 2505.22617, Section 4, and its published code, from which the minimum of one, the open
/// interval and the zeroed value are taken; the paper's text has ⌊fraction·N⌋ and a closed one.
/// The code selects within a micro-batch: [`SelectionScope::MicroBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipCovControl {
    /// Share of the trained tokens to select: 2e-4 is 0.02 %.
    pub fraction: f64,
    /// `ω_low`, the lower end of the covariance band.
    pub cov_low: f64,
    /// `ω_high`, its upper end.
    pub cov_high: f64,
    /// The tokens among which to select.
    pub selection: SelectionScope,
}

impl Default for ClipCovControl {
    fn default() -> Self {
        Self {
            fraction: 2e-4,
            cov_low: 1.0,
            cov_high: 5.0,
            selection: SelectionScope::MiniBatch,
        }
    }
}

impl ClipCovControl {
    /// Checks every setting; `table` is where they stand in the configuration, for the error.
    ///
    /// # Errors
    /// A setting out of its range, or an empty band.
    pub fn validate(&self, table: &str) -> Result<(), LossError> {
        let share = |v: f64| v > 0.0 && v <= 1.0;
        let requirement = "it must lie in (0, 1]: 2e-4 is 0.02 %";
        check_range(
            format!("{table}.fraction"),
            self.fraction,
            requirement,
            share,
        )?;
        if self.cov_low < self.cov_high {
            return Ok(());
        }
        Err(LossError::EmptyBand {
            table: table.to_owned(),
            low: self.cov_low,
            high: self.cov_high,
        })
    }

    /// Selects among the batch's tokens; those that the loss's own `clip` clips are no candidates.
    ///
    /// # Errors
    /// A trained token that is not finite.
    ///
    /// # Panics
    /// If the view's lengths differ.
    pub fn select(
        &self,
        view: &SelectionView,
        clip: Option<&PpoClip>,
        key: &SelectionKey,
    ) -> Result<Selection, LossError> {
        view.check()?;
        let covariances = token_covariances(view.advantages, view.log_probs, view.mask);
        let drawn: Vec<_> = view
            .trained()
            .filter(|&index| self.is_candidate(view, clip, index, covariances[index]))
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
            Some(&covariances),
            quota.choice(candidates, chosen.len()),
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

    fn is_candidate(
        &self,
        view: &SelectionView,
        clip: Option<&PpoClip>,
        index: usize,
        covariance: f64,
    ) -> bool {
        let log_ratio = view.log_probs[index] - view.old_log_probs[index];
        covariance > self.cov_low
            && covariance < self.cov_high
            && !clip.is_some_and(|clip| clip.clips(log_ratio, view.advantages[index]))
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
            old_entropies: None,
            row_keys: &[10, 20],
        }
    }

    fn selected(config: ClipCovControl, view: &SelectionView) -> Vec<usize> {
        let selection = config.select(view, None, &KEY).unwrap();
        (0..selection.mask.len())
            .filter(|&i| selection.mask[i] > 0.0)
            .collect()
    }

    #[test]
    fn the_band_is_open_and_padding_stays_out() {
        let all = ClipCovControl {
            fraction: 1.0,
            cov_low: 0.0,
            ..ClipCovControl::default()
        };
        assert_eq!(selected(all, &view()), [0, 4]);
        // The ends themselves are outside.
        assert_eq!(
            selected(
                ClipCovControl {
                    cov_low: 1.5,
                    ..all
                },
                &view()
            ),
            [0]
        );
        assert_eq!(
            selected(
                ClipCovControl {
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
        let config = ClipCovControl {
            fraction: 1.0,
            cov_low: 0.0,
            ..ClipCovControl::default()
        };
        let clip = PpoClip::default();
        let selection = config.select(&view, Some(&clip), &KEY).unwrap();
        let selected: Vec<_> = (0..8).filter(|&i| selection.mask[i] > 0.0).collect();
        assert_eq!(selected, [4]);
    }

    #[test]
    fn one_token_at_least_and_the_statistics_say_so() {
        let config = ClipCovControl {
            cov_low: 0.0,
            ..ClipCovControl::default()
        };
        let stats = config.select(&view(), None, &KEY).unwrap().stats;
        assert_eq!((stats.tokens, stats.candidates, stats.count), (7, 2, 1));
        assert_eq!(stats.from_minimum_of_one, 1);
        assert!((stats.fraction() - 1.0 / 7.0).abs() < 1e-15);

        let quota_of_one = ClipCovControl {
            fraction: 0.2,
            ..config
        };
        let stats = quota_of_one.select(&view(), None, &KEY).unwrap().stats;
        assert_eq!(stats.from_minimum_of_one, 0);
    }

    #[test]
    fn an_empty_band_or_batch_selects_nothing() {
        let config = ClipCovControl {
            cov_low: 50.0,
            cov_high: 60.0,
            ..ClipCovControl::default()
        };
        let stats = config.select(&view(), None, &KEY).unwrap().stats;
        assert_eq!((stats.count, stats.from_minimum_of_one), (0, 0));
        assert_eq!(stats.mean_covariance(), None);
        let empty = SelectionView {
            mask: &[0.0; 8],
            ..view()
        };
        assert_eq!(
            config.select(&empty, None, &KEY).unwrap().stats,
            SelectionStats::default()
        );
    }

    #[test]
    fn every_candidate_has_an_equal_chance() {
        let config = ClipCovControl {
            cov_low: 0.0,
            ..ClipCovControl::default()
        };
        let first = (0..2000)
            .filter(|&step| {
                let key = SelectionKey { step, ..KEY };
                config.select(&view(), None, &key).unwrap().mask[0] > 0.0
            })
            .count();
        // Five standard deviations of a fair coin thrown 2,000 times: 5·√500 ≈ 112.
        assert!(first.abs_diff(1000) < 112, "{first} of 2000");
    }
}
