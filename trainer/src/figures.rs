//! What `rollouts/` keeps of each token.

use serde::{Deserialize, Serialize};

use crate::experience::Experience;

/// Figures of a response's tokens, in their order, rounded to four decimals: files are read by people and pages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResponseFigures {
    /// Entropies at temperature 1 before the step's updates, in nats.
    pub entropies: Vec<f64>,
    /// Covariances over the step's kept tokens.
    pub covariances: Vec<f64>,
    /// Advantages; a single one where all tokens have the same.
    pub advantages: Vec<f64>,
    /// Places of the tokens that the entropy controller selected in any of the step's updates.
    pub selected: Vec<usize>,
}

impl ResponseFigures {
    /// Of each experience; `selected` has its tokens' marks.
    pub(crate) fn of(
        experiences: &[Experience],
        covariances: &[f64],
        selected: &[Vec<bool>],
    ) -> Vec<Self> {
        let mut rest = covariances;
        let figures = experiences.iter().enumerate().map(|(index, row)| {
            let (own, others) = rest.split_at(row.old.log_probs.len());
            rest = others;
            let marks = selected.get(index).map_or(&[][..], Vec::as_slice);
            let chosen = marks
                .iter()
                .enumerate()
                .filter(|(_, is_chosen)| **is_chosen);
            Self {
                entropies: rounded(row.old.entropies.iter().map(|&h| f64::from(h))),
                covariances: rounded(own.iter().copied()),
                advantages: shortened(rounded(row.advantages.iter().map(|&a| f64::from(a)))),
                selected: chosen.map(|(place, _)| place).collect(),
            }
        });
        figures.collect()
    }
}

fn rounded(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    figures.map(|figure| (figure * 1e4).round() / 1e4).collect()
}

/// One figure where all are the same.
fn shortened(mut figures: Vec<f64>) -> Vec<f64> {
    if figures
        .windows(2)
        .all(|pair| pair[0].to_bits() == pair[1].to_bits())
    {
        figures.truncate(1);
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_to_write() {
        assert_eq!(rounded([0.123_456, -2.0].into_iter()), [0.1235, -2.0]);
        assert_eq!(shortened(vec![0.5, 0.5, 0.5]), [0.5]);
        assert_eq!(shortened(vec![0.5, 0.25]), [0.5, 0.25]);
        assert!(shortened(Vec::new()).is_empty());
    }
}
