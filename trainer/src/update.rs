//! The updates of a step: mini-batches of whole groups, each in micro-batches by a token budget.

use std::{ops::Range, slice, sync::Mutex};

use burn::{
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{DType, Tensor, TensorData},
};
use entropy::{EntropyChange, TokenChange};
use losses::{
    Aggregation, Denominator, LossError, LossInputs, LossSums, OptionalInputs, SelectionKey,
    SelectionStats, SelectionView, Selections, aggregate,
};
use policy::CausalLm;

use crate::{
    Event, Observer, SkippedBatch, StepMetrics, Trainer, TrainerError,
    batch::TokenBudget,
    critic::CriticModel,
    experience::Experience,
    failpoint::failpoint,
    forward::{Forward, MicroBatches, read_matrix},
    measure::{FirstPass, read},
    optimizer::{clip, gradient_norm, scale},
    parallel::map_ordered,
};

/// Updates in a row with a gradient that is not finite before a run gives up.
pub(crate) const MOST_SKIPPED_IN_A_ROW: usize = 16;

/// Sums over a step's updates.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    sums: LossSums,
    selection: SelectionStats,
    losses: f64,
    value_losses: f64,
    value_clipped: f64,
    grad_norms: f64,
    done: u64,
    /// Of those done, the ones that moved the policy: a critic's warm-up does not.
    moved: u64,
    skipped: u64,
    change: EntropyChange,
    /// For each experience, which tokens a controller selected in any update; empty where none selects.
    pub(crate) selected: Vec<Vec<bool>>,
}

