//! One training step: sample, score, filter, measure, update.

use std::{ops::Range, sync::Mutex, time::Instant};

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Tensor, TensorData},
};
use entropy::{EntropyTally, sampled_entropy, summarize_covariances, token_covariances};
use losses::{LossInputs, LossSums, SelectionKey, SelectionScope, SelectionView};
use policy::{CausalLm, HeadOptions};

use crate::{
    AnswerKey, Event, Group, Observer, StepMetrics, Trainer, TrainerError,
    batch::{Collated, Sequence, longest_response, micro_batches},
    optimizer::{clip, gradient_norm},
    parallel::map_ordered,
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
#[derive(Debug, Default)]
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
        updates.describe(&mut metrics);
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

    /// Log-probabilities and entropies of every response token under the policy as it is.
    fn measure(&self, groups: &[Group]) -> Result<Measured, TrainerError> {
        let sequences: Vec<Sequence> = sequences(groups).collect();
        let model = self.policy.model.valid();
        let temperature = self.config.rollout.temperature;
        let options = HeadOptions {
            temperature,
            entropy: true,
        };
        let ranges = micro_batches(&sequences, self.config.update.max_tokens);
        let parts = map_ordered(&ranges, self.workers, |range| {
            measure_part(&sequences[range.clone()], &model, options)
        });
        let mut measured = Measured::default();
        for part in parts {
            let part = part?;
            measured.log_probs.extend(part.log_probs);
            measured.entropies.extend(part.entropies);
            measured
                .entropies_at_temperature
                .extend(part.entropies_at_temperature);
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
        let keys = groups
            .iter()
            .flat_map(|group| &group.samples)
            .map(|sample| {
                let key = sample.rollout.key;
                key.row * size + key.sample
            });
        let rows = sequences(groups)
            .zip(advantages.into_iter().flatten())
            .zip(keys);
        let rows = rows.zip(&measured.log_probs);
        Ok(rows
            .map(
                |(((sequence, advantage), row_key), old_log_probs)| Experience {
                    sequence,
                    advantage: advantage as f32,
                    old_log_probs: old_log_probs.clone(),
                    row_key,
                },
            )
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
            observer.on_event(Event::Updating {
                step: self.state.step,
                done: index,
                total,
            });
            let key = SelectionKey {
                seed: self.config.seed,
                step: self.state.step,
                mini_batch: index as u64,
            };
            self.update_once(mini_batches[index % mini_batches.len()], &key, &mut updates)?;
        }
        Ok(updates)
    }

    /// One optimizer update over a mini-batch, its micro-batches' gradients added up in order.
    fn update_once(
        &mut self,
        experiences: &[Experience],
        key: &SelectionKey,
        updates: &mut Updates,
    ) -> Result<(), TrainerError> {
        let batch = MiniBatch::new(experiences, self.config.update.max_tokens);
        let mut accumulator = GradientsAccumulator::new();
        let mut loss = 0.0;
        let mut add = |result: Backward| {
            updates.sums += result.sums;
            loss += result.loss;
            accumulator.accumulate(&self.policy.model, result.gradients);
        };
        if batch.ranges.len() <= self.workers {
            self.one_pass(&batch, key)?.into_iter().for_each(add);
        } else {
            self.two_passes(&batch, key, &mut add)?;
        }
        self.apply(accumulator.grads(), loss, updates)
    }

    /// Every micro-batch forward, the selection over what they gave, then every one backward.
    fn one_pass(
        &self,
        batch: &MiniBatch<'_>,
        key: &SelectionKey,
    ) -> Result<Vec<Backward>, TrainerError> {
        let forwards = map_ordered(&batch.ranges, self.workers, |range| {
            self.forward(batch, range)
        });
        let mut log_probs = Vec::new();
        for forward in &forwards {
            log_probs.push(forward.host_log_probs()?);
        }
        let selection = self.select(batch, &log_probs, key)?;
        let parts: Vec<_> = forwards.into_iter().map(|f| Mutex::new(Some(f))).collect();
        let backwards = map_ordered(&parts, self.workers, |part| {
            // A graph is consumed by its backward pass, and not shared between threads.
            let forward = part.lock().ok().and_then(|mut part| part.take());
            forward.map(|forward| self.backward(batch, forward, selection.as_deref()))
        });
        backwards.into_iter().flatten().collect()
    }

    /// The selection from a pass of its own, then each micro-batch forward and backward, so that few graphs and few
    /// gradients, each as large as the model, are held at once.
    fn two_passes(
        &self,
        batch: &MiniBatch<'_>,
        key: &SelectionKey,
        add: &mut dyn FnMut(Backward),
    ) -> Result<(), TrainerError> {
        let mut selection = None;
        if self.objective.needs_selection() {
            let model = self.policy.model.valid();
            let passes = map_ordered(&batch.ranges, self.workers, |range| {
                Forward::new(batch, range, model.clone(), self.options()).host_log_probs()
            });
            let log_probs = passes.into_iter().collect::<Result<Vec<_>, _>>()?;
            selection = self.select(batch, &log_probs, key)?;
        }
        for ranges in batch.ranges.chunks(self.workers) {
            let results = map_ordered(ranges, self.workers, |range| {
                self.backward(batch, self.forward(batch, range), selection.as_deref())
            });
            for result in results {
                add(result?);
            }
        }
        Ok(())
    }

    fn options(&self) -> HeadOptions {
        HeadOptions {
            temperature: self.config.rollout.temperature,
            entropy: false,
        }
    }

    /// A forward pass on a model of its own: the same weights, but leaves of a graph that no other pass shares.
    fn forward(&self, batch: &MiniBatch<'_>, range: &Range<usize>) -> Forward {
        let model = self.policy.model.clone().fork(&self.policy.model.device());
        Forward::new(batch, range, model, self.options())
    }

    /// The controller's selection, `[rows, response_len]` over the mini-batch; `None` where it selects nothing.
    fn select(
        &self,
        batch: &MiniBatch<'_>,
        log_probs: &[Vec<f32>],
        key: &SelectionKey,
    ) -> Result<Option<Vec<f32>>, TrainerError> {
        match self.objective.selection_scope() {
            None => Ok(None),
            Some(SelectionScope::MiniBatch) => self.select_among(
                batch.experiences,
                &log_probs.concat(),
                batch.response_len,
                key,
            ),
            Some(SelectionScope::MicroBatch) => {
                let mut whole = Vec::new();
                for (range, log_probs) in batch.ranges.iter().zip(log_probs) {
                    let part = &batch.experiences[range.clone()];
                    let selected = self.select_among(part, log_probs, batch.response_len, key)?;
                    whole.extend(selected.unwrap_or_default());
                }
                Ok(Some(whole))
            }
        }
    }

    fn select_among(
        &self,
        experiences: &[Experience],
        log_probs: &[f32],
        response_len: usize,
        key: &SelectionKey,
    ) -> Result<Option<Vec<f32>>, TrainerError> {
        let columns = Columns::new(experiences, response_len);
        let view = SelectionView {
            log_probs,
            old_log_probs: &columns.old_log_probs,
            advantages: &columns.advantages,
            mask: &columns.mask,
            row_keys: &columns.row_keys,
        };
        Ok(self
            .objective
            .select(&view, key)?
            .map(|selection| selection.mask))
    }

    /// Loss and gradient of one micro-batch.
    fn backward(
        &self,
        batch: &MiniBatch<'_>,
        forward: Forward,
        selection: Option<&[f32]>,
    ) -> Result<Backward, TrainerError> {
        let Forward {
            model,
            log_probs,
            range,
        } = forward;
        let device = log_probs.device();
        let shape = log_probs.dims();
        let tensor =
            |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, shape), &device);
        let columns = Columns::new(&batch.experiences[range.clone()], batch.response_len);
        let inputs = LossInputs {
            log_probs,
            old_log_probs: tensor(columns.old_log_probs),
            ref_log_probs: None,
            advantages: tensor(columns.advantages),
            mask: tensor(columns.mask),
        };
        let selected = selection.map(|selection| tensor(batch.rows(selection, &range)));
        let denominator = self.objective.denominator(&batch.mask, batch.response_len);
        let output = self.objective.evaluate(&inputs, selected, &denominator);
        let gradients = GradientsParams::from_grads(output.loss.backward(), &model);
        let loss = read(output.loss.without_autodiff())?;
        Ok(Backward {
            gradients,
            loss: f64::from(loss[0]),
            sums: output.stats.read(),
        })
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
                return Err(TrainerError::Diverged {
                    step: self.state.step,
                    count,
                });
            }
            return Ok(());
        }
        self.state.skipped_in_a_row = 0;
        let largest = self.config.optimizer.max_grad_norm;
        let gradients = clip(&self.policy.model, gradients, norm, largest);
        let rate = self.config.optimizer.rate(self.state.step);
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
        let rows = measured
            .entropies
            .iter()
            .zip(&measured.entropies_at_temperature);
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
            learning_rate: self.config.optimizer.rate(self.state.step),
            ..StepMetrics::default()
        }
    }
}

