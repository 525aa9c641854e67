//! Drawing one token from logits.

use std::cmp::Ordering;

use kernels::Softmax;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::{RolloutError, SampleKey};

/// How tokens are chosen and when a response ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f64,
    /// Keeps the k most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens whose probabilities sum to this; 1 keeps all (arXiv 1904.09751).
    pub top_p: f64,
    /// Drops tokens less probable than this share of the most probable one; 0 keeps all (arXiv 2407.01082).
    pub min_p: f64,
    /// The longest response, in tokens.
    pub max_new_tokens: usize,
    /// Token ids that end a response.
    pub stop_token_ids: Vec<u32>,
    /// Texts that end a response.
    pub stop_strings: Vec<String>,
    /// Whether responses run to `max_new_tokens` whatever is sampled, as benchmarks want.
    pub ignore_stops: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            max_new_tokens: 256,
            stop_token_ids: Vec::new(),
            stop_strings: Vec::new(),
            ignore_stops: false,
        }
    }
}

impl SamplingParams {
    /// Checks every range.
    ///
    /// # Errors
    /// The first parameter out of range.
    pub fn validate(&self) -> Result<(), RolloutError> {
        let check = |ok: bool, name, expected, found: String| {
            if ok {
                Ok(())
            } else {
                Err(RolloutError::InvalidParameter {
                    name,
                    expected,
                    found,
                })
            }
        };
        let temperature = self.temperature;
        let warm = temperature == 0.0 || (1e-3..=100.0).contains(&temperature);
        check(
            warm,
            "temperature",
            "0 or in 0.001..=100",
            temperature.to_string(),
        )?;
        let top_p = self.top_p;
        check(
            top_p > 0.0 && top_p <= 1.0,
            "top_p",
            "in (0, 1]",
            top_p.to_string(),
        )?;
        let min_p = self.min_p;
        check(
            (0.0..1.0).contains(&min_p),
            "min_p",
            "in [0, 1)",
            min_p.to_string(),
        )?;
        let most = self.max_new_tokens;
        check(most > 0, "max_new_tokens", "at least 1", most.to_string())?;
        let filled = self.stop_strings.iter().all(|stop| !stop.is_empty());
        check(
            filled,
            "stop_strings",
            "texts that are not empty",
            "''".into(),
        )
    }
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub id: u32,
    /// Its log-probability under the full softmax at the temperature (at temperature 0: at 1), in nats.
    pub log_prob: f32,
    /// Entropy of the softmax at temperature 1, in nats.
    pub entropy: f32,
    /// The same at the temperature (at temperature 0: at 1).
    pub entropy_at_temperature: f32,
}

/// Draws token `index` of the sample `key`, or gives `None` where the logits are not finite.
///
/// The log-probability and the entropies are those of the whole distribution, before any truncation by top-k, top-p or
/// min-p, because that is what the trainer recomputes.
pub fn sample(
    logits: &[f32],
    params: &SamplingParams,
    key: &SampleKey,
    index: usize,
) -> Option<Sampled> {
    let temperature = if params.temperature == 0.0 {
        1.0
    } else {
        params.temperature as f32
    };
    let sums = Softmax::new(logits, temperature);
    // -∞ alone is a token that is never taken; NaN and +∞ make the sum NaN.
    if !(sums.largest.is_finite() && sums.total.is_finite()) {
        return None;
    }
    let id = if params.temperature == 0.0 {
        logits.iter().position(|&logit| logit >= sums.largest)?
    } else {
        let weights = sums.weights(logits, temperature);
        draw(&weights, sums.total, params, key.rng(index).random())
    };
    let is_plain = temperature.to_bits() == 1.0_f32.to_bits();
    let plain = if is_plain {
        sums
    } else {
        Softmax::new(logits, 1.0)
    };
    Some(Sampled {
        id: id as u32,
        log_prob: sums.log_prob(logits[id], temperature),
        entropy: plain.entropy(),
        entropy_at_temperature: sums.entropy(),
    })
}

fn draw(weights: &[f32], total: f64, params: &SamplingParams, uniform: f64) -> usize {
    let truncates = params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0;
    if !truncates {
        return invert(weights.iter().copied().enumerate(), total * uniform);
    }
    let mut kept = truncate(weights, total, params);
    // In the order of ids, as a device draws, whose sums are in that order.
    kept.sort_unstable();
    let mass: f64 = kept.iter().map(|&id| f64::from(weights[id])).sum();
    invert(kept.iter().map(|&id| (id, weights[id])), mass * uniform)
}