impl Trainer {
    /// Goes through the rollout in mini-batches of whole groups, in order, one optimizer update each; `first` is the
    /// first one's forward pass, where measuring was that.
    pub(crate) fn update(
        &mut self,
        experiences: &[Experience],
        mut first: Option<FirstPass>,
        entropy_bonus: f64,
        observer: &mut dyn Observer,
    ) -> Result<Updates, TrainerError> {
        let size = self.mini_batch_rows();
        let mini_batches: Vec<&[Experience]> = experiences.chunks(size).collect();
        let total = mini_batches.len() * self.config.update.epochs;
        let mut updates = Updates::default();
        if self.objective.needs_current_log_probs() {
            let rows = experiences.iter();
            updates.selected = rows
                .map(|row| vec![false; row.old.log_probs.len()])
                .collect();
        }
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
            let place = index % mini_batches.len();
            // Nothing is learnt from it, and the optimizer's moments would move the weights all the same.
            if mini_batches[place].iter().all(|row| row.is_masked) {
                first = None;
                continue;
            }
            let batch = MiniBatch {
                entropy_bonus,
                updates_before: updates.moved,
                first_row: place * size,
                ..MiniBatch::new(mini_batches[place], self.token_budget())
            };
            let forwards = first.take().and_then(|pass| pass.of(&batch.parts));
            let skipped = self.update_once(&batch, forwards, &key, &mut updates)?;
            if let Some(skipped) = skipped {
                self.tell_of_skipped(skipped, observer)?;
            }
        }
        Ok(updates)
    }

    /// Responses of a mini-batch.
    pub(crate) fn mini_batch_rows(&self) -> usize {
        self.config.update.mini_batch_prompts * self.config.rollout.group_size
    }

    /// One optimizer update over a mini-batch, its micro-batches' gradients added up in order. Gives back a batch that
    /// could not be used.
    fn update_once(
        &mut self,
        batch: &MiniBatch<'_>,
        mut forwards: Option<Vec<Forward>>,
        key: &SelectionKey,
        updates: &mut Updates,
    ) -> Result<Option<SkippedBatch>, TrainerError> {
        let scale_before = self.state.loss_scale;
        let (total, selections, gradients) = loop {
            let (mut total, selections) = match self.accumulated(batch, forwards.take(), key) {
                // What is not finite cannot be ranked, and would give a loss that is not either.
                Err(TrainerError::Loss(LossError::NonFiniteToken { .. })) => {
                    self.count_skipped(updates);
                    return self.skipped(batch, key).map(Some);
                }
                accumulated => accumulated?,
            };
            let gradients = self.unscaled(&mut total);
            if !self.overflows(&total, &gradients) || !self.state.loss_scale.lower() {
                break (total, selections, gradients);
            }
        };
        updates.note(batch, &selections);
        if self.apply(total, gradients, updates) {
            self.state.loss_scale.note_update();
            return Ok(None);
        }
        // No scale was to blame.
        self.state.loss_scale = scale_before;
        self.skipped(batch, key).map(Some)
    }

    /// What a loss is multiplied by before its way back, so that gradients in f16 do not vanish.
    fn loss_scale(&self) -> f64 {
        match self.dtype {
            DType::F16 => self.state.loss_scale.factor(),
            _ => 1.0,
        }
    }

    /// Whether a gradient in f16 is not finite where its loss is: its scale was too much for the type.
    fn overflows(&self, total: &Total, gradients: &Unscaled) -> bool {
        self.dtype == DType::F16
            && (total.loss + total.value_loss).is_finite()
            && !(gradients.norm.is_finite() && gradients.critic_norm.is_finite())
    }

    /// Takes the gradients out of the sums, those of the losses themselves.
    pub(crate) fn unscaled(&self, total: &mut Total) -> Unscaled {
        let factor = 1.0 / self.loss_scale();
        let model = &self.policy.model;
        let policy = scale(model, total.gradients.grads(), factor);
        let critic = total.critic_gradients.grads();
        let (critic, critic_norm) = match &self.critic {
            Some(own) => {
                let critic = scale(&own.model, critic, factor);
                let norm = gradient_norm(&own.model, &critic);
                (critic, norm)
            }
            None => (critic, 0.0),
        };
        Unscaled {
            norm: gradient_norm(model, &policy),
            policy,
            critic,
            critic_norm,
        }
    }

    /// The mini-batch's gradients at the present scale, its micro-batches' added up in order, and what was selected.
    fn accumulated(
        &self,
        batch: &MiniBatch<'_>,
        forwards: Option<Vec<Forward>>,
        key: &SelectionKey,
    ) -> Result<(Total, Selections), TrainerError> {
        self.stop.obey()?;
        let (selections, forwards) = self.selections(batch, forwards, key)?;
        let mut held = forwards.unwrap_or_default().into_iter();
        // A graph is consumed by its backward pass, and not shared between threads.
        let parts = batch.parts.ranges.iter();
        let parts: Vec<_> = parts
            .map(|range| (range, Mutex::new(held.next())))
            .collect();
        let entropy = self.entropy_pass(self.measures_change(batch));
        let mut total = Total::default();
        for parts in parts.chunks(self.workers) {
            self.stop.obey()?;
            let results = map_ordered(parts, self.workers, |(range, held)| {
                let held = held.lock().ok().and_then(|mut held| held.take());
                let forward = held.unwrap_or_else(|| {
                    let kept = self.blocks_kept(&batch.parts, slice::from_ref(range));
                    self.forward(&batch.parts, range, kept, entropy)
                });
                self.backward(batch, forward, &selections)
            });
            for result in results {
                self.add(&mut total, result?);
            }
        }
        Ok((total, selections))
    }

    fn add(&self, total: &mut Total, result: Backward) {
        total.sums += result.sums;
        total.change += result.change;
        total.loss += result.loss;
        total
            .gradients
            .accumulate(&self.policy.model, result.gradients);
        let (Some(critic), Some(value)) = (&self.critic, result.value) else {
            return;
        };
        total.value_loss += value.loss;
        total.value_clipped += value.clipped;
        total
            .critic_gradients
            .accumulate(&critic.model, value.gradients);
    }

    /// What the controllers select, and the micro-batches' forward passes where they are held until they go backward:
    /// those given, or those that the selection took.
    fn selections(
        &self,
        batch: &MiniBatch<'_>,
        forwards: Option<Vec<Forward>>,
        key: &SelectionKey,
    ) -> Result<(Selections, Option<Vec<Forward>>), TrainerError> {
        if !self.objective.needs_selection() {
            return Ok((Selections::default(), forwards));
        }
        // Before the policy has moved, the current log-probabilities are the old ones.
        if !self.objective.needs_current_log_probs() || batch.updates_before == 0 {
            let selections = self.select(batch, &batch.columns.old_log_probs, key)?;
            return Ok((selections, forwards));
        }
        if !self.holds_graphs(&batch.parts) {
            // The figures of the passes that are trained on, to the bit on the CPU.
            let log_probs = self.current_log_probs(&batch.parts)?;
            return Ok((self.select(batch, &log_probs, key)?, None));
        }
        let entropy = self.entropy_pass(self.measures_change(batch));
        let forwards = self.forwards(&batch.parts, entropy)?;
        let log_probs = forwards.iter().map(Forward::host_log_probs);
        let log_probs = log_probs.collect::<Result<Vec<_>, _>>()?;
        let selections = self.select(batch, &log_probs.concat(), key)?;
        Ok((selections, Some(forwards)))
    }

    fn select(
        &self,
        batch: &MiniBatch<'_>,
        log_probs: &[f32],
        key: &SelectionKey,
    ) -> Result<Selections, TrainerError> {
        let view = SelectionView {
            log_probs,
            old_log_probs: &batch.columns.old_log_probs,
            advantages: &batch.columns.advantages,
            mask: &batch.columns.mask,
            old_entropies: Some(&batch.columns.old_entropies),
            row_keys: &batch.row_keys,
        };
        Ok(self.objective.select(&view, &batch.parts.ranges, key)?)
    }

    /// Whether this mini-batch's pass shows what the updates before it did to entropy.
    fn measures_change(&self, batch: &MiniBatch<'_>) -> bool {
        self.config.measurement.change && batch.updates_before > 0
    }

    /// What the step's updates so far did to the entropies of a micro-batch's tokens.
    fn entropy_change(
        &self,
        batch: &MiniBatch<'_>,
        forward: &Forward,
    ) -> Result<EntropyChange, TrainerError> {
        let mut change = EntropyChange::default();
        let Some(entropies) = &forward.figures.entropies_at_temperature else {
            return Ok(change);
        };
        if !self.measures_change(batch) {
            return Ok(change);
        }
        let entropies = read_matrix(entropies)?;
        let log_probs = forward.host_log_probs()?;
        let first = forward.range.start * batch.parts.response_len;
        let columns = &batch.columns;
        let tokens = (0..log_probs.len()).filter(|cell| columns.mask[first + cell] > 0.0);
        let token = |cell: usize| TokenChange {
            log_prob_before: columns.old_log_probs[first + cell],
            entropy_before: columns.old_entropies_at_temperature[first + cell],
            log_prob_after: log_probs[cell],
            entropy_after: entropies[cell],
        };
        change.add(tokens.map(token), batch.updates_before);
        Ok(change)
    }

    /// Loss and gradient of one micro-batch.
    fn backward(
        &self,
        batch: &MiniBatch<'_>,
        forward: Forward,
        selections: &Selections,
    ) -> Result<Backward, TrainerError> {
        let change = self.entropy_change(batch, &forward)?;
        let range = &forward.range;
        let figures = forward.figures;
        let device = figures.log_probs.device();
        let column = |values: &[f32]| batch.tensor(values, range, &device);
        let optional = |values: &Option<Vec<f32>>| values.as_deref().map(column);
        let inputs = LossInputs {
            log_probs: figures.log_probs,
            old_log_probs: column(&batch.columns.old_log_probs),
            advantages: column(&batch.columns.advantages),
            mask: column(&batch.columns.mask),
            optional: OptionalInputs {
                ref_log_probs: optional(&batch.columns.ref_log_probs),
                old_entropies: Some(column(&batch.columns.old_entropies)),
                weights: optional(&batch.columns.weights),
                entropies: figures.entropies,
            },
        };
        let selected = selections.to_device(range, batch.parts.response_len, &device);
        let denominator = self
            .objective
            .denominator(&batch.columns.mask, batch.parts.response_len);
        let output = self
            .objective
            .evaluate(&inputs, &selected, &denominator, batch.entropy_bonus);
        let loss = read(output.loss.clone().without_autodiff())?[0];
        let value = self.value_loss(batch, range, figures.values)?;
        let whole = match &value {
            Some(value) => output.loss + value.weighted.clone(),
            None => output.loss,
        };
        let (policy_gradients, gradients) = forward
            .below
            .gradients(&forward.model, (whole * self.loss_scale()).backward());
        let value = match (value, forward.critic, forward.critic_below) {
            (Some(value), Some(critic), Some(below)) => Some(ValueBackward {
                gradients: critic.gradients(below, gradients),
                loss: f64::from(value.loss),
                clipped: f64::from(value.clipped),
            }),
            _ => None,
        };
        Ok(Backward {
            gradients: policy_gradients,
            loss: f64::from(loss),
            sums: output.stats.read(),
            change,
            value,
        })
    }

    /// A micro-batch's share of the critic's loss; `None` without a critic.
    fn value_loss(
        &self,
        batch: &MiniBatch<'_>,
        range: &Range<usize>,
        values: Option<Tensor<2>>,
    ) -> Result<Option<ValueTerms>, TrainerError> {
        let (Some(critic), Some(values)) = (&self.critic, values) else {
            return Ok(None);
        };
        let device = values.device();
        let column = |values: &[f32]| batch.tensor(values, range, &device);
        let optional = |values: &Option<Vec<f32>>| column(values.as_deref().unwrap_or_default());
        let columns = &batch.columns;
        let (old_values, returns) = (optional(&columns.old_values), optional(&columns.returns));
        let per_token = critic.config.loss().per_token(values, old_values, returns);
        let denominator = Denominator::from_mask(&columns.mask, batch.parts.response_len);
        let mask = column(&columns.mask);
        let mean = |figures| aggregate(figures, mask.clone(), Aggregation::TokenMean, &denominator);
        let loss = mean(per_token.loss);
        let clipped = per_token.clipped.unwrap_or_else(|| mask.zeros_like());
        // Where the trunk is the critic's own, the two graphs share nothing, and the gradient of the sum is each one's.
        let factor = if critic.model.trunk.is_some() {
            1.0
        } else {
            critic.config.coef
        };
        Ok(Some(ValueTerms {
            loss: read(loss.clone().without_autodiff())?[0],
            clipped: read(mean(clipped).without_autodiff())?[0],
            weighted: loss * factor,
        }))
    }

    /// The optimizers' update; a gradient that is not finite is counted, leaves everything as it was and gives `false`.
    pub(crate) fn apply(
        &mut self,
        total: Total,
        gradients: Unscaled,
        updates: &mut Updates,
    ) -> bool {
        updates.sums += total.sums;
        updates.change += total.change;
        let Unscaled {
            policy: gradients,
            critic: critic_gradients,
            norm,
            critic_norm: _,
        } = gradients;
        let is_finite = norm.is_finite() && (total.loss + total.value_loss).is_finite();
        // From here on, the weights may be those of no whole step.
        let was_mid_step = self.stop.is_mid_step();
        self.stop.set_mid_step(is_finite || was_mid_step);
        let is_applied = is_finite
            && self
                .critic
                .as_mut()
                .is_none_or(|critic| critic.apply(critic_gradients));
        if !is_applied {
            self.stop.set_mid_step(was_mid_step);
            self.count_skipped(updates);
            return false;
        }
        self.state.skipped_in_a_row = 0;
        updates.done += 1;
        updates.losses += total.loss;
        updates.value_losses += total.value_loss;
        updates.value_clipped += total.value_clipped;
        updates.grad_norms += norm;
        let warmup = self
            .critic
            .as_ref()
            .map_or(0, |critic| critic.config.warmup_steps);
        if self.state.step <= warmup {
            return true;
        }
        let largest = self.config.optimizer.max_grad_norm;
        let gradients = clip(&self.policy.model, gradients, norm, largest);
        let rate = self.rate();
        // Taken out rather than cloned: what nothing else holds is updated in place.
        let empty = CausalLm::new(&self.policy.config, &self.policy.model.device());
        let model = std::mem::replace(&mut self.policy.model, empty);
        self.policy.model = self.optimizer.step(rate, model, gradients);
        failpoint("updated");
        updates.moved += 1;
        true
    }

    fn count_skipped(&mut self, updates: &mut Updates) {
        updates.skipped += 1;
        self.state.skipped_in_a_row += 1;
    }

    /// What it takes to look at a batch that could not be used, `log_probs` computed again.
    fn skipped(
        &self,
        batch: &MiniBatch<'_>,
        key: &SelectionKey,
    ) -> Result<SkippedBatch, TrainerError> {
        let log_probs = self.current_log_probs(&batch.parts)?;
        let (rows, columns) = (batch.experiences, &batch.columns);
        let size = self.config.rollout.group_size as u64;
        let problem = |row: &Experience| self.source.problem(row.row_key / size).id;
        Ok(SkippedBatch {
            step: key.step,
            mini_batch: key.mini_batch,
            objective: self.config.loss,
            entropy: self.config.entropy,
            problems: rows.iter().map(problem).collect(),
            sequences: batch.parts.sequences.clone(),
            response_len: batch.parts.response_len,
            log_probs,
            old_log_probs: columns.old_log_probs.clone(),
            ref_log_probs: columns.ref_log_probs.clone(),
            advantages: columns.advantages.clone(),
            weights: columns.weights.clone(),
            mask: columns.mask.clone(),
        })
    }

    /// Tells of an update that was not made, and ends the run where too many were not.
    fn tell_of_skipped(
        &self,
        batch: SkippedBatch,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainerError> {
        let (step, count) = (self.state.step, self.state.skipped_in_a_row);
        if count >= MOST_SKIPPED_IN_A_ROW {
            return Err(TrainerError::DivergedOn {
                step,
                count,
                batch: Box::new(batch),
                file: None,
            });
        }
        observer.on_event(Event::Warning(&format!(
            "step {step}: an update is skipped, its loss or gradient is not finite: {batch}"
        )));
        Ok(())
    }

    /// Figures of a step's updates; those of parts that the run does not have stay unmeasured.
    pub(crate) fn describe_updates(
        &self,
        experiences: &[Experience],
        updates: &Updates,
        metrics: &mut StepMetrics,
    ) {
        let count = updates.done as f64;
        metrics.updates = updates.done;
        metrics.skipped_updates = updates.skipped;
        metrics.entropy_change = updates
            .change
            .measured_nats(updates.moved)
            .unwrap_or(f64::NAN);
        metrics.entropy_change_lemma = updates.change.lemma_nats(updates.moved).unwrap_or(f64::NAN);
        if let Some(terms) = self.describe_theorems(experiences, updates.moved) {
            metrics.entropy_change_theorem_1 = terms.policy_gradient;
            metrics.entropy_change_theorem_2 = terms.natural_gradient;
        }
        metrics.policy_loss = updates.losses / count;
        metrics.grad_norm = updates.grad_norms / count;
        metrics.clip_fraction = updates.sums.clip_fraction();
        metrics.approx_kl = updates.sums.approx_kl();
        metrics.selected_tokens = updates.sums.selected as u64;
        metrics.selected_fraction = updates.sums.selected_fraction();
        if self.objective.needs_reference() {
            metrics.reference_kl = Some(updates.sums.mean_reference_kl());
        }
        if self.objective.entropy_control().ratio_clip.is_some() {
            metrics.held_fraction = Some(updates.sums.held_fraction());
        }
        if self.critic.is_some() {
            metrics.value_loss = Some(updates.value_losses / count);
            metrics.value_clip_fraction = Some(updates.value_clipped / count);
        }
        if self.objective.needs_current_log_probs() {
            let selection = &updates.selection;
            metrics.selected_from_minimum = Some(selection.from_minimum_of_one as u64);
            metrics.selection_occupancy = Some(selection.occupancy());
            metrics.selected_covariance_mean = selection.mean_covariance();
            metrics.selected_entropy_mean = selection.mean_entropy_nats();
            metrics.selected_probability_mean = selection.mean_probability();
        }
    }
}

