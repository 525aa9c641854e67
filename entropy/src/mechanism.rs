//! How far entropy should move in an update, and how far it did.
//!
//! All logarithms are natural, all entropies in nats, and all log-probabilities and entropies those of the policy that
//! sampled, at the temperature that it sampled at.

use serde::{Deserialize, Serialize};

/// `E_s Cov_{a~π(·|s)}(log π(a|s), f(s, a))` from one sampled action a state.
///
/// With the exact entropy H of each state, `log π + H` has mean 0 under π, so its mean product with f estimates the
/// covariance without bias and without a second sample of the state.
///
/// # Panics
/// If the lengths differ.
pub fn within_state_covariance(log_probs: &[f32], entropies: &[f32], f: &[f64]) -> Option<f64> {
    assert_eq!(
        log_probs.len(),
        entropies.len(),
        "entropies differ in length"
    );
    assert_eq!(log_probs.len(), f.len(), "f differs in length");
    let terms = log_probs.iter().zip(entropies).zip(f);
    let sum: f64 = terms
        .map(|((&log_prob, &entropy), f)| (f64::from(log_prob) + f64::from(entropy)) * f)
        .sum();
    (!f.is_empty()).then(|| sum / f.len() as f64)
}

/// The change of entropy that theory expects of a policy-gradient step in logit space with rate η.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TheoremTerms {
    /// `Cov(log π, π·A)`: times -η, what Theorem 1 expects of the vanilla policy gradient.
    pub policy_gradient: f64,
    /// `Cov(log π, A)`: times -η, what Theorem 2 expects of the natural policy gradient.
    pub natural_gradient: f64,
}

impl TheoremTerms {
    /// Both covariances over sampled tokens; `None` without any.
    ///
    /// The theorems are of a policy with a free logit for each state and action. A network shares its weights between
    /// states and its optimizer scales gradients, so of a network's run their sign and course can be compared, and
    /// their size only up to a factor.
    ///
    /// # Panics
    /// If the lengths differ.
    ///
    /// # References
    /// arXiv 2505.22617, Section 3: Theorems 1 and 2.
    pub fn of(log_probs: &[f32], entropies: &[f32], advantages: &[f32]) -> Option<Self> {
        assert_eq!(
            log_probs.len(),
            advantages.len(),
            "advantages differ in length"
        );
        let advantages = advantages.iter().map(|&a| f64::from(a));
        let natural: Vec<f64> = advantages.collect();
        let probabilities = log_probs.iter().map(|&l| f64::from(l).exp());
        let vanilla: Vec<f64> = probabilities.zip(&natural).map(|(p, a)| p * a).collect();
        Some(Self {
            policy_gradient: within_state_covariance(log_probs, entropies, &vanilla)?,
            natural_gradient: within_state_covariance(log_probs, entropies, &natural)?,
        })
    }
}

/// One token before a step, and some of the step's updates later.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenChange {
    /// log π of the token when it was sampled.
    pub log_prob_before: f32,
    /// The entropy of its distribution then.
    pub entropy_before: f32,
    /// log π of the token now.
    pub log_prob_after: f32,
    /// The entropy of its distribution now.
    pub entropy_after: f32,
}

/// Measures how entropy moves within a step, on the passes that the updates make anyway.
///
/// The pass of a step's i-th mini-batch sees its tokens i updates after they were sampled. If entropy moves evenly, by
/// d an update, then a token's moves by i·d, and least squares through the origin gives
///
/// ```text
/// d = Σ i·(H' - H) / Σ i²      over tokens, i the updates made before the token's pass
/// ```
///
/// Each token is compared with itself, so that other problems in the next rollout do not pass for a change.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EntropyChange {
    measured: f64,
    expected: f64,
    weight: f64,
}

impl EntropyChange {
    /// Adds tokens whose pass came after `updates` updates of the step.
    pub fn add(&mut self, tokens: impl IntoIterator<Item = TokenChange>, updates: u64) {
        let updates = updates as f64;
        for token in tokens {
            let before = f64::from(token.entropy_before);
            let log_prob = f64::from(token.log_prob_before);
            self.measured += updates * (f64::from(token.entropy_after) - before);
            let moved = f64::from(token.log_prob_after) - log_prob;
            self.expected -= updates * (log_prob + before) * moved;
            self.weight += updates * updates;
        }
    }

    /// The measured change of the mean token entropy over so many updates, in nats; `None` where no pass came after an
    /// update.
    pub fn measured_nats(&self, updates: u64) -> Option<f64> {
        (self.weight > 0.0).then(|| updates as f64 * self.measured / self.weight)
    }

    /// What the moved log-probabilities of the sampled tokens imply to first order, in nats:
    /// `ΔH ≈ -E_s Cov_{a~π}(log π, Δlog π)`.
    ///
    /// # References
    /// arXiv 2505.22617, Section 3, the lemma before Theorem 1, there in the logits, which differ from log π by a
    /// constant of the state; its covariance is estimated as by [`within_state_covariance`].
    pub fn lemma_nats(&self, updates: u64) -> Option<f64> {
        (self.weight > 0.0).then(|| updates as f64 * self.expected / self.weight)
    }
}

