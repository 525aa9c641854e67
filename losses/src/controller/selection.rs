//! What a selection of tokens is made from, and what it says.

use std::{cmp::Ordering, ops::Range};

use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use serde::{Deserialize, Serialize};

use crate::LossError;

/// Keeps these draws apart from any other use of the same seeds: "select" in ASCII.
const SELECTION_STREAM: u64 = 0x7365_6c65_6374;
/// Words of the keystream in one u64 draw.
const WORDS_PER_DRAW: u128 = 2;

/// The tokens among which a controller selects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectionScope {
    /// The whole mini-batch: the result does not depend on how it is cut into micro-batches.
    #[default]
    MiniBatch,
    /// Each micro-batch by itself, as the reference implementations do.
    MicroBatch,
}

/// A batch on the host. All slices are `[rows, response_len]`, row-major; the trained tokens must
/// be finite, padding (mask 0) may hold anything.
#[derive(Debug, Clone, Copy)]
pub struct SelectionView<'a> {
    /// `log π` of each token under the current policy.
    pub log_probs: &'a [f32],
    /// `log π_old`.
    pub old_log_probs: &'a [f32],
    /// The advantage of each token.
    pub advantages: &'a [f32],
    /// 1 for a trained token, 0 for padding.
    pub mask: &'a [f32],
    /// Entropies under the old policy, in nats, where a controller selects by them or a report
    /// shall name those of the selected tokens.
    pub old_entropies: Option<&'a [f32]>,
    /// One key for each row, unique in the mini-batch and the same however its rows are ordered
    /// or cut.
    pub row_keys: &'a [u64],
}

impl<'a> SelectionView<'a> {
    /// The view of some of the rows.
    ///
    /// # Panics
    /// If there are fewer rows.
    #[must_use]
    pub fn rows(&self, rows: &Range<usize>) -> SelectionView<'a> {
        let cells = rows.start * self.response_len()..rows.end * self.response_len();
        SelectionView {
            log_probs: &self.log_probs[cells.clone()],
            old_log_probs: &self.old_log_probs[cells.clone()],
            advantages: &self.advantages[cells.clone()],
            mask: &self.mask[cells.clone()],
            old_entropies: self.old_entropies.map(|values| &values[cells]),
            row_keys: &self.row_keys[rows.clone()],
        }
    }

    /// Positions in a row.
    pub(super) fn response_len(&self) -> usize {
        self.mask.len() / self.row_keys.len().max(1)
    }

    /// Indices of the trained tokens, ascending.
    pub(super) fn trained(&self) -> impl Iterator<Item = usize> {
        self.mask
            .iter()
            .enumerate()
            .filter(|&(_, &m)| m > 0.0)
            .map(|(index, _)| index)
    }

    /// `(row key, token)`: what a token is, wherever its row stands.
    pub(super) fn identity(&self, index: usize) -> (u64, usize) {
        let response_len = self.response_len();
        (self.row_keys[index / response_len], index % response_len)
    }

    /// Refuses a trained token that is not finite.
    ///
    /// # Errors
    /// The first one, with its row and place.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn check(&self) -> Result<(), LossError> {
        let len = self.mask.len();
        assert_eq!(
            len,
            self.row_keys.len() * self.response_len(),
            "mask is not whole rows"
        );
        let quantities = [
            ("the log-probability", Some(self.log_probs)),
            ("the old log-probability", Some(self.old_log_probs)),
            ("the advantage", Some(self.advantages)),
            ("the entropy", self.old_entropies),
        ];
        let given = quantities
            .into_iter()
            .filter_map(|(quantity, values)| Some((quantity, values?)));
        for (quantity, values) in given {
            assert_eq!(values.len(), len, "{quantity} and mask differ in length");
            if let Some(index) = self.trained().find(|&index| !values[index].is_finite()) {
                let (row, token) = (index / self.response_len(), index % self.response_len());
                return Err(LossError::NonFiniteToken {
                    quantity,
                    row,
                    token,
                    value: values[index],
                });
            }
        }
        Ok(())
    }
}

/// What random choices in a mini-batch are keyed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectionKey {
    /// The run's seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// The mini-batch of the step.
    pub mini_batch: u64,
}

