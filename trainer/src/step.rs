//! One training step: sample, score, filter, measure, update.

use std::time::Instant;

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Tensor, TensorData},
};
use entropy::{EntropyTally, sampled_entropy, summarize_covariances, token_covariances};
use losses::{
    Denominator, LossInputs, LossSums, Selection, SelectionKey, SelectionScope, SelectionView,
};
use policy::{CausalLm, HeadOptions};

use crate::{
    AnswerKey, Event, Group, Observer, StepMetrics, Trainer, TrainerError,
    batch::{Collated, Sequence, micro_batches},
    optimizer::{clip, gradient_norm},
};

/// Updates in a row with a gradient that is not finite before a run gives up.
const MOST_SKIPPED_IN_A_ROW: usize = 16;

/// What sampling gave: groups to train on, and figures of all that was sampled.
struct Sampling {
    groups: Vec<Group>,
    groups_sampled: usize,
    rewards: Vec<f64>,
    correct: usize,
    tokens: u64,
    truncated: usize,
}

/// A response as the update sees it, with what was known of it before the update.
pub(crate) struct Experience {
    pub(crate) sequence: Sequence,
    pub(crate) advantage: f32,
    pub(crate) old_log_probs: Vec<f32>,
    pub(crate) row_key: u64,
}

/// Figures of response tokens before the update, one vector a response.
struct Measured {
    log_probs: Vec<Vec<f32>>,
    entropies: Vec<Vec<f32>>,
    entropies_at_temperature: Vec<Vec<f32>>,
}

/// Sums over a step's updates.
#[derive(Debug, Default)]
struct Updates {
    sums: LossSums,
    losses: f64,
    grad_norms: f64,
    done: u64,
    skipped: u64,
}

impl Trainer {
    /// Runs one step and gives back its figures and the groups that it trained on.
    ///
    /// # Errors
    /// A stage's error, or too many gradients in a row that are not finite.
    pub fn step(
        &mut self,
        observer: &mut dyn Observer,
    ) -> Result<(StepMetrics, Vec<Group>), TrainerError> {
        let started = Instant::now();
        self.state.step += 1;
        let sampling = self.sample_groups(observer)?;
        let generated = started.elapsed();
        let measured = self.measure(&sampling.groups)?;
        let experiences = self.experiences(&sampling.groups, &measured)?;
        let mut metrics = self.describe(&sampling, &measured, &experiences);
        let updates = self.update(experiences, observer)?;
        self.describe_updates(&mut metrics, &updates);
        metrics.generate_seconds = generated.as_secs_f64();
        metrics.step_seconds = started.elapsed().as_secs_f64();
        metrics.update_seconds = metrics.step_seconds - metrics.generate_seconds;
        Ok((metrics, sampling.groups))
    }