impl Updates {
    /// Takes down what the covariance controller selected, if there is one.
    fn note(&mut self, batch: &MiniBatch<'_>, selections: &Selections) {
        let Some(selection) = &selections.covariance else {
            return;
        };
        self.selection += selection.stats;
        let rows = selection.mask.chunks(batch.parts.response_len);
        for (marks, row) in self.selected[batch.first_row..].iter_mut().zip(rows) {
            for (mark, &cell) in marks.iter_mut().zip(row) {
                *mark |= cell > 0.0;
            }
        }
    }
}

/// A mini-batch's micro-batches added up.
#[derive(Default)]
pub(crate) struct Total {
    pub(crate) gradients: GradientsAccumulator<CausalLm>,
    critic_gradients: GradientsAccumulator<CriticModel>,
    sums: LossSums,
    change: EntropyChange,
    loss: f64,
    value_loss: f64,
    value_clipped: f64,
}

/// A mini-batch's gradients, free of the losses' scale.
pub(crate) struct Unscaled {
    policy: GradientsParams,
    critic: GradientsParams,
    /// The policy's.
    norm: f64,
    critic_norm: f64,
}

/// A micro-batch's result.
struct Backward {
    gradients: GradientsParams,
    loss: f64,
    sums: LossSums,
    change: EntropyChange,
    value: Option<ValueBackward>,
}

