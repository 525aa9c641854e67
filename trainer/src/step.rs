//! One training step: sample, score, filter, measure, update.

use std::time::Instant;

use crate::{
    AnswerKey, Event, Group, Observer, ResponseFigures, StepMetrics, Trainer, TrainerError,
    describe::Described,
};

/// What a step did.
#[derive(Debug, Clone)]
pub struct StepOutcome {
    /// Its figures.
    pub metrics: StepMetrics,
    /// The groups that it trained on.
    pub trained: Vec<Group>,
    /// Figures of each of their tokens, where `measurement.tokens` asks for them.
    pub figures: Vec<ResponseFigures>,
    /// The groups that it sampled and left out: their rewards were all equal, a figure of theirs was not finite, or
    /// they were more than this step and the next can use.
    pub left_out: Vec<Group>,
    /// The groups that it sampled and keeps for the next step.
    pub carried: Vec<Group>,
}

/// What sampling gave: groups to train on, and figures of all that was sampled.
#[derive(Default)]
pub(crate) struct Sampling {
    pub(crate) groups: Vec<Group>,
    left_out: Vec<Group>,
    pub(crate) groups_sampled: usize,
    pub(crate) groups_dropped: usize,
    pub(crate) responses: usize,
    pub(crate) rewards: Vec<f64>,
    pub(crate) rewards_missing: usize,
    pub(crate) undecided: usize,
    pub(crate) correct: usize,
    pub(crate) tokens: u64,
    pub(crate) truncated: usize,
}

impl Trainer {
    /// Runs one step.
    ///
    /// # Errors
    /// A stage's error, or too many gradients in a row that are not finite.
    pub fn step(&mut self, observer: &mut dyn Observer) -> Result<StepOutcome, TrainerError> {
        let started = Instant::now();
        self.state.step += 1;
        let sampling = self.sample_groups(observer)?;
        self.learn(sampling, started, observer)
    }

    /// The part of a step after sampling, which `started` began.
    pub(crate) fn learn(
        &mut self,
        mut sampling: Sampling,
        started: Instant,
        observer: &mut dyn Observer,
    ) -> Result<StepOutcome, TrainerError> {
        let generated = started.elapsed();
        let (mut measured, first_pass) = self.measure(&sampling.groups)?;
        let broken = self.drop_broken(&mut sampling.groups, &mut measured, observer);
        sampling.groups_dropped += broken.len();
        sampling.left_out.extend(broken);
        let (greedy_rewards, missing) =
            self.greedy_rewards(&mut sampling.groups, &mut measured, observer)?;
        sampling.groups_dropped += missing.len();
        sampling.left_out.extend(missing);
        let experiences =
            self.experiences(&sampling.groups, measured, greedy_rewards.as_deref())?;
        let Described {
            mut metrics,
            covariances,
        } = self.describe(&sampling, &experiences);
        let entropy_bonus = self.control_entropy(&mut metrics);
        let updates = self.update(&experiences, first_pass, entropy_bonus, observer)?;
        self.describe_updates(&experiences, &updates, &mut metrics);
        let figures = if self.config.measurement.tokens {
            ResponseFigures::of(&experiences, &covariances, &updates.selected)
        } else {
            Vec::new()
        };
        metrics.generate_seconds = generated.as_secs_f64();
        metrics.step_seconds = started.elapsed().as_secs_f64();
        metrics.update_seconds = metrics.step_seconds - metrics.generate_seconds;
        Ok(StepOutcome {
            metrics,
            trained: sampling.groups,
            figures,
            left_out: sampling.left_out,
            carried: self.state.surplus.clone(),
        })
    }

    /// Samples until enough groups tell right from wrong, or no more rounds are allowed.
    fn sample_groups(&mut self, observer: &mut dyn Observer) -> Result<Sampling, TrainerError> {
        let wanted = self.config.rollout.prompts_per_step;
        let mut sampling = Sampling {
            groups: std::mem::take(&mut self.state.surplus),
            ..Sampling::default()
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
    pub(crate) fn sample_round(
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

    /// Moves what holds entropy by the step's entropy, and gives the factor of the step's entropy bonus.
    fn control_entropy(&mut self, metrics: &mut StepMetrics) -> f64 {
        let entropy_nats = metrics.entropy_token_mean;
        // A step that kept no group measured nothing to move it by.
        if entropy_nats.is_nan() {
            return 0.0;
        }
        let state = &mut self.state;
        if let Some(budget) = self.objective.entropy_control().budget {
            let recent = state.recent_entropy();
            let (log_strength, strength) =
                budget.steer(state.entropy_log_strength, entropy_nats, recent, state.step);
            state.entropy_log_strength = log_strength;
            state.budget_exhausted_steps =
                if budget.is_exhausted(strength, entropy_nats, state.step) {
                    state.budget_exhausted_steps + 1
                } else {
                    0
                };
            self.objective.set_strength(strength);
            metrics.entropy_target = Some(budget.target(state.step));
            metrics.entropy_strength = Some(strength);
        }
        state.entropy_coef = self
            .objective
            .next_entropy_coef(state.entropy_coef, entropy_nats);
        let bonus = self
            .objective
            .entropy_bonus(state.entropy_coef, entropy_nats);
        if self.objective.entropy_control().needs_entropy_gradient() {
            metrics.entropy_bonus = Some(bonus);
        }
        bonus
    }
}

impl Sampling {
    /// Counts what was sampled, keeps what can be trained on, and names the problems with a reward that is not finite.
    pub(crate) fn take(&mut self, groups: Vec<Group>, filter: bool) -> Vec<String> {
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
