//! Both theorems on a tabular softmax policy, whose change of entropy can be computed exactly.
//!
//! The policy has a free logit for each state and action. Its updates are written out from the definition of the
//! gradient, its entropies from that of entropy: nothing of this crate is in what the theorems are compared with.
#![allow(clippy::unwrap_used, reason = "a failure to estimate fails its test")]

use entropy::{TheoremTerms, TokenChange, within_state_covariance};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const STATES: usize = 7;
const ACTIONS: usize = 11;

struct Tabular {
    logits: Vec<Vec<f64>>,
    /// Q-values less the policy's mean: what an advantage is.
    advantages: Vec<Vec<f64>>,
}

fn probabilities(logits: &[f64]) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|l| l.exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

fn entropy(logits: &[f64]) -> f64 {
    probabilities(logits).iter().map(|p| -p * p.ln()).sum()
}

impl Tabular {
    fn random(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut matrix = || -> Vec<Vec<f64>> {
            let row = |_| (0..ACTIONS).map(|_| rng.random_range(-2.0..2.0)).collect();
            (0..STATES).map(row).collect()
        };
        let (logits, values) = (matrix(), matrix());
        let centred = |(logits, values): (&Vec<f64>, &Vec<f64>)| {
            let p = probabilities(logits);
            let mean: f64 = p.iter().zip(values).map(|(p, v)| p * v).sum();
            values.iter().map(|v| v - mean).collect()
        };
        let advantages = logits.iter().zip(&values).map(centred).collect();
        Self { logits, advantages }
    }

    fn mean_entropy(&self) -> f64 {
        self.logits.iter().map(|l| entropy(l)).sum::<f64>() / STATES as f64
    }

    /// z += η·∂J/∂z, J the expected advantage of a state, whose derivative by `z_a` is `π_a·A_a`.
    fn policy_gradient(&self, rate: f64) -> Vec<Vec<f64>> {
        self.moved(|p, advantage| rate * p * advantage)
    }

    /// z += η·A, the natural gradient's step.
    fn natural_gradient(&self, rate: f64) -> Vec<Vec<f64>> {
        self.moved(|_, advantage| rate * advantage)
    }

    fn moved(&self, step: impl Fn(f64, f64) -> f64) -> Vec<Vec<f64>> {
        let row = |(logits, advantages): (&Vec<f64>, &Vec<f64>)| {
            let p = probabilities(logits);
            let steps = p.iter().zip(advantages).map(|(&p, &a)| step(p, a));
            logits.iter().zip(steps).map(|(l, step)| l + step).collect()
        };
        self.logits.iter().zip(&self.advantages).map(row).collect()
    }

    /// What the theorems expect at rate 1, by this crate's estimator with every action as often as the policy takes
    /// it: the estimator's mean over infinitely many samples.
    fn expected_terms(&self) -> TheoremTerms {
        let mut sum = TheoremTerms {
            policy_gradient: 0.0,
            natural_gradient: 0.0,
        };
        for (logits, advantages) in self.logits.iter().zip(&self.advantages) {
            let state_entropy = entropy(logits) as f32;
            for (p, advantage) in probabilities(logits).iter().zip(advantages) {
                let log_prob = p.ln() as f32;
                let token =
                    TheoremTerms::of(&[log_prob], &[state_entropy], &[*advantage as f32]).unwrap();
                sum.policy_gradient += p * token.policy_gradient / STATES as f64;
                sum.natural_gradient += p * token.natural_gradient / STATES as f64;
            }
        }
        sum
    }
}

const RATE: f64 = 2e-3;

/// The error over the rate, for a rate and half of it.
fn errors_per_rate(
    policy: &Tabular,
    expected: f64,
    update: fn(&Tabular, f64) -> Vec<Vec<f64>>,
) -> [f64; 2] {
    [RATE, RATE / 2.0].map(|rate| {
        let after = Tabular {
            logits: update(policy, rate),
            advantages: policy.advantages.clone(),
        };
        let change = after.mean_entropy() - policy.mean_entropy();
        (change + rate * expected).abs() / rate
    })
}

/// First order is exact up to the square of the rate, so the error over the rate is of the rate's size and halves with
/// it.
fn assert_first_order(expected: f64, errors: [f64; 2]) {
    let order = errors[0] / errors[1];
    assert!(
        errors[0] < 2.0 * RATE && (1.8..2.2).contains(&order),
        "{errors:?} against {expected}"
    );
}

#[test]
fn theorem_1_is_exact_to_the_square_of_the_rate() {
    for seed in 0..20 {
        let policy = Tabular::random(seed);
        let expected = policy.expected_terms().policy_gradient;
        let errors = errors_per_rate(&policy, expected, Tabular::policy_gradient);
        assert_first_order(expected, errors);
    }
}

#[test]
fn theorem_2_is_exact_to_the_square_of_the_rate() {
    for seed in 0..20 {
        let policy = Tabular::random(seed);
        let expected = policy.expected_terms().natural_gradient;
        let errors = errors_per_rate(&policy, expected, Tabular::natural_gradient);
        assert_first_order(expected, errors);
    }
}

#[test]
fn the_lemma_and_the_measurement_agree_to_first_order() {
    let policy = Tabular::random(3);
    let after = policy.natural_gradient(1e-3);
    let mut measured = 0.0;
    let mut expected = 0.0;
    for (old, new) in policy.logits.iter().zip(&after) {
        for (p, q) in probabilities(old).iter().zip(probabilities(new)) {
            let token = TokenChange {
                log_prob_before: p.ln() as f32,
                entropy_before: entropy(old) as f32,
                log_prob_after: q.ln() as f32,
                entropy_after: entropy(new) as f32,
            };
            let mut change = entropy::EntropyChange::default();
            change.add([token], 1);
            measured += p * change.measured_nats(1).unwrap();
            expected += p * change.lemma_nats(1).unwrap();
        }
    }
    // A rate of 1e-3 leaves errors of 1e-6 at most; the change itself is some 1e-5 or more a state.
    let (measured, expected) = (measured / STATES as f64, expected / STATES as f64);
    assert!(measured.abs() > 1e-5, "{measured}");
    assert!((measured - expected).abs() < 1e-6, "{measured}, {expected}");
}

/// The estimator from sampled actions comes to the covariance within its noise, without a second sample of a state.
#[test]
fn one_sample_a_state_estimates_the_covariance() {
    let policy = Tabular::random(5);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut log_probs, mut entropies, mut advantages) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..60_000 {
        let state = rng.random_range(0..STATES);
        let p = probabilities(&policy.logits[state]);
        let mut draw: f64 = rng.random();
        let action = p.iter().position(|p| {
            draw -= p;
            draw < 0.0
        });
        let action = action.unwrap_or(ACTIONS - 1);
        log_probs.push(p[action].ln() as f32);
        entropies.push(entropy(&policy.logits[state]) as f32);
        advantages.push(policy.advantages[state][action]);
    }
    let found = within_state_covariance(&log_probs, &entropies, &advantages).unwrap();
    let expected = policy.expected_terms().natural_gradient;
    // The products have a standard deviation near 1, so the mean's error is near 1/√60000 = 0.004.
    assert!(
        (found - expected).abs() < 0.02,
        "{found}, expected {expected}"
    );
}
