//! The loop: steps, validations and checkpoints, until the run is done.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use burn::{module::Module, optim::ModuleOptimizer, tensor::DType};
use entropy::LawPoint;
use losses::{BudgetLever, Estimator, LintContext, PolicyObjective};
use policy::{CausalLm, Compute, Execution, Packing, Policy};
use reward::Problem;
use rollout::SamplingParams;
use serde::{Deserialize, Serialize};

use crate::{
    AnswerKey, Answerer, CheckpointSection, Event, FilterBy, Group, GroupState, Observer,
    ProblemSource, PromptFormat, RunFolder, Schedule, Stages, StepMetrics, StepOutcome,
    TokenBudget, TrainConfig, TrainerError,
    checkpoint::{prune, read_state, sha256_of_file},
    config::check,
    critic::Critic,
    failpoint::failpoint,
    lora,
    loss_scale::LossScale,
    memory::{computing, prepare, row_length, tensor_dtype},
    optimizer::adamw,
    parallel::workers,
    stages::ESTIMATOR,
    stop::Stop,
};

/// All that a resume needs beside the weights and the optimizer. Random choices need no state: they are keyed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Steps done.
    pub step: u64,
    /// Problems drawn so far.
    pub cursor: u64,
    /// Groups sampled and not yet trained on.
    pub surplus: Vec<Group>,
    /// The coefficient of an adaptive entropy bonus.
    #[serde(default)]
    pub entropy_coef: f64,
    /// The logarithm of the lasting part of an entropy budget's strength.
    #[serde(default)]
    pub entropy_log_strength: f64,
    /// Steps in a row in which an entropy budget's lever was at its limit and entropy was missing.
    #[serde(default)]
    pub budget_exhausted_steps: u64,
    /// Entropy and performance of the steps so far.
    #[serde(default)]
    pub law: Vec<LawPoint>,
    /// Why the run ended before its last step, if it did.
    #[serde(default)]
    pub ended: Option<String>,
    /// Updates skipped in a row because their gradient was not finite.
    pub skipped_in_a_row: usize,
    /// Steps in a row in which no answer had a reward.
    #[serde(default)]
    pub(crate) rewardless_in_a_row: u64,
    /// The scale of losses computed in f16.
    #[serde(default)]
    pub(crate) loss_scale: LossScale,
    /// The step whose validation was the best so far.
    #[serde(default)]
    pub best: Option<Best>,
    /// The files of problems that the run trains and validates on.
    #[serde(default)]
    pub data: Vec<DataFile>,
    /// The fingerprint of the model that the run began with, where it is needed again: adapters are for it, or a reference is it.
    #[serde(default, alias = "base", skip_serializing_if = "Option::is_none")]
    pub(crate) start_fingerprint: Option<String>,
    /// Which stages are not the configuration's own ([`Stages`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) own_stages: Vec<String>,
    /// The last step's figures, where the run was stopped in its validation: they are written once that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<StepMetrics>,
}

/// Refuses a policy on a device without gradients: `device.autodiff()` is one with them.
fn check_tracks_gradients(policy: &Policy) -> Result<(), TrainerError> {
    check(
        "the policy's device",
        policy.model.device().is_autodiff(),
        "one that tracks gradients (device.autodiff())",
        "a plain one",
    )
}

/// Refuses a policy that cannot be trained or asked.
pub(crate) fn check_policy(policy: &Policy) -> Result<(), TrainerError> {
    policy.require_tokenizer()?;
    check(
        "the policy's weights",
        policy.model.dtype() == DType::F32,
        "loaded as f32, which is what they are trained in",
        policy.model.dtype().name(),
    )?;
    check_tracks_gradients(policy)
}

