//! A step's figures, from what was sampled and measured before its updates.

use std::collections::BTreeMap;

use entropy::{
    EntropyTally, TheoremTerms, sampled_entropy, summarize_covariances, token_covariances,
};

use crate::{
    Difficulty, Group, PartMetrics, StepMetrics, Trainer,
    experience::Experience,
    step::{MeanOf, Sampling},
};

/// A step's figures, and the covariance of each of its tokens in the experiences' order.
pub(crate) struct Described {
    pub(crate) metrics: StepMetrics,
    pub(crate) covariances: Vec<f64>,
}

impl Trainer {
    pub(crate) fn describe(&self, sampling: &Sampling, experiences: &[Experience]) -> Described {
        let (log_probs, advantages) = (
            flat(experiences, |row| &row.old.log_probs),
            flat(experiences, |row| &row.advantages),
        );
        let ones = vec![1.0; log_probs.len()];
        let covariances = token_covariances(&advantages, &log_probs, &ones);
        let summary = summarize_covariances(&covariances, &ones);
        let weights = experiences.iter().map(|row| row.weights.as_ref());
        let weights = weights.collect::<Option<Vec<_>>>();
        let responses = sampling.responses as f64;
        let reward_mean = sampling.rewards.iter().sum::<f64>() / sampling.rewards.len() as f64;
        let parts = Parts::new(&sampling.groups, experiences, &covariances);
        let metrics = StepMetrics {
            step: self.state.step,
            reward_mean,
            reward_std: spread(&sampling.rewards, reward_mean),
            reward_parts: means(&sampling.parts),
            accuracy_by_source: several(means(&sampling.right_by_source)),
            accuracy_mean: sampling.correct as f64 / responses,
            entropy_sampled: sampled_entropy(&log_probs, &ones).unwrap_or(f64::NAN),
            covariance_mean: summary.as_ref().map_or(f64::NAN, |summary| summary.mean),
            covariance_quantiles: summary.map(|summary| summary.ranks),
            entropy_prompt_mean: parts.entropy_prompt_mean(),
            by_difficulty: parts.by(|group| Difficulty::of(correct(group), group.samples.len())),
            by_source: several(parts.by(|group| group.problem.source.clone())),
            sampler_log_prob_gap: sampler_mean(&sampling.groups, &log_probs, f64::abs),
            // k3 of KL(sampler ‖ trainer): each token's share is 0 or more.
            sampler_kl: Some(sampler_mean(&sampling.groups, &log_probs, |x| {
                x.exp_m1() - x
            })),
            correction_weight_mean: weights.map(|rows| mean(rows.into_iter().flatten())),
            response_length_mean: sampling.tokens as f64 / responses,
            truncated_fraction: sampling.truncated as f64 / responses,
            groups_kept: sampling.groups.len() as u64,
            groups_sampled: sampling.groups_sampled as u64,
            groups_dropped: sampling.groups_dropped as u64,
            groups_all_right: Some(sampling.groups_all_right as u64),
            groups_all_wrong: Some(sampling.groups_all_wrong as u64),
            rewards_missing: sampling.rewards_missing as u64,
            verdicts_undecided: sampling.undecided as u64,
            tokens_generated: sampling.tokens,
            learning_rate: self.rate(),
            ..entropies(experiences)
        };
        Described {
            metrics,
            covariances,
        }
    }

    /// What the theorems expect of the updates that were made: `-η·Cov`, η the rate of all of them together.
    pub(crate) fn describe_theorems(
        &self,
        experiences: &[Experience],
        updates: u64,
    ) -> Option<TheoremTerms> {
        let rate = self.rate() * updates as f64;
        let terms = TheoremTerms::of(
            &flat(experiences, |row| &row.old.log_probs),
            &flat(experiences, |row| &row.old.entropies_at_temperature),
            &flat(experiences, |row| &row.advantages),
        )?;
        Some(TheoremTerms {
            policy_gradient: -rate * terms.policy_gradient,
            natural_gradient: -rate * terms.natural_gradient,
        })
    }
}

/// A figure of every token, in the experiences' order.
fn flat(experiences: &[Experience], row: fn(&Experience) -> &Vec<f32>) -> Vec<f32> {
    experiences.iter().flat_map(row).copied().collect()
}

/// The step's entropies, in the conventions of METRICS.md.
fn entropies(experiences: &[Experience]) -> StepMetrics {
    let mut plain = EntropyTally::default();
    let mut warm = EntropyTally::default();
    for row in experiences {
        add(&mut plain, &row.old.entropies);
        add(&mut warm, &row.old.entropies_at_temperature);
    }
    StepMetrics {
        entropy_token_mean: plain.token_mean_nats().unwrap_or(f64::NAN),
        entropy_response_mean: plain.response_mean_nats().unwrap_or(f64::NAN),
        entropy_rollout_temperature: warm.token_mean_nats().unwrap_or(f64::NAN),
        ..StepMetrics::default()
    }
}

