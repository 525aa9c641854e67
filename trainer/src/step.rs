//! One training step: sample, score, filter, measure, update.

use std::time::Instant;

use entropy::{EntropyTally, sampled_entropy, summarize_covariances, token_covariances};

use crate::{
    AnswerKey, Event, Group, Observer, StepMetrics, Trainer, TrainerError, experience::Experience,
};

/// What a step did.
#[derive(Debug, Clone)]
pub struct StepOutcome {
    /// Its figures.
    pub metrics: StepMetrics,
    /// The groups that it trained on.
    pub trained: Vec<Group>,
    /// The groups that it sampled and left out: their rewards were all equal, a figure of theirs was not finite, or
    /// they were more than this step and the next can use.
    pub left_out: Vec<Group>,
    /// The groups that it sampled and keeps for the next step.
    pub carried: Vec<Group>,
}

/// What sampling gave: groups to train on, and figures of all that was sampled.
struct Sampling {
    groups: Vec<Group>,
    left_out: Vec<Group>,
    groups_sampled: usize,
    groups_dropped: usize,
    responses: usize,
    rewards: Vec<f64>,
    rewards_missing: usize,
    undecided: usize,
    correct: usize,
    tokens: u64,
    truncated: usize,
}

impl Trainer {
    /// Runs one step.
    ///
    /// # Errors
    /// A stage's error, or too many gradients in a row that are not finite.
    pub fn step(&mut self, observer: &mut dyn Observer) -> Result<StepOutcome, TrainerError> {
        let started = Instant::now();
        self.state.step += 1;
        let mut sampling = self.sample_groups(observer)?;
        let generated = started.elapsed();
        let mut measured = self.measure(&sampling.groups)?;
        let broken = self.drop_broken(&mut sampling.groups, &mut measured, observer);
        sampling.groups_dropped += broken.len();
        sampling.left_out.extend(broken);
        let (greedy_rewards, missing) =
            self.greedy_rewards(&mut sampling.groups, &mut measured, observer)?;
        sampling.groups_dropped += missing.len();
        sampling.left_out.extend(missing);
        let experiences =
            self.experiences(&sampling.groups, measured, greedy_rewards.as_deref())?;
        let mut metrics = self.describe(&sampling, &experiences);
        let entropy_bonus = self.entropy_bonus(metrics.entropy_token_mean);
        let updates = self.update(&experiences, entropy_bonus, observer)?;
        self.describe_updates(&updates, &mut metrics);
        if self.objective.entropy_control().needs_entropy_gradient() {
            metrics.entropy_bonus = Some(entropy_bonus);
        }
        metrics.generate_seconds = generated.as_secs_f64();
        metrics.step_seconds = started.elapsed().as_secs_f64();
        metrics.update_seconds = metrics.step_seconds - metrics.generate_seconds;
        Ok(StepOutcome {
            metrics,
            trained: sampling.groups,
            left_out: sampling.left_out,
            carried: self.state.surplus.clone(),
        })
    }

    /// Samples until enough groups tell right from wrong, or no more rounds are allowed.
    fn sample_groups(&mut self, observer: &mut dyn Observer) -> Result<Sampling, TrainerError> {
        let wanted = self.config.rollout.prompts_per_step;
        let mut sampling = Sampling {
            groups: std::mem::take(&mut self.state.surplus),
            left_out: Vec::new(),
            groups_sampled: 0,
            groups_dropped: 0,
            responses: 0,
            rewards: Vec::new(),
            rewards_missing: 0,
            undecided: 0,
            correct: 0,
            tokens: 0,
            truncated: 0,
        };
        for _ in 0..self.config.rollout.max_sampling_rounds {
            if sampling.groups.len() >= wanted {
                break;
            }
            let missing = (wanted - sampling.groups.len()) as f64;
            let count = (missing * self.config.rollout.oversampling).ceil() as usize;
            let groups = self.sample_round(count, observer)?;
            for id in sampling.take(groups, self.config.rollout.filter_groups) {
                self.tell_of_dropped(&id, "a reward", observer);
            }
        }
        if sampling.groups.len() > wanted {
            let mut surplus = sampling.groups.split_off(wanted);
            // The next step must sample too: what it trains on is then one step old at most, and it has figures.
            sampling
                .left_out
                .extend(surplus.split_off(surplus.len().min(wanted - 1)));
            self.state.surplus = surplus;
        }
        if sampling.groups.len() < wanted {
            observer.on_event(Event::ShortRollout {
                groups: sampling.groups.len(),
                wanted,
            });
        }
        Ok(sampling)
    }