/// Refuses a filter that no group would pass.
fn check_filter(config: &TrainConfig, source: &ProblemSource) -> Result<(), TrainerError> {
    if config.rollout.filter_by != FilterBy::Correct || source.reward().judges_correctness() {
        return Ok(());
    }
    let message = "rollout.filter_by = \"correct\" with a reward that does not judge whether answers are right: no group \
                   would be kept; add a part of type verifier, or leave it out"
        .into();
    Err(TrainerError::Config { message })
}

/// The best validation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// After which step.
    pub step: u64,
    /// Share of the held-out problems answered right.
    pub accuracy: f64,
}

/// A file of problems as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    key: String,
    path: PathBuf,
    sha256: String,
}

impl DataFile {
    /// Those that a configuration names.
    fn of(config: &TrainConfig) -> Result<Vec<Self>, TrainerError> {
        let files = [
            ("data.train", &config.data.train),
            ("data.validation", &config.data.validation),
        ];
        let named = files
            .into_iter()
            .filter_map(|(key, path)| Some((key, path.as_ref()?)));
        named
            .map(|(key, path)| {
                Ok(Self {
                    key: key.into(),
                    path: path.clone(),
                    sha256: sha256_of_file(path)?,
                })
            })
            .collect()
    }
}

impl RunState {
    /// The state that a checkpoint holds.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn load(checkpoint: &Path) -> Result<Self, TrainerError> {
        read_state(checkpoint)
    }

    /// Refuses files that bear the names that they had and hold something else, and takes down those of other names.
    pub(crate) fn check_data(&mut self, config: &TrainConfig) -> Result<(), TrainerError> {
        let now = DataFile::of(config)?;
        let has_changed = |file: &&DataFile| {
            let same = |known: &&DataFile| known.key == file.key && known.path == file.path;
            let known = self.data.iter().find(same);
            known.is_some_and(|known| known.sha256 != file.sha256)
        };
        if let Some(DataFile { key, path, .. }) = now.iter().find(has_changed).cloned() {
            return Err(TrainerError::DataChanged { key, path });
        }
        self.data = now;
        Ok(())
    }

    /// Notes a validation; says whether it is the best so far.
    fn note_accuracy(&mut self, accuracy: Option<f64>) -> bool {
        let Some(accuracy) = accuracy else {
            return false;
        };
        let is_best = self.best.is_none_or(|best| accuracy > best.accuracy);
        if is_best {
            let step = self.step;
            self.best = Some(Best { step, accuracy });
        }
        is_best
    }

    /// Mean entropy of the last few steps; `None` before the first.
    pub(crate) fn recent_entropy(&self) -> Option<f64> {
        const STEPS: usize = 5;
        let recent = &self.law[self.law.len().saturating_sub(STEPS)..];
        let sum: f64 = recent.iter().map(|point| point.entropy).sum();
        (!recent.is_empty()).then(|| sum / recent.len() as f64)
    }
}

/// Steps at the limit of its lever after which an entropy budget is told of.
const EXHAUSTED_STEPS: u64 = 5;

/// A run: a policy, its problems and objective, and where it stands.
pub struct Trainer {
    pub(crate) config: TrainConfig,
    pub(crate) policy: Policy,
    /// The type that the model computes in; its weights are f32.
    pub(crate) dtype: DType,
    pub(crate) source: ProblemSource,
    pub(crate) objective: PolicyObjective,
    pub(crate) estimator: Arc<dyn Estimator>,
    /// The policy that the run starts from, where the objective keeps near to it.
    pub(crate) reference: Option<CausalLm>,
    pub(crate) critic: Option<Critic>,
    pub(crate) optimizer: ModuleOptimizer,
    pub(crate) sampling: SamplingParams,
    pub(crate) state: RunState,
    pub(crate) workers: usize,
    pub(crate) stop: Stop,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Trainer(step {} of {}, {:?})",
            self.state.step, self.config.steps, self.source
        )
    }
}