impl std::ops::AddAssign for EntropyChange {
    fn add_assign(&mut self, other: Self) {
        self.measured += other.measured;
        self.expected += other.expected;
        self.weight += other.weight;
    }
}

/// How a prediction and what came go together over the steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Steps compared.
    pub points: usize,
    /// Pearson's correlation.
    pub correlation: f64,
    /// The least-squares slope of the measured on the predicted: 1 where the prediction has the right size.
    pub slope: f64,
}

impl Agreement {
    /// Compares the means of so many steps each: the noise of single steps, which both figures have, averages out. The
    /// steps left over at the end are not compared.
    pub fn of_windows(pairs: &[(f64, f64)], steps: usize) -> Option<Self> {
        let finite = pairs.iter().filter(|(p, m)| p.is_finite() && m.is_finite());
        let finite: Vec<(f64, f64)> = finite.copied().collect();
        let mean = |window: &[(f64, f64)]| {
            let (x, y) = window
                .iter()
                .fold((0.0, 0.0), |(x, y), pair| (x + pair.0, y + pair.1));
            (x / steps as f64, y / steps as f64)
        };
        let windows: Vec<(f64, f64)> = finite.chunks_exact(steps.max(1)).map(mean).collect();
        Self::of(&windows)
    }

    /// Compares pairs of (predicted, measured), leaving out those that are not finite; `None` with fewer than three or
    /// where either never changes.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let pairs = pairs.iter().filter(|(p, m)| p.is_finite() && m.is_finite());
        let pairs: Vec<(f64, f64)> = pairs.copied().collect();
        let n = pairs.len() as f64;
        if pairs.len() < 3 {
            return None;
        }
        let mean = |pick: fn(&(f64, f64)) -> f64| pairs.iter().map(pick).sum::<f64>() / n;
        let (x_mean, y_mean) = (mean(|p| p.0), mean(|p| p.1));
        let sum = |f: fn(f64, f64) -> f64| -> f64 {
            pairs.iter().map(|(x, y)| f(x - x_mean, y - y_mean)).sum()
        };
        let (sxx, syy, sxy) = (sum(|x, _| x * x), sum(|_, y| y * y), sum(|x, y| x * y));
        (sxx > 0.0 && syy > 0.0).then(|| Self {
            points: pairs.len(),
            correlation: sxy / (sxx * syy).sqrt(),
            slope: sxy / sxx,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_covariance_worked_by_hand() {
        // log π + H: -0.5 and 1.0; the products with 2 and 4 are -1 and 4.
        let found = within_state_covariance(&[-1.0, -0.5], &[0.5, 1.5], &[2.0, 4.0]);
        assert_eq!(found, Some(1.5));
        assert_eq!(within_state_covariance(&[], &[], &[]), None);
    }

    #[test]
    fn an_even_change_is_found_whatever_the_mini_batches_hold() {
        let token = |entropy: f32, updates: f32| TokenChange {
            log_prob_before: -1.0,
            entropy_before: entropy,
            log_prob_after: -1.0,
            entropy_after: entropy - 0.25 * updates,
        };
        let mut change = EntropyChange::default();
        change.add([token(1.0, 0.0), token(3.0, 0.0)], 0);
        change.add([token(2.0, 1.0)], 1);
        change.add([token(5.0, 2.0), token(1.0, 2.0)], 2);
        assert_eq!(change.measured_nats(3), Some(-0.75));
        assert_eq!(change.lemma_nats(3), Some(0.0));
        let mut first = EntropyChange::default();
        first.add([token(1.0, 0.0)], 0);
        assert_eq!(first.measured_nats(1), None);
    }

    #[test]
    fn agreement_worked_by_hand() {
        let agreement =
            Agreement::of(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0), (f64::NAN, 1.0)]).unwrap();
        assert_eq!(agreement.points, 3);
        assert!((agreement.correlation - 1.0).abs() < 1e-12);
        assert!((agreement.slope - 2.0).abs() < 1e-12);
        assert_eq!(Agreement::of(&[(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]), None);
        assert_eq!(Agreement::of(&[(1.0, 2.0), (2.0, 3.0)]), None);
    }

    #[test]
    fn windows_average_noise_out() {
        // The measured is twice the predicted, and 5 more and less in turn.
        let pairs: Vec<(f64, f64)> = (0..9)
            .map(|i| {
                (
                    f64::from(i),
                    2.0 * f64::from(i) + if i % 2 == 0 { 5.0 } else { -5.0 },
                )
            })
            .collect();
        let windows = Agreement::of_windows(&pairs, 2).unwrap();
        assert_eq!(windows.points, 4);
        assert!((windows.correlation - 1.0).abs() < 1e-12 && (windows.slope - 2.0).abs() < 1e-12);
        assert!(Agreement::of(&pairs).unwrap().correlation < 0.8);
    }
}