impl SelectionKey {
    /// A draw that depends on the key and the token's identity alone: position `token` of the
    /// `ChaCha8` keystream under `(seed, step, mini_batch, row_key)`.
    pub(super) fn draw(&self, row_key: u64, token: usize) -> u64 {
        let mut seed = [0; 32];
        let words = [self.seed, self.step, self.mini_batch, row_key];
        for (bytes, word) in seed.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut rng = ChaCha8Rng::from_seed(seed);
        rng.set_stream(SELECTION_STREAM);
        rng.set_word_pos(token as u128 * WORDS_PER_DRAW);
        rng.next_u64()
    }
}

/// The selected tokens of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// 1 for a selected token, else 0; `[rows, response_len]`, row-major.
    pub mask: Vec<f32>,
    /// What was selected.
    pub stats: SelectionStats,
}

/// What a selection chose from, and how much. The stats of parts add up to those of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct SelectionStats {
    /// Trained tokens, N.
    pub tokens: usize,
    /// Tokens that could have been selected: the occupancy of Clip-Cov's band, all for the others.
    pub candidates: usize,
    /// Tokens selected.
    pub count: usize,
    /// Of these, how many are there by the minimum of one alone, because ⌊fraction·N⌋ was 0.
    pub from_minimum_of_one: usize,
    /// Sum of the selected tokens' covariances.
    pub covariance_sum: f64,
    /// Sum of the selected tokens' probabilities under the current policy.
    pub probability_sum: f64,
    /// Sum of the selected tokens' entropies under the old policy, in nats; 0 where they are not
    /// known.
    pub entropy_sum: f64,
}

impl SelectionStats {
    /// `count / tokens`; 0 without tokens.
    pub fn fraction(&self) -> f64 {
        self.count as f64 / self.tokens.max(1) as f64
    }

    /// `candidates / tokens`; 0 without tokens.
    pub fn occupancy(&self) -> f64 {
        self.candidates as f64 / self.tokens.max(1) as f64
    }

    /// Mean covariance of the selected tokens; `None` where there are none.
    pub fn mean_covariance(&self) -> Option<f64> {
        self.mean(self.covariance_sum)
    }

    /// Mean probability of the selected tokens; `None` where there are none.
    pub fn mean_probability(&self) -> Option<f64> {
        self.mean(self.probability_sum)
    }

    /// Mean entropy of the selected tokens, in nats; `None` where there are none.
    pub fn mean_entropy_nats(&self) -> Option<f64> {
        self.mean(self.entropy_sum)
    }

    fn mean(&self, sum: f64) -> Option<f64> {
        (self.count > 0).then(|| sum / self.count as f64)
    }
}

impl std::ops::AddAssign for SelectionStats {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.candidates += other.candidates;
        self.count += other.count;
        self.from_minimum_of_one += other.from_minimum_of_one;
        self.covariance_sum += other.covariance_sum;
        self.probability_sum += other.probability_sum;
        self.entropy_sum += other.entropy_sum;
    }
}

impl Selection {
    /// Some of the rows of the mask, on a device.
    ///
    /// # Shapes
    /// The mask is rows of `response_len`; the result: `[rows.len(), response_len]`.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub fn to_tensor(
        &self,
        rows: &Range<usize>,
        response_len: usize,
        device: &Device,
    ) -> Tensor<2> {
        let cells = rows.start * response_len..rows.end * response_len;
        let values = self.mask[cells].to_vec();
        Tensor::from_data(TensorData::new(values, [rows.len(), response_len]), device)
    }

    pub(super) fn of(
        view: &SelectionView,
        covariances: Option<&[f64]>,
        choice: Choice,
        chosen: &[usize],
    ) -> Self {
        let mut mask = vec![0.0; view.mask.len()];
        let mut stats = SelectionStats {
            tokens: choice.tokens,
            candidates: choice.candidates,
            count: chosen.len(),
            from_minimum_of_one: usize::from(choice.from_minimum_of_one),
            ..SelectionStats::default()
        };
        // In index order, so that the sums do not depend on how the choice was made.
        for &index in chosen {
            mask[index] = 1.0;
        }
        for index in (0..mask.len()).filter(|&index| mask[index] > 0.0) {
            stats.covariance_sum += covariances.map_or(0.0, |values| values[index]);
            stats.probability_sum += f64::from(view.log_probs[index]).exp();
            stats.entropy_sum += view.old_entropies.map_or(0.0, |v| f64::from(v[index]));
        }
        Self { mask, stats }
    }
}