    /// Samples and scores a group for each of the next `count` problems.
    fn sample_round(
        &mut self,
        count: usize,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Group>, TrainerError> {
        let first_row = self.state.cursor;
        let cursors = first_row..first_row + count as u64;
        let problems = cursors.map(|cursor| self.source.problem(cursor)).collect();
        let step = self.state.step;
        let key = AnswerKey {
            seed: self.config.seed,
            step,
            first_row,
        };
        let size = self.config.rollout.group_size;
        let groups =
            self.answerer(&self.sampling)?
                .answer(problems, size, key, &mut |progress| {
                    observer.on_event(Event::Generating { step, progress });
                })?;
        self.state.cursor += count as u64;
        Ok(groups)
    }

    /// Moves the adaptive coefficient by the step's entropy, and gives the factor of the step's entropy bonus.
    fn entropy_bonus(&mut self, entropy_nats: f64) -> f64 {
        // A step that kept no group measured nothing to move it by.
        if entropy_nats.is_nan() {
            return 0.0;
        }
        let coef = self.state.entropy_coef;
        self.state.entropy_coef = self.objective.next_entropy_coef(coef, entropy_nats);
        self.objective
            .entropy_bonus(self.state.entropy_coef, entropy_nats)
    }

    fn describe(&self, sampling: &Sampling, experiences: &[Experience]) -> StepMetrics {
        let mut plain = EntropyTally::default();
        let mut warm = EntropyTally::default();
        for old in experiences.iter().map(|row| &row.old) {
            let ones = vec![1.0; old.entropies.len()];
            if !ones.is_empty() {
                plain.add(&old.entropies, &ones, ones.len());
                warm.add(&old.entropies_at_temperature, &ones, ones.len());
            }
        }
        let flat = |row: fn(&Experience) -> &Vec<f32>| {
            let figures = experiences.iter().flat_map(row);
            figures.copied().collect::<Vec<f32>>()
        };
        let (log_probs, advantages) = (flat(|row| &row.old.log_probs), flat(|row| &row.advantages));
        let ones = vec![1.0; log_probs.len()];
        let covariances = token_covariances(&advantages, &log_probs, &ones);
        let summary = summarize_covariances(&covariances, &ones);
        let weights = experiences.iter().map(|row| row.weights.as_ref());
        let weights = weights.collect::<Option<Vec<_>>>();
        let responses = sampling.responses as f64;
        StepMetrics {
            step: self.state.step,
            reward_mean: sampling.rewards.iter().sum::<f64>() / sampling.rewards.len() as f64,
            accuracy_mean: sampling.correct as f64 / responses,
            entropy_token_mean: plain.token_mean_nats().unwrap_or(f64::NAN),
            entropy_response_mean: plain.response_mean_nats().unwrap_or(f64::NAN),
            entropy_rollout_temperature: warm.token_mean_nats().unwrap_or(f64::NAN),
            entropy_sampled: sampled_entropy(&log_probs, &ones).unwrap_or(f64::NAN),
            covariance_mean: summary.as_ref().map_or(f64::NAN, |summary| summary.mean),
            covariance_quantiles: summary.map(|summary| summary.ranks),
            sampler_log_prob_gap: sampler_gap(&sampling.groups, &log_probs),
            correction_weight_mean: weights.map(|rows| mean(rows.into_iter().flatten())),
            response_length_mean: sampling.tokens as f64 / responses,
            truncated_fraction: sampling.truncated as f64 / responses,
            groups_kept: sampling.groups.len() as u64,
            groups_sampled: sampling.groups_sampled as u64,
            groups_dropped: sampling.groups_dropped as u64,
            rewards_missing: sampling.rewards_missing as u64,
            verdicts_undecided: sampling.undecided as u64,
            tokens_generated: sampling.tokens,
            learning_rate: self.config.optimizer.rate(self.state.step),
            ..StepMetrics::default()
        }
    }
}

impl Sampling {
    /// Counts what was sampled, keeps what can be trained on, and names the problems with a reward that is not finite.
    fn take(&mut self, groups: Vec<Group>, filter: bool) -> Vec<String> {
        self.groups_sampled += groups.len();
        let mut broken = Vec::new();
        for group in groups {
            for sample in &group.samples {
                self.responses += 1;
                let reward = sample.score.reward.filter(|reward| reward.is_finite());
                self.rewards_missing += usize::from(reward.is_none());
                self.rewards.extend(reward);
                self.undecided += usize::from(sample.score.undecided);
                self.correct += usize::from(sample.score.correct);
                self.tokens += sample.rollout.response_ids.len() as u64;
                self.truncated += usize::from(sample.rollout.finish.is_truncated());
            }
            if group.rewards().is_none() {
                broken.push(group.problem.id.clone());
                self.left_out.push(group);
            } else if !filter || group.is_informative() {
                self.groups.push(group);
            } else {
                self.left_out.push(group);
            }
        }
        self.groups_dropped += broken.len();
        broken
    }
}

/// Mean `|log π_sampler - log π_trainer|`: what numerics alone put between the two, in nats.
fn sampler_gap(groups: &[Group], log_probs: &[f32]) -> f64 {
    let samples = groups.iter().flat_map(|group| &group.samples);
    let sampler = samples.flat_map(|sample| &sample.rollout.sampler_log_probs);
    let gaps: Vec<f32> = sampler.zip(log_probs).map(|(s, t)| (s - t).abs()).collect();
    mean(&gaps)
}

fn mean<'a>(figures: impl IntoIterator<Item = &'a f32>) -> f64 {
    let (sum, count) = figures
        .into_iter()
        .fold((0.0, 0.0), |(sum, count), &figure| {
            (sum + f64::from(figure), count + 1.0)
        });
    sum / count
}
