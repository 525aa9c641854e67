//! One training step: sample, score, filter, measure, update.

use std::{collections::BTreeMap, time::Instant};

use crate::{
    AnswerKey, Event, FilterBy, Group, Observer, ResponseFigures, StepMetrics, Trainer,
    TrainerError, describe::Described,
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
    /// The groups that it sampled and left out: its responses did not differ, a figure of theirs was not finite, or
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
    pub(crate) groups_all_right: usize,
    pub(crate) groups_all_wrong: usize,
    pub(crate) responses: usize,
    pub(crate) rewards: Vec<f64>,
    pub(crate) rewards_missing: usize,
    pub(crate) undecided: usize,
    pub(crate) correct: usize,
    pub(crate) tokens: u64,
    pub(crate) truncated: usize,
    /// By the rewards' parts.
    pub(crate) parts: BTreeMap<String, MeanOf>,
    /// Whether answers are right, by the problems' sources.
    pub(crate) right_by_source: BTreeMap<String, MeanOf>,
}

/// A mean as it is added up, in order.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MeanOf {
    sum: f64,
    count: u64,
}

impl MeanOf {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    pub(crate) fn mean(self) -> f64 {
        self.sum / self.count as f64
    }
}

impl Trainer {
    /// Runs one step.
    ///
    /// # Errors
    /// A stage's error, or too many gradients in a row that are not finite.
    pub fn step(&mut self, observer: &mut dyn Observer) -> Result<StepOutcome, TrainerError> {
        let started = Instant::now();
        // The weights are those of the last step: until the first update, a request to stop is obeyed at once.
        self.stop.set_mid_step(false);
        self.state.step += 1;
        let sampling = self.sample_groups(observer)?;
        let outcome = self.learn(sampling, started, observer)?;
        self.state.law.extend(outcome.metrics.law_point());
        Ok(outcome)
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
        let by = self.config.rollout.filter_by;
        let filter = self.config.filters_groups().then_some(by);
        for _ in 0..self.config.rollout.max_sampling_rounds {
            if sampling.groups.len() >= wanted {
                break;
            }
            let missing = (wanted - sampling.groups.len()) as f64;
            let count = (missing * self.config.rollout.oversampling).ceil() as usize;
            let groups = self.sample_round(count, observer)?;
            let broken = sampling.take(groups, filter);
            self.tell_of_rewardless(&broken, observer);
        }
        self.demand_rewards(&sampling)?;
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

    /// One line, whatever the number: a program that ended leaves every problem without a reward.
    fn tell_of_rewardless(&self, broken: &[Rewardless], observer: &mut dyn Observer) {
        let Some(first) = broken.first() else {
            return;
        };
        let (step, id, reason) = (self.state.step, &first.problem, &first.reason);
        let are = match broken.len() {
            1 => format!("problem '{id}' is"),
            count => format!("{count} problems, '{id}' the first, are"),
        };
        let text =
            format!("step {step}: {are} left out: a reward is missing or not finite ({reason})");
        observer.on_event(Event::Warning(&text));
    }

    /// Ends a run whose answers had no reward for some steps, or that would end without ever having seen one.
    fn demand_rewards(&mut self, sampling: &Sampling) -> Result<(), TrainerError> {
        /// One step's may be lost to a server that starts again.
        const MOST_IN_A_ROW: u64 = 3;
        if !sampling.rewards.is_empty() || sampling.responses == 0 {
            self.state.rewardless_in_a_row = 0;
            return Ok(());
        }
        self.state.rewardless_in_a_row += 1;
        let (step, count) = (self.state.step, self.state.rewardless_in_a_row);
        let never = step == self.config.steps && count == step;
        if count < MOST_IN_A_ROW && !never {
            return Ok(());
        }
        let reason = sampling.left_out.iter().find_map(Rewardless::of);
        Err(TrainerError::NoReward {
            step,
            responses: sampling.responses,
            reason: reason.map_or_else(String::new, |broken| broken.reason),
            count,
        })
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

/// A problem of which an answer has no reward.
pub(crate) struct Rewardless {
    problem: String,
    /// What scored it says so.
    reason: String,
}

impl Rewardless {
    fn of(group: &Group) -> Option<Self> {
        let mut scores = group.samples.iter().map(|sample| &sample.score);
        let score = scores.find(|score| score.finite_reward().is_none())?;
        Some(Self {
            problem: group.problem.id.clone(),
            reason: score.reason.to_string(),
        })
    }
}

impl Sampling {
    /// Counts what was sampled, keeps what can be trained on, and names the problems with a reward that is not finite.
    pub(crate) fn take(&mut self, groups: Vec<Group>, filter: Option<FilterBy>) -> Vec<Rewardless> {
        self.groups_sampled += groups.len();
        let mut broken = Vec::new();
        for group in groups {
            let right = group.samples.iter().filter(|sample| sample.score.correct);
            let right = right.count();
            self.groups_all_right += usize::from(right == group.samples.len());
            self.groups_all_wrong += usize::from(right == 0);
            let source = group.problem.source.clone();
            let of_source = self.right_by_source.entry(source).or_default();
            for sample in &group.samples {
                self.responses += 1;
                let reward = sample.score.finite_reward();
                self.rewards_missing += usize::from(reward.is_none());
                self.rewards.extend(reward);
                self.undecided += usize::from(sample.score.undecided);
                self.correct += usize::from(sample.score.correct);
                of_source.add(f64::from(u8::from(sample.score.correct)));
                let parts = sample.score.parts.iter();
                for (name, &reward) in parts.filter(|(_, reward)| reward.is_finite()) {
                    self.parts.entry(name.clone()).or_default().add(reward);
                }
                self.tokens += sample.rollout.response_ids.len() as u64;
                self.truncated += usize::from(sample.rollout.finish.is_truncated());
            }
            if let Some(rewardless) = Rewardless::of(&group) {
                broken.push(rewardless);
                self.left_out.push(group);
            } else if filter.is_none_or(|by| group.differs_by(by)) {
                self.groups.push(group);
            } else {
                self.left_out.push(group);
            }
        }
        self.groups_dropped += broken.len();
        broken
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    };

    use reward::{Problem, Score};

    use super::*;
    use crate::{
        RunFolder, RunLock, Stages, TrainConfig, list_checkpoints, newest_checkpoint, tiny,
    };

    #[test]
    fn groups_are_filtered_where_the_advantage_compares_them() {
        let filters = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|&setting| setting.into()).collect();
            TrainConfig::load(None, &settings).unwrap().filters_groups()
        };
        for advantage in ["gae", "reinforce_plus_plus", "remax"] {
            let advantage = format!("advantage.type={advantage}");
            assert!(!filters(&[&advantage]), "{advantage}");
            assert!(filters(&[&advantage, "rollout.filter_groups=true"]));
        }
        for advantage in ["grpo", "reinforce_plus_plus_baseline", "pass_at_k"] {
            let advantage = format!("advantage.type={advantage}");
            assert!(filters(&[&advantage]), "{advantage}");
            assert!(!filters(&[&advantage, "rollout.filter_groups=false"]));
        }
    }

    #[test]
    fn a_filter_looks_at_rewards_or_at_what_is_right() {
        let mut trainer = Trainer::new(tiny::config(&[]), tiny::policy()).unwrap();
        let groups = trainer.sample_round(1, &mut |_: Event<'_>| ()).unwrap();
        // Right alike, rewarded by length; rewarded alike, one right; and both.
        for (rewards, correct, kept) in [
            ([1.0, 0.9], [true, true], [true, false]),
            ([1.0, 1.0], [true, false], [false, true]),
            ([1.0, 0.0], [true, false], [true, true]),
            ([1.0, 1.0], [true, true], [false, false]),
            ([0.0, 0.1], [false, false], [true, false]),
        ] {
            let mut group = groups[0].clone();
            group.samples.truncate(2);
            for (index, sample) in group.samples.iter_mut().enumerate() {
                sample.score = Score {
                    reward: Some(rewards[index]),
                    ..Score::binary(correct[index], None, "made_up")
                };
            }
            for (by, kept) in [FilterBy::Reward, FilterBy::Correct].into_iter().zip(kept) {
                let mut sampling = Sampling::default();
                sampling.take(vec![group.clone()], Some(by));
                let alike = correct[0] == correct[1];
                assert_eq!(sampling.groups_all_right, usize::from(alike && correct[0]));
                assert_eq!(sampling.groups_all_wrong, usize::from(alike && !correct[0]));
                assert_eq!(
                    sampling.groups.len(),
                    usize::from(kept),
                    "{by:?}, {rewards:?}"
                );
            }
        }
    }

    /// Answers of even length are right, while it works.
    struct Works(Arc<AtomicBool>);

    impl reward::Reward for Works {
        fn score(&self, problem: &Problem, response: &reward::Response<'_>) -> Score {
            if self.0.load(Relaxed) {
                ByHalf.score(problem, response)
            } else {
                Score::missing("it_does_not_work")
            }
        }
    }

    #[test]
    fn a_run_without_rewards_ends_and_one_that_lost_them_may_find_them_again() {
        let works = Arc::new(AtomicBool::new(false));
        let run = |steps: &str| {
            let stages = Stages::default().with_reward(Works(Arc::clone(&works)));
            Trainer::compose(tiny::config(&[steps]), tiny::policy(), stages).unwrap()
        };
        let mut never = run("steps=2");
        never.step(&mut |_: Event<'_>| ()).unwrap();
        let never = never.step(&mut |_: Event<'_>| ()).unwrap_err().to_string();
        assert!(
            never.starts_with("step 2: none of 8 answers") && never.contains("it_does_not_work"),
            "{never}"
        );
        let mut trainer = run("steps=9");
        let mut told = 0;
        for (does, ends) in [
            (true, false),
            (false, false),
            (false, false),
            (true, false),
            (false, false),
            (false, false),
            (false, true),
        ] {
            works.store(does, Relaxed);
            let step = trainer.step(&mut |event: Event<'_>| {
                if let Event::Warning(text) = event {
                    assert!(text.contains("2 problems, '"), "{text}");
                    told += 1;
                }
            });
            assert_eq!(step.is_err(), ends, "{step:?}");
            let step = step.ok();
            assert!(step.is_none_or(|step| does != step.trained.is_empty()));
        }
        assert_eq!(told, 5);
    }

    /// Answers of even length are right.
    struct ByHalf;

    impl reward::Reward for ByHalf {
        fn score(&self, _: &Problem, response: &reward::Response<'_>) -> Score {
            Score::binary(response.text.len().is_multiple_of(2), None, "by_half")
        }
    }

    /// Right and wrong in turn, for so many answers.
    struct Lasts(AtomicU64);

    impl reward::Reward for Lasts {
        fn score(&self, _: &Problem, _: &reward::Response<'_>) -> Score {
            match self.0.fetch_sub(1, Relaxed) {
                0 | 1000.. => {
                    self.0.store(0, Relaxed);
                    Score::missing("it_is_gone")
                }
                left => Score::binary(left % 2 == 0, None, "in_turn"),
            }
        }
    }

    #[test]
    fn what_was_learnt_before_the_rewards_were_gone_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let config = tiny::config(&["steps=9", "checkpoint.every=100"]);
        let mut folder = RunFolder::create(&dir.path().join("run"), &config).unwrap();
        // Two steps of eight.
        let stages = Stages::default().with_reward(Lasts(AtomicU64::new(16)));
        let mut trainer = Trainer::compose(config, tiny::policy(), stages).unwrap();
        let ended = trainer.run(&mut folder, &mut |_: Event<'_>| ());
        let said = ended.unwrap_err().to_string();
        assert!(
            said.starts_with("step 5: ") && said.contains("for 3 steps in a row"),
            "{said}"
        );
        let (step, _) = newest_checkpoint(folder.path(), &mut |_| ())
            .unwrap()
            .unwrap();
        assert_eq!(step, 4);
        assert_eq!(trainer.state().law.len(), 2);
    }

    /// A run's lines without what the clock says, and its weights.
    fn left(folder: &RunFolder, trainer: &Trainer) -> (Vec<String>, Vec<u8>) {
        let lines = folder.metrics().unwrap().into_iter().map(|line| {
            let timeless = StepMetrics {
                generate_seconds: 0.0,
                update_seconds: 0.0,
                step_seconds: 0.0,
                ..line
            };
            serde_json::to_string(&timeless).unwrap()
        });
        (lines.collect(), tiny::weights(trainer))
    }

    #[test]
    fn a_stop_in_a_validation_loses_no_step() {
        let dir = tempfile::tempdir().unwrap();
        let settings = [
            "steps=4",
            "checkpoint.every=100",
            "validation.every=1",
            "validation.problems=4",
        ];
        let config = tiny::config(&settings);
        let path = |name: &str| dir.path().join(name);
        let mut whole = Trainer::new(config.clone(), tiny::policy()).unwrap();
        let mut folder = RunFolder::create(&path("whole"), &config).unwrap();
        whole.run(&mut folder, &mut |_: Event<'_>| ()).unwrap();
        let expected = left(&folder, &whole);
        drop(folder);

        // Stopped in the validation of step 2, gone on with, stopped in that of step 3, and so on to the end.
        let mut trainer = Trainer::new(config.clone(), tiny::policy()).unwrap();
        let mut folder = RunFolder::create(&path("stopped"), &config).unwrap();
        for step in 2..=4 {
            let flag = Arc::new(AtomicBool::new(false));
            trainer.stop_when(Arc::clone(&flag));
            let outcome = trainer.run(&mut folder, &mut |event: Event<'_>| {
                if matches!(event, Event::Validating { step: at, .. } if at == step) {
                    flag.store(true, Relaxed);
                }
            });
            // The last validation ends the run, or the step is made again.
            let saved = step.min(3);
            assert!(
                matches!(outcome, Err(TrainerError::Stopped { step }) if step == saved),
                "{outcome:?}"
            );
            drop(folder);
            let (newest, checkpoint) = newest_checkpoint(&path("stopped"), &mut |_| ())
                .unwrap()
                .unwrap();
            assert_eq!(newest, saved);
            let device = burn::tensor::Device::flex().autodiff();
            let policy = crate::resume_policy(&config, &checkpoint, &device).unwrap();
            trainer = Trainer::new(config.clone(), policy).unwrap();
            trainer.load_state(&checkpoint).unwrap();
            assert!(trainer.state().pending.is_some());
            let lock = RunLock::take(&path("stopped")).unwrap();
            folder = RunFolder::go_on(lock, newest, &config).unwrap();
        }
        // The line of step 3 was written before the last stop, and stands there once.
        trainer.run(&mut folder, &mut |_: Event<'_>| ()).unwrap();
        assert_eq!(left(&folder, &trainer), expected);
    }

    #[test]
    fn long_steps_are_saved_by_the_clock() {
        let saved = |minutes: &str| {
            let dir = tempfile::tempdir().unwrap();
            let minutes = format!("checkpoint.minutes={minutes}");
            let config = tiny::config(&[
                "steps=3",
                "checkpoint.every=0",
                "checkpoint.keep=0",
                &minutes,
            ]);
            let mut folder = RunFolder::create(&dir.path().join("run"), &config).unwrap();
            let mut trainer = Trainer::new(config, tiny::policy()).unwrap();
            trainer.run(&mut folder, &mut |_: Event<'_>| ()).unwrap();
            let checkpoints = list_checkpoints(folder.path()).unwrap();
            checkpoints
                .into_iter()
                .map(|(step, _)| step)
                .collect::<Vec<_>>()
        };
        let mut every = saved("1e-9");
        every.sort_unstable();
        assert_eq!(every, [1, 2, 3]);
        assert_eq!(saved("0"), [3]);
        assert_eq!(saved("60"), [3]);
    }

    #[test]
    fn a_sum_s_parts_and_the_problems_sources_have_figures() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("problems.jsonl");
        let line = |source: &str, prompt: &str| {
            format!("{{\"source\": \"{source}\", \"problem\": \"{prompt}\", \"answer\": \"2\"}}\n")
        };
        std::fs::write(&file, line("a", "1+1=") + &line("b", "0+2=")).unwrap();
        let train = format!("data.train={}", file.display());
        let parts = "reward.parts=[{type=\"verifier\"}, {type=\"overlong\", weight=0.5, max_tokens=4, cache_tokens=4}]";
        let config = tiny::config(&[&train, "data.instruction=", parts]);
        let mut trainer = Trainer::new(config, tiny::policy()).unwrap();
        let metrics = trainer.step(&mut |_: Event<'_>| ()).unwrap().metrics;
        let of = |name: &str| metrics.reward_parts[name];
        assert!((-1.0..0.0).contains(&of("overlong")), "{metrics:?}");
        assert!((of("verifier") - metrics.accuracy_mean).abs() < 1e-12);
        let sum = of("verifier") + 0.5 * of("overlong");
        assert!((sum - metrics.reward_mean).abs() < 1e-12);
        assert!(metrics.reward_std.is_some_and(|std| std > 0.0));
        let by_source = &metrics.accuracy_by_source;
        assert_eq!(by_source.keys().collect::<Vec<_>>(), ["a", "b"]);
        let mean = by_source.values().sum::<f64>() / 2.0;
        assert!((mean - metrics.accuracy_mean).abs() < 1e-12);
    }

    #[test]
    fn groups_of_the_step_before_are_weighed() {
        let settings = ["rollout.oversampling=2", "rollout.filter_groups=false"];
        let stages = Stages::default().with_reward(ByHalf);
        let config = tiny::config(&settings);
        let mut trainer = Trainer::compose(config, tiny::policy(), stages).unwrap();
        let first = trainer.step(&mut |_: Event<'_>| ()).unwrap();
        assert!(!first.carried.is_empty());
        assert!(first.metrics.correction_weight_mean.is_none());
        trainer.state.step += 1;
        let sampling = trainer.sample_groups(&mut |_: Event<'_>| ()).unwrap();
        let (measured, _) = trainer.measure(&sampling.groups).unwrap();
        let rows = trainer
            .experiences(&sampling.groups, measured, None)
            .unwrap();
        let samples = sampling.groups.iter().flat_map(|group| &group.samples);
        let mut apart = 0.0_f32;
        for (row, sample) in rows.iter().zip(samples) {
            let weights = row.weights.as_ref().unwrap();
            for (index, &weight) in weights.iter().enumerate() {
                let ratio = row.old.log_probs[index] - sample.rollout.sampler_log_probs[index];
                assert!((weight - ratio.exp().min(2.0)).abs() < 1e-6);
                if sample.rollout.key.step == 1 {
                    apart = apart.max((weight - 1.0).abs());
                } else {
                    assert!((weight - 1.0).abs() < f32::EPSILON, "{weight}");
                }
            }
        }
        assert!(apart > 1e-6, "the update moved no token of those carried");
    }
}