/// The first token at which the running sum passes `target`; the last one with weight where rounding never gets there.
fn invert(tokens: impl Iterator<Item = (usize, f32)>, target: f64) -> usize {
    let mut sum = 0.0;
    let mut last = 0;
    for (id, weight) in tokens {
        if weight > 0.0 {
            last = id;
            sum += f64::from(weight);
            if sum > target {
                break;
            }
        }
    }
    last
}

/// Ids that survive top-k, then top-p, then min-p, in falling order of weight.
fn truncate(weights: &[f32], total: f64, params: &SamplingParams) -> Vec<usize> {
    let falling = |a: &usize, b: &usize| falling(weights, *a, *b);
    let floor = params.min_p as f32;
    // The largest weight is 1, so min-p is a bound on weights and cuts before the sort.
    let mut kept: Vec<usize> = (0..weights.len())
        .filter(|&id| weights[id] >= floor)
        .collect();
    let k = params.top_k;
    if k > 0 && k < kept.len() {
        kept.select_nth_unstable_by(k, falling);
        kept.truncate(k);
    }
    if params.top_p < 1.0 {
        let mass = if k > 0 { top_mass(weights, k) } else { total };
        let target = params.top_p * mass;
        drop_light(weights, &mut kept, target);
        kept.sort_unstable_by(falling);
        kept.truncate(nucleus(weights, &kept, target));
    } else {
        kept.sort_unstable_by(falling);
    }
    kept
}

/// The weight of the k heaviest tokens: what top-p takes its share of after top-k.
fn top_mass(weights: &[f32], k: usize) -> f64 {
    let falling = |a: &f32, b: &f32| b.total_cmp(a);
    let mut heaviest = weights.to_vec();
    if k < heaviest.len() {
        heaviest.select_nth_unstable_by(k, falling);
        heaviest.truncate(k);
    }
    heaviest.sort_unstable_by(falling);
    heaviest.iter().map(|&weight| f64::from(weight)).sum()
}

/// Leaves out tokens that are too light for the nucleus, so that a few are sorted and not the vocabulary.
fn drop_light(weights: &[f32], kept: &mut Vec<usize>, target: f64) {
    const FEW: usize = 64;
    const GROWTH: usize = 4;
    // Sums in another order may differ by rounding: with this much to spare, the sorted sum reaches the target too.
    let enough = target * (1.0 + 1e-9);
    let mut count = FEW;
    while count < kept.len() {
        kept.select_nth_unstable_by(count, |&a, &b| falling(weights, a, b));
        let mass: f64 = kept[..count].iter().map(|&id| f64::from(weights[id])).sum();
        if mass >= enough {
            kept.truncate(count);
            return;
        }
        count *= GROWTH;
    }
}

/// Heavier tokens first, and of equal ones that with the smaller id.
fn falling(weights: &[f32], a: usize, b: usize) -> Ordering {
    weights[b].total_cmp(&weights[a]).then(a.cmp(&b))
}