fn add(tally: &mut EntropyTally, entropies: &[f32]) {
    if !entropies.is_empty() {
        tally.add(entropies, &vec![1.0; entropies.len()], entropies.len());
    }
}

/// The kept groups, each with its responses' entropies and covariances.
struct Parts<'a> {
    groups: &'a [Group],
    sums: Vec<GroupSums>,
}

/// Sums over a group's tokens.
struct GroupSums {
    entropies: EntropyTally,
    covariances: f64,
    tokens: usize,
}

impl<'a> Parts<'a> {
    fn new(groups: &'a [Group], experiences: &[Experience], covariances: &[f64]) -> Self {
        let mut rows = experiences.iter();
        let mut rest = covariances;
        let sums = groups.iter().map(|group| {
            let mut entropies = EntropyTally::default();
            let mut tokens = 0;
            for row in rows.by_ref().take(group.samples.len()) {
                add(&mut entropies, &row.old.entropies);
                tokens += row.old.log_probs.len();
            }
            let (own, others) = rest.split_at(tokens);
            rest = others;
            GroupSums {
                entropies,
                covariances: own.iter().sum(),
                tokens,
            }
        });
        Self {
            groups,
            sums: sums.collect(),
        }
    }

    /// The mean over problems of the mean over their responses of the mean over tokens.
    fn entropy_prompt_mean(&self) -> f64 {
        let means = self.sums.iter();
        let means: Vec<f64> = means
            .filter_map(|sums| sums.entropies.response_mean_nats())
            .collect();
        means.iter().sum::<f64>() / means.len() as f64
    }

    /// Figures of the groups of each kind.
    fn by<K: Ord>(&self, kind: impl Fn(&Group) -> K) -> BTreeMap<K, PartMetrics> {
        let mut parts: BTreeMap<K, GroupSums> = BTreeMap::new();
        let mut counts: BTreeMap<K, u64> = BTreeMap::new();
        for (group, sums) in self.groups.iter().zip(&self.sums) {
            *counts.entry(kind(group)).or_default() += 1;
            let part = parts.entry(kind(group)).or_insert(GroupSums {
                entropies: EntropyTally::default(),
                covariances: 0.0,
                tokens: 0,
            });
            part.entropies += sums.entropies;
            part.covariances += sums.covariances;
            part.tokens += sums.tokens;
        }
        let metrics = |((kind, sums), groups): ((K, GroupSums), u64)| {
            let metrics = PartMetrics {
                groups,
                entropy_token_mean: sums.entropies.token_mean_nats().unwrap_or(f64::NAN),
                covariance_mean: sums.covariances / sums.tokens as f64,
            };
            (kind, metrics)
        };
        parts
            .into_iter()
            .zip(counts.into_values())
            .map(metrics)
            .collect()
    }
}

fn means(sums: &BTreeMap<String, MeanOf>) -> BTreeMap<String, f64> {
    let means = sums.iter().map(|(name, sum)| (name.clone(), sum.mean()));
    means.collect()
}

/// The standard deviation of some rewards about their mean; none of none.
fn spread(rewards: &[f64], mean: f64) -> Option<f64> {
    let squares = rewards.iter().map(|reward| (reward - mean).powi(2));
    (!rewards.is_empty()).then(|| (squares.sum::<f64>() / rewards.len() as f64).sqrt())
}

/// Parts, where there is more than one.
fn several<K, V>(parts: BTreeMap<K, V>) -> BTreeMap<K, V> {
    if parts.len() > 1 {
        parts
    } else {
        BTreeMap::new()
    }
}

fn correct(group: &Group) -> usize {
    let samples = group.samples.iter();
    samples.filter(|sample| sample.score.correct).count()
}

/// Mean over tokens of a figure of `log π_trainer - log π_sampler`: what numerics put between the two, in nats.
fn sampler_mean(groups: &[Group], log_probs: &[f32], figure: fn(f64) -> f64) -> f64 {
    let samples = groups.iter().flat_map(|group| &group.samples);
    let sampler = samples.flat_map(|sample| &sample.rollout.sampler_log_probs);
    let gaps = sampler.zip(log_probs);
    let figures: Vec<f32> = gaps
        .map(|(s, t)| figure(f64::from(*t) - f64::from(*s)) as f32)
        .collect();
    mean(&figures)
}

fn mean<'a>(figures: impl IntoIterator<Item = &'a f32>) -> f64 {
    let (sum, count) = figures
        .into_iter()
        .fold((0.0, 0.0), |(sum, count), &figure| {
            (sum + f64::from(figure), count + 1.0)
        });
    sum / count
}