impl Updates {
    fn describe(&self, metrics: &mut StepMetrics) {
        let count = self.done as f64;
        metrics.updates = self.done;
        metrics.skipped_updates = self.skipped;
        metrics.policy_loss = self.losses / count;
        metrics.grad_norm = self.grad_norms / count;
        metrics.clip_fraction = self.sums.clip_fraction();
        metrics.approx_kl = self.sums.approx_kl();
        metrics.selected_tokens = self.sums.selected as u64;
        metrics.selected_fraction = self.sums.selected_fraction();
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
    ranges: Vec<Range<usize>>,
    response_len: usize,
    mask: Vec<f32>,
}

impl<'a> MiniBatch<'a> {
    fn new(experiences: &'a [Experience], max_tokens: usize) -> Self {
        let sequences: Vec<Sequence> = experiences
            .iter()
            .map(|experience| experience.sequence.clone())
            .collect();
        let response_len = longest_response(&sequences);
        Self {
            experiences,
            ranges: micro_batches(&sequences, max_tokens),
            response_len,
            mask: Columns::new(experiences, response_len).mask,
        }
    }

    /// The rows of a range out of `[rows, response_len]` values.
    fn rows(&self, values: &[f32], range: &Range<usize>) -> Vec<f32> {
        values[range.start * self.response_len..range.end * self.response_len].to_vec()
    }
}

/// A micro-batch's forward pass, with the model whose graph it made.
struct Forward {
    model: CausalLm,
    /// `[rows, response_len]`.
    log_probs: Tensor<2>,
    range: Range<usize>,
}

impl Forward {
    fn new(
        batch: &MiniBatch<'_>,
        range: &Range<usize>,
        model: CausalLm,
        options: HeadOptions,
    ) -> Self {
        let part = &batch.experiences[range.clone()];
        let sequences: Vec<Sequence> = part
            .iter()
            .map(|experience| experience.sequence.clone())
            .collect();
        let collated = Collated::new(&sequences, batch.response_len);
        let log_probs = collated.spread(collated.score(&model, options).log_probs);
        Self {
            model,
            log_probs,
            range: range.clone(),
        }
    }

