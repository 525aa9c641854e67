//! The 80/20 rule: only the tokens of highest entropy are trained.

use serde::{Deserialize, Serialize};

use super::selection::{Choice, Selection, SelectionScope, SelectionView, first_by};
use crate::{LossError, error::check_range};

/// A gradient only for the tokens with the highest entropies:
///
/// ```text
/// kept:   the max(⌊top_fraction·N⌋, 1) trained tokens with the largest H_t under the old policy
/// effect: the loss of every other token is 0, in value and gradient; it stays in the denominator
/// ```
///
/// Equal entropies are ordered by row key, then by token.
///
/// # References
/// arXiv 2506.01939: the top 20 %. The entropies are those that the step measured before
/// its updates, the paper's `H_t` of the sampled response.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopEntropy {
    /// ρ, the share of the trained tokens that are kept.
    pub top_fraction: f64,
    /// The tokens among which to select.
    pub selection: SelectionScope,
}

impl Default for TopEntropy {
    fn default() -> Self {
        Self {
            top_fraction: 0.2,
            selection: SelectionScope::MiniBatch,
        }
    }
}

impl TopEntropy {
    /// Checks every setting.
    ///
    /// # Errors
    /// A share outside (0, 1].
    pub fn validate(&self) -> Result<(), LossError> {
        check_range(
            "entropy.top_entropy.top_fraction",
            self.top_fraction,
            "it must lie in (0, 1]: 0.2 keeps 20 %",
            |v| v > 0.0 && v <= 1.0,
        )
    }

    /// Selects the tokens to leave out: those that are not among the kept.
    ///
    /// # Errors
    /// A trained token that is not finite.
    ///
    /// # Panics
    /// If the view's lengths differ or it has no entropies.
    pub fn leave_out(&self, view: &SelectionView) -> Result<Selection, LossError> {
        view.check()?;
        let entropies = view
            .old_entropies
            .expect("top_entropy selects by entropy: pass old_entropies");
        let tokens = view.trained().count();
        let kept = ((tokens as f64 * self.top_fraction) as usize).max(1);
        let ascending = |&i: &usize, &j: &usize| {
            entropies[i]
                .total_cmp(&entropies[j])
                .then_with(|| view.identity(j).cmp(&view.identity(i)))
        };
        let left_out = first_by(
            view.trained().collect(),
            tokens.saturating_sub(kept),
            ascending,
        );
        Ok(Selection::of(
            view,
            None,
            Choice {
                tokens,
                candidates: tokens,
                from_minimum_of_one: false,
            },
            &left_out,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_entropies_are_kept_and_ties_go_to_the_lowest_row_key() {
        let view = SelectionView {
            log_probs: &[-1.0; 8],
            old_log_probs: &[-1.0; 8],
            advantages: &[1.0; 8],
            mask: &[1., 1., 1., 1., 1., 1., 1., 0.],
            old_entropies: Some(&[0.1, 0.9, 0.5, 0.2, 0.5, 0.0, 0.3, 99.0]),
            row_keys: &[20, 10],
        };
        let kept = |top_fraction| {
            let control = TopEntropy {
                top_fraction,
                ..TopEntropy::default()
            };
            let left_out = control.leave_out(&view).unwrap().mask;
            (0..7).filter(|&i| left_out[i] < 0.5).collect::<Vec<_>>()
        };
        // Tokens 2 and 4 tie; row 1 has the lower key.
        assert_eq!(kept(0.01), [1]);
        assert_eq!(kept(0.3), [1, 4]);
        assert_eq!(kept(0.43), [1, 2, 4]);
        assert_eq!(kept(1.0), [0, 1, 2, 3, 4, 5, 6]);
    }
}