    /// Samples until enough groups tell right from wrong, or no more rounds are allowed.
    fn sample_groups(&mut self, observer: &mut dyn Observer) -> Result<Sampling, TrainerError> {
        let wanted = self.config.rollout.prompts_per_step;
        let mut sampling = Sampling {
            groups: std::mem::take(&mut self.state.surplus),
            groups_sampled: 0,
            rewards: Vec::new(),
            correct: 0,
            tokens: 0,
            truncated: 0,
        };
        for _ in 0..self.config.rollout.max_sampling_rounds {
            if sampling.groups.len() >= wanted {
                break;
            }
            let groups = self.sample_round(wanted - sampling.groups.len(), observer)?;
            sampling.take(groups, self.config.rollout.filter_groups);
        }
        if sampling.groups.len() > wanted {
            self.state.surplus = sampling.groups.split_off(wanted);
        }
        if sampling.groups.len() < wanted {
            observer.on_event(Event::ShortRollout { groups: sampling.groups.len(), wanted });
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
        let key = AnswerKey { seed: self.config.seed, step, first_row };
        let size = self.config.rollout.group_size;
        let groups = self.answerer(&self.sampling)?.answer(problems, size, key, &mut |progress| {
            observer.on_event(Event::Generating { step, progress });
        })?;
        self.state.cursor += count as u64;
        Ok(groups)
    }

    /// Log-probabilities and entropies of every response token under the policy as it is.
    fn measure(&self, groups: &[Group]) -> Result<Measured, TrainerError> {
        let sequences: Vec<Sequence> = sequences(groups).collect();
        let model = self.policy.model.valid();
        let temperature = self.config.rollout.temperature;
        let options = HeadOptions { temperature, entropy: true };
        let mut measured = Measured {
            log_probs: Vec::new(),
            entropies: Vec::new(),
            entropies_at_temperature: Vec::new(),
        };
        for range in micro_batches(&sequences, self.config.update.max_tokens) {
            let part = &sequences[range];
            let lengths: Vec<usize> = part.iter().map(Sequence::response_tokens).collect();
            let collated = Collated::new(part, longest_response(part));
            let Some(scores) = collated.score(&model, options) else {
                continue;
            };
            let mut split = |target: &mut Vec<Vec<f32>>, flat: Option<Tensor<1>>| {
                let Some(flat) = flat else { return Ok(()) };
                let values = read(flat)?;
                let mut rest = values.as_slice();
                for &length in &lengths {
                    let (row, tail) = rest.split_at(length);
                    target.push(row.to_vec());
                    rest = tail;
                }
                Ok::<(), TrainerError>(())
            };
            split(&mut measured.log_probs, Some(scores.log_probs))?;
            split(&mut measured.entropies, scores.entropies)?;
            split(&mut measured.entropies_at_temperature, scores.entropies_at_temperature)?;
        }
        Ok(measured)
    }

    /// Rewards to advantages, joined with what was measured.
    fn experiences(
        &self,
        groups: &[Group],
        measured: &Measured,
    ) -> Result<Vec<Experience>, TrainerError> {
        let rewards: Vec<Vec<f64>> = groups.iter().map(Group::rewards).collect();
        let advantages = self.config.advantage.advantages(&rewards)?;
        let size = self.config.rollout.group_size as u64;
        let keys = groups.iter().flat_map(|group| &group.samples).map(|sample| {
            let key = sample.rollout.key;
            key.row * size + key.sample
        });
        let rows = sequences(groups).zip(advantages.into_iter().flatten()).zip(keys);
        let rows = rows.zip(&measured.log_probs);
        Ok(rows
            .map(|(((sequence, advantage), row_key), old_log_probs)| Experience {
                sequence,
                advantage: advantage as f32,
                old_log_probs: old_log_probs.clone(),
                row_key,
            })
            .collect())
    }

    /// Goes through the rollout in mini-batches of whole groups, in order, one optimizer update each.
    fn update(
        &mut self,
        experiences: Vec<Experience>,
        observer: &mut dyn Observer,
    ) -> Result<Updates, TrainerError> {
        let size = self.config.update.mini_batch_prompts * self.config.rollout.group_size;
        let mini_batches: Vec<&[Experience]> = experiences.chunks(size).collect();
        let total = mini_batches.len() * self.config.update.epochs;
        let mut updates = Updates::default();
        for index in 0..total {
            observer.on_event(Event::Updating { step: self.state.step, done: index, total });
            let key = SelectionKey {
                seed: self.config.seed,
                step: self.state.step,
                mini_batch: index as u64,
            };
            self.update_once(mini_batches[index % mini_batches.len()], &key, &mut updates)?;
        }
        Ok(updates)
    }

    /// One optimizer update over a mini-batch, its micro-batches' gradients added up.
    fn update_once(
        &mut self,
        experiences: &[Experience],
        key: &SelectionKey,
        updates: &mut Updates,
    ) -> Result<(), TrainerError> {
        let batch = MiniBatch::new(experiences, self.config.update.max_tokens);
        let denominator = self.objective.denominator(&batch.mask(), batch.response_len);
        let whole = self.select_whole(&batch, key)?;
        let mut accumulator = GradientsAccumulator::new();
        let mut loss = 0.0;
        for range in batch.ranges.clone() {
            let selected = whole.as_ref().map(|selection| batch.rows(&selection.mask, &range));
            let part = &experiences[range];
            let Some(output) = self.backward(part, &batch, selected, &denominator, key)? else {
                continue;
            };
            updates.sums += output.sums;
            loss += output.loss;
            accumulator.accumulate(&self.policy.model, output.gradients);
        }
        self.apply(accumulator.grads(), loss, updates)
    }

    /// The selection over a whole mini-batch that does not fit one micro-batch, from a pass of its own.
    ///
    /// A mini-batch of one micro-batch is selected from in its only pass, in [`Trainer::backward`].
    fn select_whole(
        &self,
        batch: &MiniBatch<'_>,
        key: &SelectionKey,
    ) -> Result<Option<Selection>, TrainerError> {
        let is_whole = self.objective.selection_scope() == Some(SelectionScope::MiniBatch);
        if !is_whole || batch.ranges.len() < 2 {
            return Ok(None);
        }
        let model = self.policy.model.valid();
        let options =
            HeadOptions { temperature: self.config.rollout.temperature, entropy: false };
        let mut log_probs = Vec::new();
        for range in &batch.ranges {
            let collated = batch.collate(range);
            let cells = collated.mask().len();
            log_probs.extend(match collated.score(&model, options) {
                Some(scores) => read(collated.spread(scores.log_probs).reshape([cells]))?,
                None => vec![0.0; cells],
            });
        }
        self.select(batch.experiences, &log_probs, batch.response_len, key)
    }

    fn select(
        &self,
        experiences: &[Experience],
        log_probs: &[f32],
        response_len: usize,
        key: &SelectionKey,
    ) -> Result<Option<Selection>, TrainerError> {
        let columns = Columns::new(experiences, response_len);
        let view = SelectionView {
            log_probs,
            old_log_probs: &columns.old_log_probs,
            advantages: &columns.advantages,
            mask: &columns.mask,
            row_keys: &columns.row_keys,
        };
        Ok(self.objective.select(&view, key)?)
    }

    /// Loss and gradient of one micro-batch; `None` where it has no response token.
    fn backward(
        &self,
        experiences: &[Experience],
        batch: &MiniBatch<'_>,
        selected: Option<Vec<f32>>,
        denominator: &Denominator,
        key: &SelectionKey,
    ) -> Result<Option<Backward>, TrainerError> {
        let response_len = batch.response_len;
        let sequences: Vec<Sequence> =
            experiences.iter().map(|experience| experience.sequence.clone()).collect();
        let collated = Collated::new(&sequences, response_len);
        let options =
            HeadOptions { temperature: self.config.rollout.temperature, entropy: false };
        let Some(scores) = collated.score(&self.policy.model, options) else {
            return Ok(None);
        };
        let log_probs = collated.spread(scores.log_probs);
        let device = log_probs.device();
        let shape = [experiences.len(), response_len];
        let tensor = |values: Vec<f32>| {
            Tensor::<2>::from_data(TensorData::new(values, shape), &device)
        };
        let selected = match selected {
            None if self.objective.needs_selection() => {
                let current = log_probs.clone().without_autodiff();
                let current = read(current.reshape([shape[0] * shape[1]]))?;
                let selection = self.select(experiences, &current, response_len, key)?;
                selection.map(|selection| selection.mask)
            }
            other => other,
        };
        let columns = Columns::new(experiences, response_len);
        let inputs = LossInputs {
            log_probs,
            old_log_probs: tensor(columns.old_log_probs),
            ref_log_probs: None,
            advantages: tensor(columns.advantages),
            mask: tensor(columns.mask),
        };
        let output = self.objective.evaluate(&inputs, selected.map(tensor), denominator);
        let gradients = GradientsParams::from_grads(output.loss.backward(), &self.policy.model);
        let loss = read(output.loss.without_autodiff())?;
        Ok(Some(Backward {
            gradients,
            loss: f64::from(loss[0]),
            sums: output.stats.read(),
        }))
    }

    /// The optimizer's update; a gradient that is not finite is counted and leaves everything as it was.
    fn apply(
        &mut self,
        gradients: GradientsParams,
        loss: f64,
        updates: &mut Updates,
    ) -> Result<(), TrainerError> {
        let norm = gradient_norm(&self.policy.model, &gradients);
        if !norm.is_finite() || !loss.is_finite() {
            updates.skipped += 1;
            self.state.skipped_in_a_row += 1;
            let count = self.state.skipped_in_a_row;
            if count >= MOST_SKIPPED_IN_A_ROW {
                return Err(TrainerError::Diverged { step: self.state.step, count });
            }
            return Ok(());
        }
        self.state.skipped_in_a_row = 0;
        let largest = self.config.optimizer.max_grad_norm;
        let gradients = clip(&self.policy.model, gradients, norm, largest);
        let rate = self.config.optimizer.learning_rate;
        let model = self.policy.model.clone();
        self.policy.model = self.optimizer.step(rate, model, gradients);
        updates.done += 1;
        updates.losses += loss;
        updates.grad_norms += norm;
        Ok(())
    }

    fn describe(
        &self,
        sampling: &Sampling,
        measured: &Measured,
        experiences: &[Experience],
    ) -> StepMetrics {
        let mut plain = EntropyTally::default();
        let mut warm = EntropyTally::default();
        let rows = measured.entropies.iter().zip(&measured.entropies_at_temperature);
        for (entropies, at_temperature) in rows.filter(|(row, _)| !row.is_empty()) {
            let ones = vec![1.0; entropies.len()];
            plain.add(entropies, &ones, ones.len());
            warm.add(at_temperature, &ones, ones.len());
        }
        let log_probs = measured.log_probs.concat();
        let ones = vec![1.0; log_probs.len()];
        let advantages: Vec<f32> = experiences
            .iter()
            .flat_map(|row| vec![row.advantage; row.old_log_probs.len()])
            .collect();
        let covariances = token_covariances(&advantages, &log_probs, &ones);
        let summary = summarize_covariances(&covariances, &ones);
        let responses = sampling.rewards.len() as f64;
        StepMetrics {
            step: self.state.step,
            reward_mean: sampling.rewards.iter().sum::<f64>() / responses,
            accuracy_mean: sampling.correct as f64 / responses,
            entropy_token_mean: plain.token_mean_nats().unwrap_or(f64::NAN),
            entropy_response_mean: plain.response_mean_nats().unwrap_or(f64::NAN),
            entropy_rollout_temperature: warm.token_mean_nats().unwrap_or(f64::NAN),
            entropy_sampled: sampled_entropy(&log_probs, &ones).unwrap_or(f64::NAN),
            covariance_mean: summary.as_ref().map_or(f64::NAN, |summary| summary.mean),
            covariance_quantiles: summary.map(|summary| summary.ranks),
            sampler_log_prob_gap: sampler_gap(&sampling.groups, &measured.log_probs),
            response_length_mean: sampling.tokens as f64 / responses,
            truncated_fraction: sampling.truncated as f64 / responses,
            groups_kept: sampling.groups.len() as u64,
            groups_sampled: sampling.groups_sampled as u64,
            tokens_generated: sampling.tokens,
            learning_rate: self.config.optimizer.learning_rate,
            ..StepMetrics::default()
        }
    }

    fn describe_updates(&self, metrics: &mut StepMetrics, updates: &Updates) {
        let count = updates.done as f64;
        metrics.updates = updates.done;
        metrics.skipped_updates = updates.skipped;
        metrics.policy_loss = updates.losses / count;
        metrics.grad_norm = updates.grad_norms / count;
        metrics.clip_fraction = updates.sums.clip_fraction();
        metrics.approx_kl = updates.sums.approx_kl();
        metrics.selected_tokens = updates.sums.selected as u64;
        metrics.selected_fraction = updates.sums.selected_fraction();
    }
}

/// A micro-batch's result.
struct Backward {
    gradients: GradientsParams,
    loss: f64,
    sums: LossSums,
}

impl Sampling {
    fn take(&mut self, groups: Vec<Group>, filter: bool) {
        self.groups_sampled += groups.len();
        for group in groups {
            for sample in &group.samples {
                self.rewards.push(sample.score.reward);
                self.correct += usize::from(sample.score.correct);
                self.tokens += sample.rollout.response_ids.len() as u64;
                self.truncated += usize::from(sample.rollout.finish.is_truncated());
            }
            if !filter || group.is_informative() {
                self.groups.push(group);
            }
        }
    }
}

/// A mini-batch and how it is cut into micro-batches.
struct MiniBatch<'a> {
    experiences: &'a [Experience],
    ranges: Vec<std::ops::Range<usize>>,
    response_len: usize,
}

