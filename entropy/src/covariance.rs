//! The covariance between a token's log-probability and its advantage, which drives entropy.

use serde::{Deserialize, Serialize};

/// The ranks of the paper's Table 1, as fractions of all tokens: top 0.02 %, 0.2 %, 2 %, 20 %,
/// 50 % and all.
pub const RANK_FRACTIONS: [f64; 6] = [2e-4, 2e-3, 2e-2, 0.2, 0.5, 1.0];

/// Mean covariance over the tokens with the largest ones, by rank.
///
/// The top fraction x of N tokens is the ⌊x·N⌋ largest, and one at least, so that short batches
/// fill every row of the table.
///
/// # References
/// arXiv 2505.22617, Table 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RankMeans {
    /// Mean over the top 0.02 %.
    pub top_0_02_percent: f64,
    /// Mean over the top 0.2 %.
    pub top_0_2_percent: f64,
    /// Mean over the top 2 %.
    pub top_2_percent: f64,
    /// Mean over the top 20 %.
    pub top_20_percent: f64,
    /// Mean over the top 50 %.
    pub top_50_percent: f64,
    /// Mean over all tokens.
    pub all: f64,
}

/// What a batch's covariances look like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CovarianceSummary {
    /// Trained tokens.
    pub tokens: usize,
    /// Mean over all trained tokens.
    pub mean: f64,
    /// Mean over the top ranks.
    pub ranks: RankMeans,
}

/// `Cov_t = (A_t - ⟨A⟩)·(log π_t - ⟨log π⟩)`, with ⟨·⟩ the mean over the trained tokens.
///
/// Its mean over tokens is the covariance of advantage and log-probability, to which the natural
/// policy gradient's entropy change is proportional. Sums are accumulated in f64. Padding (mask 0)
/// yields 0, whatever it holds.
///
/// # Shapes
/// All slices have one length and one order; the result has it too.
///
/// # Panics
/// If the lengths differ.
///
/// # References
/// arXiv 2505.22617, Section 4, the token-wise covariance. The reference implementation takes the current log-probability and
/// the advantage that the loss uses.
pub fn token_covariances(advantages: &[f32], log_probs: &[f32], mask: &[f32]) -> Vec<f64> {
    assert_eq!(
        advantages.len(),
        mask.len(),
        "advantages and mask differ in length"
    );
    assert_eq!(
        log_probs.len(),
        mask.len(),
        "log_probs and mask differ in length"
    );
    let advantage_mean = trained_mean(advantages, mask);
    let log_prob_mean = trained_mean(log_probs, mask);
    (0..mask.len())
        .map(|i| {
            if mask[i] > 0.0 {
                (f64::from(advantages[i]) - advantage_mean)
                    * (f64::from(log_probs[i]) - log_prob_mean)
            } else {
                0.0
            }
        })
        .collect()
}

/// Summarises covariances over the trained tokens; `None` where there is none.
///
/// # Panics
/// If the lengths differ.
pub fn summarize_covariances(covariances: &[f64], mask: &[f32]) -> Option<CovarianceSummary> {
    assert_eq!(
        covariances.len(),
        mask.len(),
        "covariances and mask differ in length"
    );
    let mut trained: Vec<f64> = covariances
        .iter()
        .zip(mask)
        .filter(|&(_, &m)| m > 0.0)
        .map(|(&c, _)| c)
        .collect();
    if trained.is_empty() {
        return None;
    }
    trained.sort_unstable_by(|a, b| b.total_cmp(a));
    let [
        top_0_02_percent,
        top_0_2_percent,
        top_2_percent,
        top_20_percent,
        top_50_percent,
        all,
    ] = RANK_FRACTIONS.map(|fraction| top_mean(&trained, fraction));
    Some(CovarianceSummary {
        tokens: trained.len(),
        mean: all,
        ranks: RankMeans {
            top_0_02_percent,
            top_0_2_percent,
            top_2_percent,
            top_20_percent,
            top_50_percent,
            all,
        },
    })
}

fn top_mean(descending: &[f64], fraction: f64) -> f64 {
    let count = ((descending.len() as f64 * fraction) as usize).max(1);
    descending[..count].iter().sum::<f64>() / count as f64
}

fn trained_mean(values: &[f32], mask: &[f32]) -> f64 {
    let (sum, count) = values
        .iter()
        .zip(mask)
        .filter(|&(_, &m)| m > 0.0)
        .fold((0.0, 0_usize), |(sum, count), (&value, _)| {
            (sum + f64::from(value), count + 1)
        });
    sum / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of a few doubles: a handful of roundings.
    const EXACT: f64 = 1e-12;

    #[test]
    fn covariances_worked_by_hand() {
        // ⟨A⟩ = 1, ⟨log π⟩ = -2 over the three trained tokens; the last one is padding.
        let covariances = token_covariances(
            &[2.0, 1.0, 0.0, 9.0],
            &[-1.0, -2.0, -3.0, 7.0],
            &[1., 1., 1., 0.],
        );
        assert_eq!(covariances, [1.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn padding_may_hold_anything() {
        let clean = token_covariances(&[1.0, -1.0, 0.0], &[-0.5, -1.5, 0.0], &[1., 1., 0.]);
        let dirty = token_covariances(
            &[1.0, -1.0, f32::NAN],
            &[-0.5, -1.5, f32::NEG_INFINITY],
            &[1., 1., 0.],
        );
        assert_eq!(clean, dirty);
    }

    #[test]
    fn summary_averages_the_top_ranks() {
        let covariances: Vec<f64> = (1..=10).map(f64::from).collect();
        let mask = [1.0_f32; 10];
        let summary = summarize_covariances(&covariances, &mask).unwrap();
        assert_eq!(summary.tokens, 10);
        assert!((summary.mean - 5.5).abs() < EXACT);
        // 0.02 % of ten tokens is none, so the largest one stands for it.
        assert!((summary.ranks.top_0_02_percent - 10.0).abs() < EXACT);
        assert!((summary.ranks.top_20_percent - 9.5).abs() < EXACT);
        assert!((summary.ranks.top_50_percent - 8.0).abs() < EXACT);
    }

    #[test]
    fn summary_ignores_padding_and_needs_a_token() {
        let summary = summarize_covariances(&[1.0, 99.0], &[1.0, 0.0]).unwrap();
        assert!((summary.ranks.top_0_02_percent - 1.0).abs() < EXACT);
        assert_eq!(summarize_covariances(&[1.0], &[0.0]), None);
    }

    #[test]
    fn the_mean_does_not_depend_on_f32_accumulation() {
        // 2^24 + 1 is not an f32: an f32 running sum would stop growing.
        let n = 3_000_000;
        let log_probs: Vec<f32> = (0..n)
            .map(|i| if i % 2 == 0 { -9.0 } else { -7.0 })
            .collect();
        let mask = vec![1.0; n];
        assert!((trained_mean(&log_probs, &mask) + 8.0).abs() < EXACT);
    }
}