/// The critic's loss over a micro-batch.
struct ValueTerms {
    loss: f32,
    clipped: f32,
    /// With its graph, as it is added to the policy's.
    weighted: Tensor<1>,
}

/// The critic's part of it.
struct ValueBackward {
    gradients: GradientsParams,
    loss: f64,
    clipped: f64,
}

/// A mini-batch and how it is cut into micro-batches.
struct MiniBatch<'a> {
    experiences: &'a [Experience],
    parts: MicroBatches,
    columns: Columns,
    row_keys: Vec<u64>,
    entropy_bonus: f64,
    /// Updates of the step that moved the policy before it.
    updates_before: u64,
    /// The place of its first row among the step's experiences.
    first_row: usize,
}

/// Experiences as matrices, row-major `[rows, response_len]`, 0 at padding.
struct Columns {
    mask: Vec<f32>,
    old_log_probs: Vec<f32>,
    old_entropies: Vec<f32>,
    old_entropies_at_temperature: Vec<f32>,
    advantages: Vec<f32>,
    ref_log_probs: Option<Vec<f32>>,
    weights: Option<Vec<f32>>,
    old_values: Option<Vec<f32>>,
    returns: Option<Vec<f32>>,
}

impl<'a> MiniBatch<'a> {
    fn new(experiences: &'a [Experience], budget: TokenBudget) -> Self {
        let sequences = experiences.iter().map(|row| row.sequence.clone());
        let parts = MicroBatches::new(sequences.collect(), budget);
        Self {
            experiences,
            columns: Columns::new(experiences, parts.response_len),
            parts,
            row_keys: experiences.iter().map(|row| row.row_key).collect(),
            entropy_bonus: 0.0,
            updates_before: 0,
            first_row: 0,
        }
    }

