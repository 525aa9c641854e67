//! KL-Cov: the tokens with the highest covariances get a KL penalty.

use burn::tensor::Tensor;
use entropy::token_covariances;
use serde::{Deserialize, Serialize};

use super::selection::{Quota, Selection, SelectionScope, SelectionView, first_by};
use crate::{KlEstimator, LossError, error::check_range, kl::estimate_from_log_ratio};

/// The estimator of the penalty, in `Δ = log π - log π_old`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CovPenalty {
    /// `|Δ|`, the reference's: its gradient has unit size whatever the divergence.
    #[default]
    Abs,
    /// `½Δ²`: its gradient grows with the divergence.
    K2,
    /// `e^{-Δ} + Δ - 1`.
    K3,
}

impl From<CovPenalty> for KlEstimator {
    fn from(penalty: CovPenalty) -> Self {
        match penalty {
            CovPenalty::Abs => Self::Abs,
            CovPenalty::K2 => Self::K2,
            CovPenalty::K3 => Self::K3,
        }
    }
}

/// KL-Cov.
///
/// ```text
/// selected: the max(⌊top_fraction·N⌋, 1) trained tokens with the largest Cov_t
/// effect:   l + β·k(Δ) for a selected token
/// ```
///
/// Every penalty has gradient 0 at Δ = 0, so it acts from the second update of a rollout on: see
/// [`KlCovControl::inertness`]. Equal covariances are ordered by row key, then by token.
///
/// # References
/// arXiv 2505.22617, Section 4, and its published code: top fraction 2e-3 and β = 1 for a 7B
/// model, 2e-4 for 32B. The code selects within a micro-batch: [`SelectionScope::MicroBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlCovControl {
    /// Share of the trained tokens to select: 2e-3 is 0.2 %.
    pub top_fraction: f64,
    /// β, the factor of the penalty.
    pub kl_coef: f64,
    /// The estimator of the penalty.
    pub penalty: CovPenalty,
    /// The tokens among which to select.
    pub selection: SelectionScope,
}

impl Default for KlCovControl {
    fn default() -> Self {
        Self {
            top_fraction: 2e-3,
            kl_coef: 1.0,
            penalty: CovPenalty::Abs,
            selection: SelectionScope::MiniBatch,
        }
    }
}

impl KlCovControl {
    /// Checks every setting; `table` is where they stand in the configuration, for the error.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn validate(&self, table: &str) -> Result<(), LossError> {
        let share = |v: f64| v > 0.0 && v <= 1.0;
        let requirement = "it must lie in (0, 1]: 2e-3 is 0.2 %";
        check_range(
            format!("{table}.top_fraction"),
            self.top_fraction,
            requirement,
            share,
        )?;
        let finite = |v: f64| v.is_finite() && v >= 0.0;
        check_range(
            format!("{table}.kl_coef"),
            self.kl_coef,
            "it must be finite and at least 0",
            finite,
        )
    }

    /// Why this configuration, which stands in `table`, does nothing beyond its unclipped loss, if so.
    pub fn inertness(&self, table: &str, updates_per_rollout: usize) -> Option<String> {
        if self.kl_coef == 0.0 {
            return Some(format!("{table}.kl_coef = 0 turns KL-Cov's penalty off"));
        }
        (updates_per_rollout <= 1).then(|| {
            "KL-Cov does nothing with one update per rollout: its penalty has no gradient while \
             the policy equals the one that sampled; use smaller mini-batches or more epochs"
                .to_owned()
        })
    }

    /// Selects among the batch's tokens.
    ///
    /// # Errors
    /// A trained token that is not finite.
    ///
    /// # Panics
    /// If the view's lengths differ.
    pub fn select(&self, view: &SelectionView) -> Result<Selection, LossError> {
        view.check()?;
        let covariances = token_covariances(view.advantages, view.log_probs, view.mask);
        let quota = Quota::of(view, self.top_fraction);
        let chosen = first_by(view.trained().collect(), quota.count, |&i, &j| {
            covariances[j]
                .total_cmp(&covariances[i])
                .then_with(|| view.identity(i).cmp(&view.identity(j)))
        });
        Ok(Selection::of(
            view,
            Some(&covariances),
            quota.choice(quota.tokens, chosen.len()),
            &chosen,
        ))
    }

    /// `β·k(Δ)` for the selected tokens, 0 for the others.
    ///
    /// # Shapes
    /// `log_ratio` (Δ), `selected` and the result: `[batch, response_len]`.
    pub fn penalty(&self, log_ratio: Tensor<2>, selected: Tensor<2>) -> Tensor<2> {
        // Blanked before the estimate, so that an unselected token's e^{-Δ} cannot overflow.
        let selected_only = log_ratio.mask_fill(selected.equal_elem(0.0), 0.0);
        estimate_from_log_ratio(-selected_only, self.penalty.into()) * self.kl_coef
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covariances 2, -1, 0, -1 | 2, 0, -2 and padding: ⟨A⟩ = 0 and ⟨log π⟩ = -2.
    fn view() -> SelectionView<'static> {
        SelectionView {
            log_probs: &[-1.0, -2.5, -2.0, -2.5, -1.0, -2.0, -3.0, 50.0],
            old_log_probs: &[0.0; 8],
            advantages: &[2.0, 2.0, -4.0, 2.0, 2.0, -6.0, 2.0, 50.0],
            mask: &[1., 1., 1., 1., 1., 1., 1., 0.],
            old_entropies: None,
            row_keys: &[20, 10],
        }
    }

    fn selected(top_fraction: f64, view: &SelectionView) -> Vec<usize> {
        let selection = KlCovControl {
            top_fraction,
            ..KlCovControl::default()
        }
        .select(view)
        .unwrap();
        (0..selection.mask.len())
            .filter(|&i| selection.mask[i] > 0.0)
            .collect()
    }

    #[test]
    fn the_top_covariances_are_selected_and_ties_go_to_the_lowest_row_key() {
        // Tokens 0 and 4 tie at covariance 2; row 1 has the lower key.
        assert_eq!(selected(1e-3, &view()), [4]);
        assert_eq!(selected(2.0 / 7.0 + 1e-9, &view()), [0, 4]);
        assert_eq!(selected(1.0, &view()), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn statistics_describe_the_choice() {
        let config = KlCovControl {
            top_fraction: 0.43,
            ..KlCovControl::default()
        };
        let stats = config.select(&view()).unwrap().stats;
        assert_eq!((stats.tokens, stats.candidates, stats.count), (7, 7, 3));
        // Covariances 2, 2 and 0.
        assert!((stats.mean_covariance().unwrap() - 4.0 / 3.0).abs() < 1e-6);
        assert_eq!(stats.from_minimum_of_one, 0);
        let stats = KlCovControl::default().select(&view()).unwrap().stats;
        assert_eq!(stats.from_minimum_of_one, 1);
    }

    #[test]
    fn a_batch_without_a_trained_token_selects_nothing() {
        let empty = SelectionView {
            mask: &[0.0; 8],
            ..view()
        };
        assert_eq!(
            KlCovControl::default().select(&empty).unwrap().stats.count,
            0
        );
    }

    #[test]
    fn one_update_per_rollout_is_reported_as_inert() {
        let config = KlCovControl::default();
        assert!(
            config
                .inertness("loss", 1)
                .unwrap()
                .contains("one update per rollout")
        );
        assert_eq!(config.inertness("loss", 2), None);
        let off = KlCovControl {
            kl_coef: 0.0,
            ..config
        };
        assert!(off.inertness("loss", 8).unwrap().contains("kl_coef = 0"));
    }
}