/// Selects by the scope: once over all rows, or once over each micro-batch's.
pub(crate) fn whole_batch(
    view: &SelectionView,
    scope: SelectionScope,
    micro_batches: &[Range<usize>],
    select: impl Fn(&SelectionView) -> Result<Selection, LossError>,
) -> Result<Selection, LossError> {
    if scope == SelectionScope::MiniBatch {
        return select(view);
    }
    let mut next = 0;
    for rows in micro_batches {
        assert_eq!(rows.start, next, "micro-batches follow each other");
        next = rows.end;
    }
    assert_eq!(
        next,
        view.row_keys.len(),
        "micro-batches are all of the rows"
    );
    let mut whole = Selection {
        mask: Vec::with_capacity(view.mask.len()),
        stats: SelectionStats::default(),
    };
    for rows in micro_batches {
        let part = select(&view.rows(rows))?;
        whole.mask.extend(part.mask);
        whole.stats += part.stats;
    }
    Ok(whole)
}

/// What a choice was made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub(super) tokens: usize,
    pub(super) candidates: usize,
    pub(super) from_minimum_of_one: bool,
}

/// How many tokens to select: `max(⌊fraction·N⌋, 1)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quota {
    pub(super) tokens: usize,
    pub(super) count: usize,
    pub(super) is_minimum: bool,
}

impl Quota {
    pub(super) fn of(view: &SelectionView, fraction: f64) -> Self {
        let tokens = view.trained().count();
        let share = (tokens as f64 * fraction) as usize;
        Self {
            tokens,
            count: share.max(1),
            is_minimum: share == 0,
        }
    }

    /// The choice of `chosen` of these candidates.
    pub(super) fn choice(&self, candidates: usize, chosen: usize) -> Choice {
        Choice {
            tokens: self.tokens,
            candidates,
            from_minimum_of_one: self.is_minimum && chosen == 1,
        }
    }
}

/// The first `count` candidates by an order, in no particular order among themselves.
pub(super) fn first_by<T>(
    mut candidates: Vec<T>,
    count: usize,
    order: impl FnMut(&T, &T) -> Ordering,
) -> Vec<T> {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, order);
        candidates.truncate(count);
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SelectionKey = SelectionKey {
        seed: 1,
        step: 2,
        mini_batch: 3,
    };

    #[test]
    fn draws_depend_on_every_part_of_the_key() {
        let draw = KEY.draw(4, 5);
        assert_eq!(draw, KEY.draw(4, 5));
        let others = [
            SelectionKey { seed: 9, ..KEY }.draw(4, 5),
            SelectionKey { step: 9, ..KEY }.draw(4, 5),
            SelectionKey {
                mini_batch: 9,
                ..KEY
            }
            .draw(4, 5),
            KEY.draw(9, 5),
            KEY.draw(4, 9),
        ];
        assert!(others.iter().all(|&other| other != draw), "{others:?}");
    }

    #[test]
    fn draws_are_the_words_of_one_keystream() {
        let mut seed = [0; 32];
        for (index, value) in [1_u8, 2, 3, 4].into_iter().enumerate() {
            seed[index * 8] = value;
        }
        let mut rng = ChaCha8Rng::from_seed(seed);
        rng.set_stream(SELECTION_STREAM);
        let stream: Vec<u64> = (0..100).map(|_| rng.next_u64()).collect();
        let draws: Vec<u64> = (0..100).map(|token| KEY.draw(4, token)).collect();
        assert_eq!(draws, stream);
    }

    #[test]
    fn a_token_that_is_not_finite_is_named() {
        let view = SelectionView {
            log_probs: &[-1.0, -1.0, -1.0, f32::NAN],
            old_log_probs: &[-1.0, f32::NAN, -1.0, -1.0],
            advantages: &[1.0; 4],
            mask: &[1., 0., 1., 1.],
            old_entropies: None,
            row_keys: &[0, 1],
        };
        let error = view.check().unwrap_err();
        let LossError::NonFiniteToken {
            quantity,
            row,
            token,
            ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!((quantity, row, token), ("the log-probability", 1, 1));
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn slices_of_different_lengths_are_refused() {
        let view = SelectionView {
            log_probs: &[-1.0],
            old_log_probs: &[-1.0; 2],
            advantages: &[1.0; 2],
            mask: &[1.0; 2],
            old_entropies: None,
            row_keys: &[0],
        };
        let _ = view.check();
    }
}
