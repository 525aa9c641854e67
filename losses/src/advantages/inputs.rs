//! What an estimator reads, and what it gives.

use crate::LossError;

/// A rollout's rewards on the host. Matrices are `[rows, response_len]`, row-major; padding (mask
/// 0) may hold anything, but see [`Gae`](super::Gae).
#[derive(Debug, Clone, Copy)]
pub struct AdvantageInputs<'a> {
    /// The reward of each token: an outcome's lies on the last one.
    pub token_rewards: &'a [f64],
    /// 1 for a response token, 0 for padding.
    pub mask: &'a [f32],
    /// Each row's group: the responses to one prompt.
    pub groups: &'a [u64],
    /// A critic's value of each token's state, before the update.
    pub values: Option<&'a [f64]>,
    /// The reward of the greedy response to each row's prompt.
    pub greedy_rewards: Option<&'a [f64]>,
}

/// Figures of each token, `[rows, response_len]`, row-major. What padding holds is not trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct Advantages {
    /// The advantage.
    pub advantages: Vec<f64>,
    /// The return: what a critic learns. Of an estimator without a critic, what its reference
    /// calls so.
    pub returns: Vec<f64>,
}

impl AdvantageInputs<'_> {
    /// Positions in a row.
    pub fn response_len(&self) -> usize {
        self.mask.len() / self.groups.len().max(1)
    }

    /// Refuses a figure that is not finite.
    ///
    /// # Panics
    /// If the lengths do not fit together.
    pub(super) fn check(&self) -> Result<(), LossError> {
        let (len, rows) = (self.mask.len(), self.groups.len());
        assert_eq!(len, rows * self.response_len(), "mask is not whole rows");
        let matrices = [
            ("the reward", Some(self.token_rewards)),
            ("the value", self.values),
        ];
        for (quantity, values) in matrices {
            let Some(values) = values else { continue };
            assert_eq!(values.len(), len, "{quantity} and mask differ in length");
            let is_wrong = |&index: &usize| self.mask[index] > 0.0 && !values[index].is_finite();
            if let Some(index) = (0..len).find(is_wrong) {
                return Err(LossError::NonFiniteReward {
                    quantity,
                    row: index / self.response_len(),
                    value: values[index],
                });
            }
        }
        let Some(greedy) = self.greedy_rewards else {
            return Ok(());
        };
        assert_eq!(greedy.len(), rows, "one greedy reward for each row");
        match greedy.iter().position(|reward| !reward.is_finite()) {
            None => Ok(()),
            Some(row) => Err(LossError::NonFiniteReward {
                quantity: "the greedy reward",
                row,
                value: greedy[row],
            }),
        }
    }

    /// Where each row's positions lie in the matrices, padding among them.
    pub fn rows(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let len = self.response_len();
        (0..self.groups.len()).map(move |row| row * len..(row + 1) * len)
    }

    /// The reward of a token, 0 at padding.
    pub fn reward(&self, index: usize) -> f64 {
        if self.mask[index] > 0.0 {
            self.token_rewards[index]
        } else {
            0.0
        }
    }

    /// Each row's reward: the sum over its tokens.
    pub fn outcomes(&self) -> Vec<f64> {
        self.rows()
            .map(|row| row.map(|index| self.reward(index)).sum())
            .collect()
    }

    /// How many tokens each row has.
    pub fn lengths(&self) -> Vec<f64> {
        let length =
            |row: std::ops::Range<usize>| self.mask[row].iter().filter(|&&m| m > 0.0).count();
        self.rows().map(|row| length(row) as f64).collect()
    }

    /// The rows of each group, in the order in which groups first appear.
    pub(super) fn by_group(&self) -> Vec<(u64, Vec<usize>)> {
        let mut places = std::collections::HashMap::new();
        let mut groups: Vec<(u64, Vec<usize>)> = Vec::new();
        for (row, &group) in self.groups.iter().enumerate() {
            let place = *places.entry(group).or_insert_with(|| {
                groups.push((group, Vec::new()));
                groups.len() - 1
            });
            groups[place].1.push(row);
        }
        groups
    }

    /// A figure for each row from its group's rewards, `f(rewards, rows) -> figures`.
    ///
    /// # Panics
    /// If `f` gives another number of figures.
    pub fn map_groups(&self, f: impl Fn(&[f64], &[usize]) -> Vec<f64>) -> Vec<f64> {
        let outcomes = self.outcomes();
        let mut figures = vec![0.0; outcomes.len()];
        for (_, rows) in self.by_group() {
            let rewards: Vec<f64> = rows.iter().map(|&row| outcomes[row]).collect();
            let found = f(&rewards, &rows);
            assert_eq!(found.len(), rows.len(), "a figure for each row of a group");
            for (&row, figure) in rows.iter().zip(found) {
                figures[row] = figure;
            }
        }
        figures
    }

    /// A figure of each row given to all its tokens, as advantages and as returns.
    ///
    /// # Panics
    /// If there is another number of rows.
    pub fn broadcast(&self, figures: &[f64]) -> Advantages {
        assert_eq!(figures.len(), self.groups.len(), "a figure for each row");
        let advantages: Vec<f64> = self
            .rows()
            .zip(figures)
            .flat_map(|(row, &figure)| {
                row.map(move |index| if self.mask[index] > 0.0 { figure } else { 0.0 })
            })
            .collect();
        Advantages {
            returns: advantages.clone(),
            advantages,
        }
    }

    /// Figures less the trained tokens' mean, over the trained tokens' unbiased deviation; 0 where
    /// there are fewer than two trained tokens, which do not differ from their mean.
    pub(super) fn whitened(&self, figures: &[f64]) -> Vec<f64> {
        let trained = || (0..figures.len()).filter(|&index| self.mask[index] > 0.0);
        let count = trained().count() as f64;
        if count < 2.0 {
            return vec![0.0; figures.len()];
        }
        let mean = trained().map(|index| figures[index]).sum::<f64>() / count;
        let squares: f64 = trained().map(|index| (figures[index] - mean).powi(2)).sum();
        let scale = (squares / (count - 1.0) + WHITENING_EPSILON).sqrt();
        figures
            .iter()
            .map(|figure| (figure - mean) / scale)
            .collect()
    }

    /// Figures with 0 at padding.
    pub(super) fn without_padding(&self, mut figures: Vec<f64>) -> Vec<f64> {
        for (figure, mask) in figures.iter_mut().zip(self.mask) {
            if *mask == 0.0 {
                *figure = 0.0;
            }
        }
        figures
    }
}

/// Added to the variance, as the reference does.
const WHITENING_EPSILON: f64 = 1e-8;