    /// The rows of a range out of a column.
    fn tensor(
        &self,
        column: &[f32],
        rows: &Range<usize>,
        device: &burn::tensor::Device,
    ) -> Tensor<2> {
        let cells = rows.start * self.parts.response_len..rows.end * self.parts.response_len;
        let shape = [rows.len(), self.parts.response_len];
        Tensor::from_data(TensorData::new(column[cells].to_vec(), shape), device)
    }
}

impl Columns {
    fn new(experiences: &[Experience], response_len: usize) -> Self {
        let column = |row: &dyn Fn(&Experience) -> Option<Vec<f32>>| {
            let mut cells = vec![0.0; experiences.len() * response_len];
            for (cells, experience) in cells.chunks_mut(response_len).zip(experiences) {
                let values = row(experience)?;
                cells[..values.len()].copy_from_slice(&values);
            }
            Some(cells)
        };
        let always = |row: fn(&Experience) -> &Vec<f32>| {
            column(&|experience| Some(row(experience).clone())).unwrap_or_default()
        };
        let has_values = experiences.iter().all(|row| row.old.values.is_some());
        Self {
            mask: column(&|row| {
                let cell = f32::from(u8::from(!row.is_masked));
                Some(vec![cell; row.old.log_probs.len()])
            })
            .unwrap_or_default(),
            old_log_probs: always(|row| &row.old.log_probs),
            old_entropies: always(|row| &row.old.entropies),
            old_entropies_at_temperature: always(|row| &row.old.entropies_at_temperature),
            advantages: always(|row| &row.advantages),
            ref_log_probs: column(&|row| row.old.ref_log_probs.clone()),
            weights: column(&|row| row.weights.clone()),
            old_values: column(&|row| row.old.values.clone()),
            returns: has_values.then(|| always(|row| &row.returns)),
        }
    }
}