impl<'a> MiniBatch<'a> {
    fn new(experiences: &'a [Experience], max_tokens: usize) -> Self {
        let sequences: Vec<Sequence> =
            experiences.iter().map(|experience| experience.sequence.clone()).collect();
        Self {
            experiences,
            ranges: micro_batches(&sequences, max_tokens),
            response_len: longest_response(&sequences),
        }
    }

    fn mask(&self) -> Vec<f32> {
        Columns::new(self.experiences, self.response_len).mask
    }

    fn collate(&self, range: &std::ops::Range<usize>) -> Collated {
        let part = &self.experiences[range.clone()];
        let sequences: Vec<Sequence> =
            part.iter().map(|experience| experience.sequence.clone()).collect();
        Collated::new(&sequences, self.response_len)
    }

    /// The rows of a range out of `[rows, response_len]` values.
    fn rows(&self, values: &[f32], range: &std::ops::Range<usize>) -> Vec<f32> {
        values[range.start * self.response_len..range.end * self.response_len].to_vec()
    }
}

/// Experiences as columns, row-major `[rows, response_len]`, zero at padding.
struct Columns {
    old_log_probs: Vec<f32>,
    advantages: Vec<f32>,
    mask: Vec<f32>,
    row_keys: Vec<u64>,
}

impl Columns {
    fn new(experiences: &[Experience], response_len: usize) -> Self {
        let cells = experiences.len() * response_len;
        let mut columns = Self {
            old_log_probs: vec![0.0; cells],
            advantages: vec![0.0; cells],
            mask: vec![0.0; cells],
            row_keys: experiences.iter().map(|experience| experience.row_key).collect(),
        };
        for (row, experience) in experiences.iter().enumerate() {
            let count = experience.old_log_probs.len();
            let cells = row * response_len..row * response_len + count;
            columns.old_log_probs[cells.clone()].copy_from_slice(&experience.old_log_probs);
            columns.advantages[cells.clone()].fill(experience.advantage);
            columns.mask[cells].fill(1.0);
        }
        columns
    }
}

