//! One number for a batch's entropy, in the conventions that are in use.

/// Sums from which the means of per-token entropies follow.
///
/// Chunks of a batch may be added in any split: a chunk holds whole responses. The token mean
/// weighs every token alike (TRL, `OpenRLHF`); the response mean weighs every response alike (the
/// paper and its code).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EntropyTally {
    token_sum_nats: f64,
    tokens: usize,
    response_sum_nats: f64,
    responses: usize,
}

impl EntropyTally {
    /// Adds whole responses, `response_len` entropies each; those without a trained token do not
    /// count.
    ///
    /// # Shapes
    /// `entropies_nats` and `mask`: `[responses, response_len]`, row-major.
    ///
    /// # Panics
    /// If the lengths differ or are no multiple of `response_len`.
    pub fn add(&mut self, entropies_nats: &[f32], mask: &[f32], response_len: usize) {
        assert_eq!(
            entropies_nats.len(),
            mask.len(),
            "entropies and mask differ in length"
        );
        assert!(
            response_len > 0 && mask.len().is_multiple_of(response_len),
            "{} values are not rows of {response_len}",
            mask.len()
        );
        let rows = entropies_nats
            .chunks(response_len)
            .zip(mask.chunks(response_len));
        for (row, row_mask) in rows {
            let (sum, tokens) = trained_sum(row, row_mask);
            if tokens > 0 {
                self.token_sum_nats += sum;
                self.tokens += tokens;
                self.response_sum_nats += sum / tokens as f64;
                self.responses += 1;
            }
        }
    }

    /// `Σ_t H_t·m_t / Σ_t m_t`, in nats; `None` before the first trained token.
    pub fn token_mean_nats(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.token_sum_nats / self.tokens as f64)
    }

    /// The mean over responses of the mean over their tokens, in nats; `None` before the first
    /// trained token.
    pub fn response_mean_nats(&self) -> Option<f64> {
        (self.responses > 0).then(|| self.response_sum_nats / self.responses as f64)
    }

    /// Trained tokens added so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Responses with a trained token added so far.
    pub fn responses(&self) -> usize {
        self.responses
    }
}

impl std::ops::AddAssign for EntropyTally {
    fn add_assign(&mut self, other: Self) {
        self.token_sum_nats += other.token_sum_nats;
        self.tokens += other.tokens;
        self.response_sum_nats += other.response_sum_nats;
        self.responses += other.responses;
    }
}

/// `-⟨log π⟩` over the trained tokens, in nats: the one-sample estimate of the entropy of the
/// distribution that the tokens were drawn from; `None` where no token is trained.
///
/// # Panics
/// If the lengths differ.
pub fn sampled_entropy(log_probs: &[f32], mask: &[f32]) -> Option<f64> {
    assert_eq!(
        log_probs.len(),
        mask.len(),
        "log_probs and mask differ in length"
    );
    let (sum, tokens) = trained_sum(log_probs, mask);
    (tokens > 0).then(|| -sum / tokens as f64)
}

fn trained_sum(values: &[f32], mask: &[f32]) -> (f64, usize) {
    values
        .iter()
        .zip(mask)
        .filter(|&(_, &m)| m > 0.0)
        .fold((0.0, 0), |(sum, tokens), (&value, _)| {
            (sum + f64::from(value), tokens + 1)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_and_response_means_worked_by_hand() {
        let mut tally = EntropyTally::default();
        // Rows 1, 2, 3 and 5: token mean 11/4, response mean (2 + 5)/2.
        tally.add(
            &[1.0, 2.0, 3.0, 5.0, f32::NAN, 8.0],
            &[1., 1., 1., 1., 0., 0.],
            3,
        );
        assert_eq!(tally.token_mean_nats(), Some(2.75));
        assert_eq!(tally.response_mean_nats(), Some(3.5));
    }

    #[test]
    fn chunks_add_up_to_the_batch() {
        let (values, mask) = ([0.5, 1.5, 2.5, 4.5], [1., 1., 1., 0.]);
        let (mut whole, mut parts) = (EntropyTally::default(), EntropyTally::default());
        whole.add(&values, &mask, 2);
        parts.add(&values[..2], &mask[..2], 2);
        parts.add(&values[2..], &mask[2..], 2);
        assert_eq!(whole, parts);
    }

    #[test]
    fn an_empty_response_does_not_count() {
        let mut tally = EntropyTally::default();
        tally.add(&[1.0, 1.0, 7.0, 7.0], &[1., 1., 0., 0.], 2);
        assert_eq!((tally.responses(), tally.tokens()), (1, 2));
        assert_eq!(tally.response_mean_nats(), Some(1.0));
        assert_eq!(EntropyTally::default().token_mean_nats(), None);
    }

    #[test]
    fn sampled_entropy_is_minus_the_mean_log_prob() {
        assert_eq!(
            sampled_entropy(&[-1.0, -3.0, 5.0], &[1., 1., 0.]),
            Some(2.0)
        );
        assert_eq!(sampled_entropy(&[-1.0], &[0.0]), None);
    }
}
