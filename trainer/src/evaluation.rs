//! What sampled answers say of a model: mean accuracy, pass@k, majority, with bootstrap intervals.

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use reward::are_equivalent;
use serde::{Deserialize, Serialize};

use crate::Group;

/// A figure with its 95 % interval, by the bootstrap over problems.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The mean over problems.
    pub value: f64,
    /// The 2.5 % and 97.5 % quantiles of that mean over resampled sets of problems. Where each of them has 0, or each 1, they
    /// all would be that: there, Wilson's score interval.
    pub interval: [f64; 2],
}

/// Resamplings for an interval.
const RESAMPLINGS: usize = 1000;

impl Figure {
    /// The mean of a share, 0 to 1, that each problem has, and its interval.
    ///
    /// # Panics
    /// If there is no problem.
    pub fn of(per_problem: &[f64], seed: u64) -> Self {
        let count = per_problem.len();
        assert!(count > 0, "a figure over no problems");
        let upper = unseen(count);
        if per_problem.iter().all(|figure| *figure <= 0.0) {
            return Self {
                value: 0.0,
                interval: [0.0, upper],
            };
        }
        if per_problem.iter().all(|figure| *figure >= 1.0) {
            return Self {
                value: 1.0,
                interval: [1.0 - upper, 1.0],
            };
        }
        let mean = |sum: f64| sum / count as f64;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut means: Vec<f64> = (0..RESAMPLINGS)
            .map(|_| {
                mean(
                    (0..count)
                        .map(|_| per_problem[rng.random_range(0..count)])
                        .sum(),
                )
            })
            .collect();
        means.sort_by(f64::total_cmp);
        let quantile = |q: f64| means[((RESAMPLINGS - 1) as f64 * q).round() as usize];
        let value = mean(per_problem.iter().sum());
        Self {
            value,
            interval: [quantile(0.025), quantile(0.975)],
        }
    }
}

/// Wilson's upper bound, at 95 %, of a share of which none was seen in so many.
fn unseen(count: usize) -> f64 {
    let z_squared = 1.959_964_f64.powi(2);
    z_squared / (count as f64 + z_squared)
}

/// Share of right answers to each problem.
pub fn accuracies(groups: &[Group]) -> Vec<f64> {
    groups
        .iter()
        .map(|group| right(group) as f64 / group.samples.len() as f64)
        .collect()
}

/// Unbiased pass@k of each problem: 1 - C(n-c, k) / C(n, k) for c right ones of n (arXiv 2107.03374, Eq. 1).
///
/// # Panics
/// If a problem has fewer than k answers, of which nothing is known then.
pub fn pass_at(groups: &[Group], k: usize) -> Vec<f64> {
    groups
        .iter()
        .map(|group| pass_at_k(group.samples.len(), right(group), k))
        .collect()
}

/// The product form of 1 - C(n-c, k) / C(n, k), which does not overflow.
fn pass_at_k(n: usize, c: usize, k: usize) -> f64 {
    assert!(k <= n, "pass@{k} of {n} answers");
    if n < c + k {
        return 1.0;
    }
    1.0 - (n - c + 1..=n)
        .map(|i| 1.0 - k as f64 / i as f64)
        .product::<f64>()
}

/// Whether the most frequent answer of each problem is right; answers that say the same in other words count together,
/// and among equally frequent ones the first given counts.
pub fn majority(groups: &[Group]) -> Vec<f64> {
    groups
        .iter()
        .map(|group| f64::from(u8::from(majority_is_right(group))))
        .collect()
}

fn majority_is_right(group: &Group) -> bool {
    /// An answer, how often it was given, and whether it is right.
    struct Candidate<'a> {
        answer: &'a str,
        count: usize,
        correct: bool,
    }
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for score in group.samples.iter().map(|sample| &sample.score) {
        let Some(answer) = score.extracted.as_deref() else {
            continue;
        };
        let same = |candidate: &&mut Candidate<'_>| are_equivalent(candidate.answer, answer);
        match candidates.iter_mut().find(same) {
            Some(candidate) => candidate.count += 1,
            None => candidates.push(Candidate {
                answer,
                count: 1,
                correct: score.correct,
            }),
        }
    }
    let most = candidates.iter().map(|candidate| candidate.count).max();
    let mut winners = candidates
        .iter()
        .filter(|candidate| Some(candidate.count) == most);
    winners.next().is_some_and(|winner| winner.correct)
}

fn right(group: &Group) -> usize {
    group
        .samples
        .iter()
        .filter(|sample| sample.score.correct)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_at_k_is_the_share_of_draws_with_a_right_one() {
        // 2 right of 4: of the 6 pairs, 1 has none.
        assert!((pass_at_k(4, 2, 2) - 5.0 / 6.0).abs() < 1e-12);
        assert!((pass_at_k(4, 1, 1) - 0.25).abs() < 1e-12);
        assert!(pass_at_k(4, 0, 4).abs() < 1e-12);
        assert!((pass_at_k(4, 3, 2) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn intervals_hold_the_value_and_shrink_with_certainty() {
        let mixed: Vec<f64> = (0..100).map(|n| f64::from(n % 2)).collect();
        let figure = Figure::of(&mixed, 1);
        assert!((figure.value - 0.5).abs() < 1e-12);
        // Two standard errors of a share of one half over 100 problems are 0.1.
        assert!(
            (figure.interval[1] - figure.interval[0] - 0.2).abs() < 0.04,
            "{figure:?}"
        );
        // Nine of nine, none of four: Wilson's intervals, as R's binom package has them.
        let close = |[a, b]: [f64; 2], [c, d]: [f64; 2]| (a - c).abs() + (b - d).abs() < 1e-4;
        assert!(close(Figure::of(&[1.0; 9], 1).interval, [0.7009, 1.0]));
        assert!(close(Figure::of(&[0.0; 4], 1).interval, [0.0, 0.4899]));
        assert_eq!(Figure::of(&mixed, 1), figure);
    }
}