/// How many of the heaviest tokens it takes to reach `target`; at least one.
fn nucleus(weights: &[f32], kept: &[usize], target: f64) -> usize {
    let mut sum = 0.0;
    for (count, &id) in kept.iter().enumerate() {
        sum += f64::from(weights[id]);
        if sum >= target {
            return count + 1;
        }
    }
    kept.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sample: u64) -> SampleKey {
        SampleKey {
            seed: 1,
            step: 2,
            row: 3,
            sample,
        }
    }

    fn frequencies(params: &SamplingParams, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for n in 0..20_000 {
            counts[sample(logits, params, &key(n), 0).unwrap().id as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    /// Three standard errors of a frequency near one half over 20,000 draws.
    const SPREAD: f64 = 0.011;

    fn assert_close(found: &[f64], expected: &[f64]) {
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < SPREAD, "{found:?} is not {expected:?}");
        }
    }

    fn logits_of(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let p = [0.5, 0.3, 0.15, 0.05];
        assert_close(&frequencies(&SamplingParams::default(), &logits_of(&p)), &p);
    }

    #[test]
    fn temperature_flattens() {
        let params = SamplingParams {
            temperature: 2.0,
            ..Default::default()
        };
        let roots = [0.5_f64.sqrt(), 0.3_f64.sqrt(), 0.2_f64.sqrt()];
        let total: f64 = roots.iter().sum();
        let expected: Vec<f64> = roots.iter().map(|r| r / total).collect();
        assert_close(
            &frequencies(&params, &logits_of(&[0.5, 0.3, 0.2])),
            &expected,
        );
    }

    #[test]
    fn truncations_keep_what_they_say() {
        let logits = logits_of(&[0.05, 0.5, 0.3, 0.15]);
        let top_k = SamplingParams {
            top_k: 2,
            ..Default::default()
        };
        assert_close(&frequencies(&top_k, &logits), &[0.0, 0.625, 0.375, 0.0]);
        let top_p = SamplingParams {
            top_p: 0.6,
            ..Default::default()
        };
        assert_close(&frequencies(&top_p, &logits), &[0.0, 0.625, 0.375, 0.0]);
        let min_p = SamplingParams {
            min_p: 0.2,
            ..Default::default()
        };
        let expected = [0.0, 0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95];
        assert_close(&frequencies(&min_p, &logits), &expected);
        // Of the two that top-k keeps, 0.625 of the mass is the first's: top-p 0.6 keeps it alone.
        let both = SamplingParams {
            top_k: 2,
            top_p: 0.6,
            ..Default::default()
        };
        assert_close(&frequencies(&both, &logits), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn large_vocabularies_keep_what_sorting_them_whole_would() {
        let mut state = 7_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / 16_777_216.0
        };
        for (steepness, top_k) in [(0, 0), (4, 0), (30, 0), (30, 700), (4, 3)] {
            // Rounded, so that many weights are equal.
            let weights: Vec<f32> = (0..3000)
                .map(|_| (next().powi(steepness) * 1000.0).round() / 1000.0)
                .collect();
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            for top_p in [1e-6, 0.1, 0.5, 0.9, 0.999] {
                let params = SamplingParams {
                    top_k,
                    top_p,
                    ..Default::default()
                };
                let mut sorted: Vec<usize> = (0..weights.len()).collect();
                sorted.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)));
                let mass = if top_k > 0 {
                    sorted.truncate(top_k);
                    sorted.iter().map(|&id| f64::from(weights[id])).sum()
                } else {
                    total
                };
                sorted.truncate(nucleus(&weights, &sorted, top_p * mass));
                let found = truncate(&weights, total, &params);
                assert_eq!(found, sorted, "{steepness}, {top_k}, {top_p}");
            }
        }
    }

    #[test]
    fn top_k_beyond_the_vocabulary_keeps_all() {
        let params = SamplingParams {
            top_k: 100,
            ..Default::default()
        };
        let plain = SamplingParams::default();
        let logits = logits_of(&[0.5, 0.3, 0.2]);
        assert_close(
            &frequencies(&params, &logits),
            &frequencies(&plain, &logits),
        );
    }

    #[test]
    fn greedy_takes_the_first_largest_and_its_log_prob_at_temperature_one() {
        let params = SamplingParams {
            temperature: 0.0,
            ..Default::default()
        };
        let sampled = sample(&logits_of(&[0.2, 0.4, 0.4]), &params, &key(0), 0).unwrap();
        assert_eq!(sampled.id, 1);
        assert!((f64::from(sampled.log_prob) - 0.4_f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn log_prob_is_of_the_whole_distribution_whatever_is_truncated() {
        let params = SamplingParams {
            top_k: 1,
            ..Default::default()
        };
        let sampled = sample(&logits_of(&[0.2, 0.7, 0.1]), &params, &key(0), 0).unwrap();
        assert!((f64::from(sampled.log_prob) - 0.7_f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn non_finite_logits_give_nothing() {
        let params = SamplingParams::default();
        assert_eq!(sample(&[0.0, f32::NAN], &params, &key(0), 0), None);
        assert_eq!(sample(&[0.0, f32::INFINITY], &params, &key(0), 0), None);
        assert!(sample(&[0.0, f32::NEG_INFINITY], &params, &key(0), 0).is_some());
    }

    #[test]
    fn tokens_of_one_sample_draw_differently() {
        let logits = [0.0; 64];
        let draws: Vec<u32> = (0..32)
            .map(|index| {
                sample(&logits, &SamplingParams::default(), &key(0), index)
                    .unwrap()
                    .id
            })
            .collect();
        let mut distinct = draws.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 20, "{draws:?}");
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let bad = SamplingParams {
            top_p: 0.0,
            ..Default::default()
        };
        assert_eq!(
            bad.validate().unwrap_err().to_string(),
            "top_p must be in (0, 1], not 0"
        );
        assert!(
            SamplingParams {
                temperature: -1.0,
                ..Default::default()
            }
            .validate()
            .is_err()
        );
        assert!(
            SamplingParams {
                temperature: f64::NAN,
                ..Default::default()
            }
            .validate()
            .is_err()
        );
        assert!(
            SamplingParams {
                max_new_tokens: 0,
                ..Default::default()
            }
            .validate()
            .is_err()
        );
    }
}