    fn host_log_probs(&self) -> Result<Vec<f32>, TrainerError> {
        let [rows, response_len] = self.log_probs.dims();
        read(
            self.log_probs
                .clone()
                .without_autodiff()
                .reshape([rows * response_len]),
        )
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
            row_keys: experiences
                .iter()
                .map(|experience| experience.row_key)
                .collect(),
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
    groups
        .iter()
        .flat_map(|group| &group.samples)
        .map(|sample| Sequence::new(&sample.rollout.prompt_ids, &sample.rollout.response_ids))
}

/// Mean `|log π_sampler - log π_trainer|`: what numerics alone put between the two, in nats.
fn sampler_gap(groups: &[Group], log_probs: &[Vec<f32>]) -> f64 {
    let rows = groups
        .iter()
        .flat_map(|group| &group.samples)
        .zip(log_probs);
    let gaps = rows.flat_map(|(sample, row)| sample.rollout.sampler_log_probs.iter().zip(row));
    let (sum, count) = gaps.fold((0.0, 0.0), |(sum, count), (sampler, trainer)| {
        (sum + f64::from((sampler - trainer).abs()), count + 1.0)
    });
    sum / count
}

/// One micro-batch of the pass before the update.
fn measure_part(
    sequences: &[Sequence],
    model: &CausalLm,
    options: HeadOptions,
) -> Result<Measured, TrainerError> {
    let lengths: Vec<usize> = sequences.iter().map(Sequence::response_tokens).collect();
    let scores = Collated::new(sequences, longest_response(sequences)).score(model, options);
    let rows = |flat: Option<Tensor<1>>| {
        let values = flat.map_or_else(|| Ok(Vec::new()), read)?;
        let mut rest = values.into_iter();
        let rows = lengths
            .iter()
            .map(|&length| rest.by_ref().take(length).collect());
        Ok::<_, TrainerError>(rows.collect::<Vec<Vec<f32>>>())
    };
    Ok(Measured {
        log_probs: rows(Some(scores.log_probs))?,
        entropies: rows(scores.entropies)?,
        entropies_at_temperature: rows(scores.entropies_at_temperature)?,
    })
}

fn read(tensor: Tensor<1>) -> Result<Vec<f32>, TrainerError> {
    tensor.try_into_vec_as::<f32>().map_err(|error| {
        TrainerError::Rollout(rollout::RolloutError::Device {
            message: format!("{error:?}"),
        })
    })
}