impl Trainer {
    /// Joins the stages that the configuration names. The policy's weights must be f32, whatever type `model.dtype` has it compute in, and its
    /// device must track gradients (`device.autodiff()`).
    ///
    /// # Errors
    /// A setting out of range, a policy without a tokenizer, with adapters or of another type, or problems that cannot be read or do
    /// not fit the policy's vocabulary and context.
    pub fn new(config: TrainConfig, policy: Policy) -> Result<Self, TrainerError> {
        Self::compose(config, policy, Stages::default())
    }

    /// The same with stages of one's own. A run's checkpoints know which they are, and go on with as many alone; what the folder keeps of the
    /// configuration does not tell of them. An aggregation or a filter that is the default of the named loss or estimator counts as not
    /// chosen: then it is the default of the one in its place.
    ///
    /// # Errors
    /// As [`Trainer::new`], and a part whose settings are out of range or that does not go with the configuration.
    pub fn compose(
        config: TrainConfig,
        policy: Policy,
        stages: Stages,
    ) -> Result<Self, TrainerError> {
        let own_stages = stages.names();
        let Stages {
            task,
            reward,
            loss,
            estimator,
        } = stages;
        let config = config.with_defaults_of(loss.as_deref(), estimator.as_deref());
        let estimator = estimator.unwrap_or_else(|| Arc::new(config.advantage));
        let named = config.loss.loss;
        let used = loss.as_deref().unwrap_or(named.policy_loss());
        config.validate_for(used, estimator.as_ref())?;
        let mut source = ProblemSource::with_parts(&config, task, reward)?;
        check_filter(&config, &source)?;
        check_policy(&policy)?;
        if config.data.drop_overlong {
            source.drop_overlong(&policy, &config)?;
        }
        let length = row_length(&policy.config, config.rollout.max_new_tokens);
        let tokens = TokenBudget::new(
            config.update.max_tokens,
            &policy.model,
            &policy.config,
            tensor_dtype(&policy.model, config.model.dtype),
            (length, 0),
        )
        .tokens;
        // Its tensors are those of the policy, not copies.
        let start = policy.model.clone();
        let policy = lora::attach(policy, config.lora.as_ref(), config.seed)?;
        let (policy, dtype) = prepare(policy, config.model.dtype, config.update.memory, tokens);
        let policy = lora::hold_frozen(policy, dtype);
        let start = start.with_execution(policy.model.execution());
        TrainConfig::check_dtype("model.dtype", &policy.model.device(), dtype)?;
        TrainConfig::check_rollout_dtype(
            "rollout.dtype",
            config.rollout.dtype,
            policy.model.is_fused(),
        )?;
        let mut sampling = config.sampling();
        sampling.stop_token_ids = policy.end_token_ids();
        let objective = match loss {
            Some(loss) => PolicyObjective::with_loss(config.loss, config.entropy, loss)?,
            None => PolicyObjective::new(config.loss, config.entropy)?,
        };
        let needs_critic = estimator.needs_values();
        let workers = workers(policy.config.parameters(), &policy.model.device());
        let critic = needs_critic.then(|| Critic::new(&config.critic, &config.optimizer, &start));
        let needs_start = config.lora.is_some() || objective.needs_reference();
        let state = RunState {
            start_fingerprint: needs_start.then(|| start.fingerprint()),
            own_stages,
            ..RunState::default()
        };
        let trainer = Self {
            reference: objective
                .needs_reference()
                .then(|| policy.model.valid().without_adapters().cast(dtype)),
            dtype,
            objective,
            estimator,
            critic,
            optimizer: adamw(&config.optimizer),
            workers,
            policy,
            source,
            sampling,
            state,
            config,
            stop: Stop::default(),
        };
        trainer.check_prompts()?;
        Ok(trainer)
    }