fn sequences(groups: &[Group]) -> impl Iterator<Item = Sequence> {
    groups.iter().flat_map(|group| &group.samples).map(|sample| {
        Sequence::new(&sample.rollout.prompt_ids, &sample.rollout.response_ids)
    })
}

fn longest_response(sequences: &[Sequence]) -> usize {
    sequences.iter().map(Sequence::response_tokens).max().unwrap_or(0).max(1)
}

/// Mean |log π_sampler - log π_trainer|: what numerics alone put between the two, in nats.
fn sampler_gap(groups: &[Group], log_probs: &[Vec<f32>]) -> f64 {
    let rows = groups.iter().flat_map(|group| &group.samples).zip(log_probs);
    let gaps = rows.flat_map(|(sample, row)| sample.rollout.sampler_log_probs.iter().zip(row));
    let (sum, count) = gaps.fold((0.0, 0.0), |(sum, count), (sampler, trainer)| {
        (sum + f64::from((sampler - trainer).abs()), count + 1.0)
    });
    sum / count
}

fn read(tensor: Tensor<1>) -> Result<Vec<f32>, TrainerError> {
    tensor.try_into_vec_as::<f32>().map_err(|error| {
        TrainerError::Rollout(rollout::RolloutError::Device { message: format!("{error:?}") })
    })
}
