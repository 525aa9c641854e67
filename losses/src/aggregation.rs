//! From per-token losses to one number.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// How per-token losses become a scalar. N is the number of trained tokens and S that of sequences
/// with a trained token, both of the whole mini-batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// `Σ l·m / N`: every token weighs the same (DAPO, arXiv 2503.14476).
    #[default]
    TokenMean,
    /// `Σ_s Σ_t l·m / S`: long sequences weigh more.
    SeqMeanTokenSum,
    /// `Σ_s (Σ_t l·m / Σ_t m) / S`: every sequence weighs the same (GRPO, arXiv 2402.03300).
    SeqMeanTokenMean,
    /// `Σ_s Σ_t l·m / L` with a constant length L (Dr. GRPO, arXiv 2503.20783), as verl has it: the
    /// number of sequences does not divide. For the paper's mean over sequences, set L to S·L.
    SeqMeanTokenSumNorm,
}

/// What the WHOLE mini-batch divides by.
///
/// Each micro-batch is divided by the mini-batch's counts, not by its own, so that the losses and
/// gradients of micro-batches add up to those of the batch, however it is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Denominator {
    /// Trained tokens, N.
    pub tokens: f64,
    /// Sequences with at least one trained token, S.
    pub sequences: f64,
    /// The length L that [`Aggregation::SeqMeanTokenSumNorm`] divides by.
    pub constant_length_tokens: f64,
}

impl Denominator {
    /// Counts a mini-batch's mask; L is `response_len`.
    ///
    /// A sequence without a trained token does not count. It adds nothing to any sum, so counting
    /// it would only shrink the loss; verl leaves such sequences out too.
    ///
    /// # Shapes
    /// `mask`: `[rows, response_len]`, row-major.
    ///
    /// # Panics
    /// If the mask is no multiple of `response_len`.
    pub fn from_mask(mask: &[f32], response_len: usize) -> Self {
        assert!(
            response_len > 0 && mask.len().is_multiple_of(response_len),
            "a mask of {} values is not rows of {response_len}",
            mask.len()
        );
        let trained = |values: &[f32]| values.iter().filter(|&&m| m > 0.0).count();
        let sequences = mask
            .chunks(response_len)
            .filter(|row| trained(row) > 0)
            .count();
        Self {
            tokens: trained(mask) as f64,
            sequences: sequences as f64,
            constant_length_tokens: response_len as f64,
        }
    }

    /// The same counts, with L replaced.
    #[must_use]
    pub fn with_constant_length(self, constant_length_tokens: f64) -> Self {
        Self {
            constant_length_tokens,
            ..self
        }
    }
}

/// Reduces per-token losses to a scalar, 0 for a batch without a trained token.
///
/// # Shapes
/// `per_token` and `mask`: `[batch, response_len]`; the result: `[1]`.
///
/// # Panics
/// If the shapes differ.
pub fn aggregate(
    per_token: Tensor<2>,
    mask: Tensor<2>,
    mode: Aggregation,
    denominator: &Denominator,
) -> Tensor<1> {
    assert_eq!(
        per_token.dims(),
        mask.dims(),
        "per_token and mask differ in shape"
    );
    let masked = per_token * mask.clone();
    let sum = match mode {
        Aggregation::SeqMeanTokenMean => {
            let lengths = mask.sum_dim(1).clamp_min(1.0);
            (masked.sum_dim(1) / lengths).sum()
        }
        _ => masked.sum(),
    };
    sum / divisor(mode, denominator)
}

fn divisor(mode: Aggregation, denominator: &Denominator) -> f64 {
    let (tokens, sequences) = (denominator.tokens.max(1.0), denominator.sequences.max(1.0));
    match mode {
        Aggregation::TokenMean => tokens,
        Aggregation::SeqMeanTokenSum | Aggregation::SeqMeanTokenMean => sequences,
        Aggregation::SeqMeanTokenSumNorm => denominator.constant_length_tokens,
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the values are exact in f32")]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn reduce(mode: Aggregation) -> f32 {
        let device = Device::flex();
        let losses =
            Tensor::<2>::from_data([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0], [9.0, 9.0, 9.0]], &device);
        let mask = [1., 1., 0., 1., 0., 0., 0., 0., 0.];
        let denominator = Denominator::from_mask(&mask, 3).with_constant_length(4.0);
        let mask = Tensor::<1>::from_data(mask, &device).reshape([3, 3]);
        aggregate(losses, mask, mode, &denominator).into_scalar()
    }

    #[test]
    fn modes_worked_by_hand() {
        // Sequence sums 3 and 6, lengths 2 and 1; the third sequence is empty and does not count.
        assert_eq!(reduce(Aggregation::TokenMean), 3.0);
        assert_eq!(reduce(Aggregation::SeqMeanTokenSum), 4.5);
        assert_eq!(reduce(Aggregation::SeqMeanTokenMean), 3.75);
        assert_eq!(reduce(Aggregation::SeqMeanTokenSumNorm), 2.25);
    }

    #[test]
    fn counts_leave_padding_and_empty_sequences_out() {
        let denominator = Denominator::from_mask(&[1., 1., 0., 0., 0., 0.], 2);
        let counts = (denominator.tokens, denominator.sequences);
        assert_eq!(counts, (2.0, 1.0));
        assert_eq!(denominator.constant_length_tokens, 2.0);
    }

    #[test]
    fn a_batch_without_a_trained_token_has_loss_zero() {
        let device = Device::flex();
        let denominator = Denominator::from_mask(&[0.0, 0.0], 2);
        for mode in [Aggregation::TokenMean, Aggregation::SeqMeanTokenMean] {
            let ones = Tensor::<2>::ones([1, 2], &device);
            let loss = aggregate(ones.clone(), ones.zeros_like(), mode, &denominator);
            assert_eq!(loss.into_scalar::<f32>(), 0.0);
        }
    }
}