    /// Finds a problem that no step could use before the first step is paid for.
    fn check_prompts(&self) -> Result<(), TrainerError> {
        let check = |answerer: Answerer<'_>, problems: &[Problem]| {
            let mut prompts = problems.iter().map(|problem| answerer.prompt(problem));
            prompts.try_for_each(|prompt| prompt.map(drop))
        };
        // Nothing is computed: the policy as it is will do.
        let model = || self.policy.model.clone();
        check(
            self.answerer_with(model(), &self.sampling)?,
            &self.source.examples(),
        )?;
        check(
            self.validator_with(model(), &self.sampling)?,
            self.source.validation(),
        )
    }

    /// Has the run stop soon after the flag is raised, with the last whole step saved: at once where no update of a step has
    /// been made yet, else at the step's end, or from the last checkpoint where that would take too long.
    pub fn stop_when(&mut self, flag: Arc<AtomicBool>) {
        self.stop.request_by(flag);
    }

    /// Goes on with a run that ended itself.
    pub fn go_on(&mut self) {
        self.state.ended = None;
    }

    /// The policy as it computes, without gradients.
    pub(crate) fn computing_model(&self) -> CausalLm {
        computing(&self.policy.model, self.dtype)
    }

    /// The policy as it generates: as it computes, or rounded as the configuration has it.
    pub(crate) fn sampling_model(&self) -> CausalLm {
        let model = self.computing_model();
        let execution = Execution {
            generation: self.config.rollout.dtype.map(Into::into),
            ..model.execution()
        };
        model.with_execution(execution)
    }

    /// Whether generation rounds its weights where training does not, so that the two give other log-probabilities.
    pub(crate) fn samples_rounded(&self) -> bool {
        let model = &self.policy.model;
        let training = Packing::from(model.execution().compute);
        model.is_fused() && self.packing() != training
    }

    /// What generation on the CPU rounds to.
    fn packing(&self) -> Packing {
        let training = self.policy.model.execution().compute;
        let generation = self.config.rollout.dtype.map(Packing::from);
        generation.unwrap_or_else(|| training.into())
    }

    /// The present step's learning rate.
    pub(crate) fn rate(&self) -> f64 {
        self.config
            .optimizer
            .rate(self.state.step, self.config.steps)
    }

    /// The policy as it is now.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Where the run stands.
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// The configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Runs to the configured number of steps and leaves metrics, rollouts and checkpoints in the folder.
    ///
    /// # Errors
    /// A stage's error; what was written before it stays. [`TrainerError::Stopped`] where it was asked to.
    pub fn run(
        &mut self,
        folder: &mut RunFolder,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainerError> {
        for warning in self.warnings() {
            observer.on_event(Event::Warning(&warning));
        }
        self.source.stop_when(self.stop.check());
        let mut saved = self.state.step;
        match self.run_steps(folder, &mut saved, observer) {
            Err(error) if error.is_stop() => Err(self.leave(folder, saved, observer)?),
            Err(error @ TrainerError::NoReward { .. }) => {
                // What was learnt before the rewards were gone is not lost with them.
                self.leave(folder, saved, observer)?;
                Err(error)
            }
            Err(TrainerError::DivergedOn {
                step, count, batch, ..
            }) => Err(TrainerError::DivergedOn {
                file: Some(folder.keep_batch(&batch)?),
                step,
                count,
                batch,
            }),
            outcome => outcome,
        }
    }

    /// The loop itself; `saved` is the last step that a checkpoint holds.
    fn run_steps(
        &mut self,
        folder: &mut RunFolder,
        saved: &mut u64,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainerError> {
        if self.state.step == 0 {
            self.state.check_data(&self.config)?;
            let metrics = StepMetrics {
                validation_accuracy: self.validate(observer)?,
                ..StepMetrics::default()
            };
            folder.append(&metrics)?;
            observer.on_event(Event::Step(&metrics));
        }
        self.finish_pending(folder, observer)?;
        let mut saved_at = Instant::now();
        let longest = self.config.checkpoint.minutes * 60.0;
        while self.state.step < self.config.steps && self.state.ended.is_none() {
            self.stop.obey()?;
            let before = self.state.clone();
            let outcome = self.whole_step(folder, observer);
            if outcome.is_err() && !self.stop.is_mid_step() {
                self.state = before;
            }
            let is_best = outcome?;
            self.stop.set_mid_step(false);
            let keeps = self.config.checkpoint.keep_best && is_best;
            let is_late = longest > 0.0 && saved_at.elapsed().as_secs_f64() >= longest;
            if keeps || is_late || self.is_due(self.config.checkpoint.every) {
                self.save(folder, observer)?;
                *saved = self.state.step;
                saved_at = Instant::now();
            }
        }
        Ok(())
    }

    /// A step with its validation, written down; says whether that was the best so far.
    fn whole_step(
        &mut self,
        folder: &mut RunFolder,
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainerError> {
        let StepOutcome {
            metrics,
            trained,
            figures,
            left_out,
            carried,
        } = self.step(observer)?;
        failpoint("step-done");
        self.watch_entropy(&metrics, observer);
        if self.config.checkpoint.rollouts {
            let groups = [
                (GroupState::Trained, &trained[..]),
                (GroupState::Carried, &carried),
                (GroupState::LeftOut, &left_out),
            ];
            folder.write_rollouts(self.state.step, &groups, figures)?;
        }
        self.state.pending = Some(metrics);
        self.finish_step(folder, observer)
    }

    /// Validates where that is due and writes the last step's figures down; says whether the validation was the best so far. A run that is
    /// asked to stop meanwhile keeps them, as the step itself is whole.
    fn finish_step(
        &mut self,
        folder: &mut RunFolder,
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainerError> {
        let Some(mut metrics) = self.state.pending.clone() else {
            return Ok(false);
        };
        let mut is_best = false;
        if self.is_due(self.config.validation.every) {
            // The weights are those of a whole step: nothing is lost by stopping at once.
            self.stop.set_mid_step(false);
            let validated = self.validate(observer);
            self.stop.set_mid_step(true);
            // What is over needs its last validation: such a run would not be gone on with.
            let is_over = self.state.step >= self.config.steps || self.state.ended.is_some();
            match validated {
                Err(error) if error.is_stop() && !is_over => return Ok(false),
                accuracy => metrics.validation_accuracy = accuracy?,
            }
            is_best = self.state.note_accuracy(metrics.validation_accuracy);
            failpoint("validated");
        }
        self.state.pending = None;
        folder.append(&metrics)?;
        observer.on_event(Event::Step(&metrics));
        Ok(is_best)
    }

    /// What a run that was stopped in a validation has left to do.
    fn finish_pending(
        &mut self,
        folder: &mut RunFolder,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainerError> {
        let Some(pending) = &self.state.pending else {
            return Ok(());
        };
        let step = pending.step;
        // A run that went on and was killed before its next checkpoint has written the line.
        if let Some(written) = folder.metrics()?.pop().filter(|line| line.step == step) {
            self.state.note_accuracy(written.validation_accuracy);
            self.state.pending = None;
            return Ok(());
        }
        let is_best = self.finish_step(folder, observer)?;
        self.stop.set_mid_step(false);
        self.stop.obey()?;
        if is_best && self.config.checkpoint.keep_best {
            self.save(folder, observer)?;
        }
        Ok(())
    }

    /// Writes a checkpoint, and then removes those that are not to be kept.
    fn save(
        &self,
        folder: &mut RunFolder,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainerError> {
        let CheckpointSection {
            keep, keep_best, ..
        } = self.config.checkpoint;
        folder.sync()?;
        let path = folder.checkpoint(self.state.step);
        self.save_checkpoint(&path)?;
        let best = self.state.best.filter(|_| keep_best);
        prune(folder.path(), keep, best.map(|best| best.step))?;
        observer.on_event(Event::Checkpoint(&path));
        Ok(())
    }

    /// Ends a run that was asked to stop: what is not saved yet is, unless it is the middle of a step.
    fn leave(
        &self,
        folder: &mut RunFolder,
        saved: u64,
        observer: &mut dyn Observer,
    ) -> Result<TrainerError, TrainerError> {
        let step = self.state.step;
        if self.stop.is_mid_step() || step == saved {
            return Ok(TrainerError::Stopped { step: saved });
        }
        self.save(folder, observer)?;
        Ok(TrainerError::Stopped { step })
    }

    /// Settings that are valid and yet probably not meant, a line each: what a run says when it begins.
    pub fn warnings(&self) -> Vec<String> {
        let mut own_stages = self.state.own_stages.iter();
        let has_own_estimator = own_stages.any(|stage| stage == ESTIMATOR);
        let context = LintContext {
            updates_per_rollout: self.config.updates_per_rollout(),
            advantage: (!has_own_estimator).then_some(&self.config.advantage),
            group_size: self.config.rollout.group_size,
        };
        let mut warnings = self.objective.warnings(&context);
        let of_update = self.config.update.mini_batch_prompts;
        let of_step = self.config.rollout.prompts_per_step;
        if of_update > of_step {
            warnings.push(format!(
                "update.mini_batch_prompts = {of_update} is more than rollout.prompts_per_step = {of_step}: a step makes one update"
            ));
        }
        let overlong = self.source.overlong();
        if overlong > 0 {
            warnings.push(format!(
                "data.drop_overlong: {overlong} problems are left out, whose prompts leave no room for rollout.max_new_tokens = {}",
                self.config.rollout.max_new_tokens
            ));
        }
        if self.config.rollout.filter_by != FilterBy::default() && !self.config.filters_groups() {
            warnings.push(
                "rollout.filter_by does nothing without rollout.filter_groups = true".to_owned(),
            );
        }
        let optimizer = &self.config.optimizer;
        if optimizer.final_ratio > 0.0 && optimizer.schedule == Schedule::Constant {
            warnings.push(
                "optimizer.final_ratio does nothing without optimizer.schedule: the rate stays"
                    .to_owned(),
            );
        }
        if self.config.lora.is_some() && self.has_critic_trunk() {
            warnings.push(
                "lora beside critic.trunk = \"own\": the critic trains all weights of a model of its own; with \
                 critic.trunk = \"policy\" it reads the policy's"
                    .to_owned(),
            );
        }
        let computes_bf16 = self.policy.model.execution().compute == Compute::Bf16;
        if (computes_bf16 || self.packing() == Packing::Bf16)
            && kernels::level() < kernels::Level::Avx512Bf16
        {
            warnings.push(
                "this CPU has no instructions for bf16 (AVX512-BF16 or AMX): products are no faster than in f32, and \
                 take half the memory alone"
                    .to_owned(),
            );
        }
        if self.packing() == Packing::Int8 && kernels::int8_level() < kernels::Int8Level::Avx512Vnni
        {
            warnings.push(
                "this CPU has no instructions for eight-bit products that are used here (AMX or AVX512-VNNI): generation \
                 takes less memory, and is hardly faster than in f32, if at all"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Warns where entropy goes wrong, and ends the run where the configuration asks for it.
    fn watch_entropy(&mut self, metrics: &StepMetrics, observer: &mut dyn Observer) {
        let Some(point) = metrics.law_point() else {
            return;
        };
        let step = self.state.step;
        if self.state.budget_exhausted_steps == EXHAUSTED_STEPS {
            observer.on_event(Event::Warning(&format!(
                "step {step}: entropy.budget's lever has been at its limit for {EXHAUSTED_STEPS} steps, and entropy is \
                 {:.4} nats, below its target: this lever cannot hold it; raise {}",
                point.entropy,
                self.budget_advice()
            )));
        }
        let target = self.objective.entropy_control().budget;
        let target = target.map(|budget| budget.target(step));
        if let Some(verdict) = self.config.monitor.judge(&self.state.law, target) {
            let end = if verdict.ends_run {
                "; the run ends here"
            } else {
                ""
            };
            observer.on_event(Event::Warning(&format!(
                "step {step}: {}{end}",
                verdict.text
            )));
            self.state.ended = verdict.ends_run.then_some(verdict.text);
        }
    }

    /// What gives an entropy budget more hold.
    fn budget_advice(&self) -> &'static str {
        let budget = self.objective.entropy_control().budget;
        match budget.map(|budget| budget.lever) {
            Some(BudgetLever::Bonus) => "entropy.budget.bonus_coef or max_strength",
            _ => "entropy.budget.max_strength, or steer entropy.budget.lever = bonus",
        }
    }

    /// Whether something done every `every` steps is due now; always after the last one.
    fn is_due(&self, every: u64) -> bool {
        let step = self.state.step;
        self.state.ended.is_some()
            || step >= self.config.steps
            || (every > 0 && step.is_multiple_of(every))
    }

    /// Share of the validation problems answered right; `None` where there are none.
    ///
    /// # Errors
    /// As generation.
    pub fn validate(&self, observer: &mut dyn Observer) -> Result<Option<f64>, TrainerError> {
        let problems = self.source.validation();
        if problems.is_empty() {
            return Ok(None);
        }
        let params = SamplingParams {
            temperature: self.config.validation.temperature,
            ..self.sampling.clone()
        };
        let groups = self.answer_once(&self.validator(&params)?, problems.to_vec(), observer)?;
        let correct = groups
            .iter()
            .filter(|group| group.samples[0].score.correct)
            .count();
        Ok(Some(correct as f64 / groups.len() as f64))
    }

    /// A greedy answer to each problem.
    pub(crate) fn answer_greedily(
        &self,
        problems: Vec<Problem>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Group>, TrainerError> {
        let params = SamplingParams {
            temperature: 0.0,
            ..self.sampling.clone()
        };
        self.answer_once(&self.answerer(&params)?, problems, observer)
    }

    fn answer_once(
        &self,
        answerer: &Answerer<'_>,
        problems: Vec<Problem>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Group>, TrainerError> {
        let step = self.state.step;
        // Step 0 sets these draws apart from training's, whose steps count from 1.
        let key = AnswerKey {
            seed: self.config.seed,
            step: 0,
            first_row: 0,
        };
        answerer.answer(problems, 1, key, &mut |progress| {
            observer.on_event(Event::Validating { step, progress });
        })
    }

    /// What answers problems to train on.
    pub(crate) fn answerer<'a>(
        &'a self,
        params: &'a SamplingParams,
    ) -> Result<Answerer<'a>, TrainerError> {
        self.answerer_with(self.sampling_model(), params)
    }

    fn answerer_with<'a>(
        &'a self,
        model: CausalLm,
        params: &'a SamplingParams,
    ) -> Result<Answerer<'a>, TrainerError> {
        Ok(Answerer {
            policy: &self.policy,
            model,
            format: PromptFormat::new(&self.policy, &self.config.data, self.source.is_task())?,
            reward: self.source.reward(),
            params,
            batch_rows: self.config.rollout.batch_rows,
            is_stopped: &**self.stop.check(),
        })
    }

    /// What answers held-out problems.
    fn validator<'a>(&'a self, params: &'a SamplingParams) -> Result<Answerer<'a>, TrainerError> {
        // What is measured is the policy that is trained, not its rounding for generation.
        self.validator_with(self.computing_model(), params)
    }

    fn validator_with<'a>(
        &'a self,
        model: CausalLm,
        params: &'a SamplingParams,
    ) -> Result<Answerer<'a>, TrainerError> {
        let is_task = self.source.validates_task();
        Ok(Answerer {
            format: PromptFormat::new(&self.policy, &self.config.data, is_task)?,
            reward: self.source.validation_reward(),
            ..self.answerer_with(model, params)?
        })
    }
}
