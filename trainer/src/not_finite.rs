//! Figures that are not finite, put in by hand: at a run's first step, in its middle and at its last.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Tensor, TensorData},
};
use reward::{Problem, Response, Reward, Score};
use rollout::RolloutError;

use crate::{
    Event, RunFolder, Stages, Trainer, TrainerError,
    experience::Experience,
    newest_checkpoint, tiny,
    update::{MOST_SKIPPED_IN_A_ROW, Total, Updates},
};

const NOT_FINITE: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
/// The first step, one in the middle, and the last.
const STEPS: [u64; 3] = [1, 3, 5];

/// Tells responses apart without a word of truth, so that a policy that knows nothing has advantages.
struct ByBytes;

impl Reward for ByBytes {
    fn score(&self, _: &Problem, response: &Response<'_>) -> Score {
        let sum: usize = response.text.bytes().map(usize::from).sum();
        Score::binary(sum.is_multiple_of(2), None, "by_bytes")
    }
}

fn trainer() -> Trainer {
    trainer_with(&[])
}

fn trainer_with(settings: &[&str]) -> Trainer {
    let config = tiny::config(&[&["steps=5"], settings].concat());
    let stages = Stages::default().with_reward(ByBytes);
    Trainer::compose(config, tiny::policy(), stages).unwrap()
}

/// A run that stands before a step.
fn before(step: u64) -> Trainer {
    on_to(step, trainer())
}

fn on_to(step: u64, mut trainer: Trainer) -> Trainer {
    for _ in 1..step {
        let metrics = trainer.step(&mut |_: Event<'_>| ()).unwrap().metrics;
        assert_eq!((metrics.updates, metrics.skipped_updates), (1, 0));
    }
    trainer
}

/// Weights and moments, to the bit.
fn bits(trainer: &Trainer) -> [Vec<u8>; 2] {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    trainer.save_checkpoint(&path).unwrap();
    ["model.safetensors", "optimizer.bpk"].map(|name| std::fs::read(path.join(name)).unwrap())
}

/// What the step that a run stands before would train on.
fn experiences(trainer: &mut Trainer) -> Vec<Experience> {
    let next = trainer.state.step + 1;
    trainer.state.step = next;
    let groups = trainer.sample_round(2, &mut |_: Event<'_>| ()).unwrap();
    let (measured, _) = trainer.measure(&groups).unwrap();
    trainer.experiences(&groups, measured, None).unwrap()
}

/// That a spoilt update is left out, and that the run goes on as if it had not been tried.
fn assert_skipped(trainer: &mut Trainer, spoilt: &[Experience], what: &str) {
    let (before, mut told) = (bits(trainer), Vec::new());
    let updates = trainer.update(spoilt, None, 0.0, &mut |event: Event<'_>| {
        if let Event::Warning(text) = event {
            told.push(text.to_owned());
        }
    });
    let mut metrics = crate::StepMetrics::default();
    trainer.describe_updates(spoilt, &updates.unwrap(), &mut metrics);
    assert_eq!((metrics.updates, metrics.skipped_updates), (0, 1), "{what}");
    assert_eq!(trainer.state.skipped_in_a_row, 1, "{what}");
    assert!(
        told.len() == 1 && told[0].contains("not finite"),
        "{told:?}"
    );
    assert!(bits(trainer) == before, "{what}: weights or moments moved");
    while trainer.state.step < 5 {
        let metrics = trainer.step(&mut |_: Event<'_>| ()).unwrap().metrics;
        assert_eq!((metrics.updates, metrics.skipped_updates), (1, 0), "{what}");
        assert_eq!(trainer.state.skipped_in_a_row, 0);
    }
    bits(trainer);
}

#[test]
fn an_advantage_or_a_log_probability_skips_its_update() {
    for step in STEPS {
        for figure in NOT_FINITE {
            let mut trainer = before(step);
            let mut rows = experiences(&mut trainer);
            rows[1].advantages[0] = figure;
            assert_skipped(&mut trainer, &rows, &format!("{figure}, step {step}"));
        }
        // An infinite one is a ratio that the clip may bound.
        let mut trainer = before(step);
        let mut rows = experiences(&mut trainer);
        rows[1].old.log_probs[0] = f32::NAN;
        assert_skipped(&mut trainer, &rows, &format!("log π, step {step}"));
    }
}

/// What selects tokens cannot rank a figure that is not finite, and leaves it to the same rule.
#[test]
fn what_selects_tokens_skips_an_update_too() {
    for setting in [
        "loss.type=clip_cov",
        "loss.type=kl_cov",
        "entropy.top_entropy.top_fraction=0.5",
    ] {
        let mut trainer = on_to(2, trainer_with(&[setting]));
        let mut rows = experiences(&mut trainer);
        let spoilt = match setting {
            "entropy.top_entropy.top_fraction=0.5" => &mut rows[1].old.entropies,
            _ => &mut rows[1].advantages,
        };
        spoilt[0] = f32::NAN;
        assert_skipped(&mut trainer, &rows, setting);
    }
}

/// Beside [`ByBytes`], a reward that is no number as long as it is switched on.
struct Spoilt {
    reward: f64,
    is_on: Arc<AtomicBool>,
}

impl Reward for Spoilt {
    fn score(&self, problem: &Problem, response: &Response<'_>) -> Score {
        let mut score = ByBytes.score(problem, response);
        if self.is_on.load(Relaxed) {
            score.reward = score.reward.map(|reward| reward * self.reward);
        }
        score
    }
}

#[test]
fn a_reward_leaves_groups_out_and_one_beyond_f32_skips_its_update() {
    // Of NaN and ∞ nothing is learnt; 1e39 is beyond f32, and so is a sum of 3e38.
    for (reward, skipped) in [
        (f64::NAN, 0),
        (f64::INFINITY, 0),
        (f64::NEG_INFINITY, 0),
        (1e39, 1),
        (3e38, 1),
    ] {
        for step in STEPS {
            let is_on = Arc::new(AtomicBool::new(false));
            let switch = Arc::clone(&is_on);
            let config = tiny::config(&["steps=5", "advantage.type=dr_grpo"]);
            let stages = Stages::default().with_reward(Spoilt { reward, is_on });
            let mut trainer = Trainer::compose(config, tiny::policy(), stages).unwrap();
            for nth in 1..=5 {
                let before = bits(&trainer);
                switch.store(nth == step, Relaxed);
                let metrics = trainer.step(&mut |_: Event<'_>| ()).unwrap().metrics;
                let what = format!("{reward} in step {step}, step {nth}");
                if nth == step {
                    assert_eq!(metrics.updates, 0, "{what}");
                    assert_eq!(metrics.skipped_updates, skipped, "{what}");
                    assert_eq!(metrics.groups_dropped, 2 - 2 * skipped, "{what}");
                    assert!(bits(&trainer) == before, "{what}: weights or moments moved");
                } else {
                    assert_eq!((metrics.updates, metrics.skipped_updates), (1, 0), "{what}");
                }
            }
        }
    }
}

/// Puts one figure into one parameter's gradient.
struct SpoilOne<'a> {
    gradients: &'a mut GradientsParams,
    /// How many parameters come before.
    left: usize,
    figure: f32,
}

impl ModuleVisitor for SpoilOne<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.val().shape();
        let mut values = vec![0.0_f32; shape.num_elements()];
        if self.left == 0 {
            let last = values.len() - 1;
            values[last] = self.figure;
        }
        self.left = self.left.wrapping_sub(1);
        let device = param.val().device().inner();
        let gradient = Tensor::<D>::from_data(TensorData::new(values, shape), &device);
        self.gradients.register(param.id, gradient);
    }
}

#[test]
fn one_element_of_one_gradient_skips_its_update() {
    struct Count(usize);
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
            self.0 += 1;
        }
    }
    let mut count = Count(0);
    tiny::policy().model.visit(&mut count);
    assert!(count.0 > 5, "{} parameters", count.0);
    for (nth, step) in (0..count.0).zip(STEPS.into_iter().cycle()) {
        let mut trainer = before(step);
        for figure in NOT_FINITE {
            let before = bits(&trainer);
            let mut gradients = GradientsParams::new();
            trainer.policy.model.visit(&mut SpoilOne {
                gradients: &mut gradients,
                left: nth,
                figure,
            });
            let mut updates = Updates::default();
            let mut total = Total::default();
            total.gradients.accumulate(&trainer.policy.model, gradients);
            let gradients = trainer.unscaled(&mut total);
            let is_applied = trainer.apply(total, gradients, &mut updates);
            assert!(!is_applied, "{figure} in parameter {nth}");
            assert!(bits(&trainer) == before, "{figure} in parameter {nth}");
        }
        assert_eq!(trainer.state.skipped_in_a_row, NOT_FINITE.len());
        assert!(trainer.state.skipped_in_a_row < MOST_SKIPPED_IN_A_ROW);
    }
}

/// Makes the first parameter that has two dimensions what no parameter may be.
struct SpoilWeights(Option<f32>);

impl ModuleMapper for SpoilWeights {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.take() {
            Some(figure) => param.map(|weights| weights * figure),
            None => param,
        }
    }
}

#[test]
fn logits_end_the_run_with_their_problem_and_reach_no_checkpoint() {
    for step in STEPS {
        for figure in NOT_FINITE {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("run");
            let mut trainer = trainer();
            let mut folder = RunFolder::create(&path, trainer.config()).unwrap();
            trainer.config.steps = step - 1;
            trainer.run(&mut folder, &mut |_: Event<'_>| ()).unwrap();
            trainer.config.steps = 5;
            let model = trainer.policy.model.clone();
            trainer.policy.model = model.map(&mut SpoilWeights(Some(figure)));
            let error = trainer
                .run(&mut folder, &mut |_: Event<'_>| ())
                .unwrap_err();
            let text = error.to_string();
            let TrainerError::Answer { id, source } = error else {
                unreachable!("{text}");
            };
            assert!(matches!(*source, RolloutError::NonFiniteLogits { .. }));
            // Two problems a step, numbered from 0.
            let first = 2 * (step - 1);
            let ids = [first, first + 1].map(|n| format!("arithmetic-train-1-{n}"));
            assert!(ids.contains(&id) && text.contains(&id), "{text}");
            let refused = trainer.save_checkpoint(&dir.path().join("spoilt"));
            assert!(matches!(
                refused,
                Err(TrainerError::NonFiniteWeights { .. })
            ));
            assert!(!dir.path().join("spoilt").exists());
            let newest = newest_checkpoint(&path, &mut |error| unreachable!("{error}"));
            assert_eq!(newest.unwrap().map_or(0, |(step, _)| step), step - 1);
        }
    }
}

#[test]
fn a_log_probability_that_was_measured_leaves_its_group_out() {
    for figure in NOT_FINITE {
        let mut trainer = before(3);
        let mut groups = trainer.sample_round(2, &mut |_: Event<'_>| ()).unwrap();
        let (mut measured, _) = trainer.measure(&groups).unwrap();
        let whole = measured.clone();
        measured[5].log_probs[0] = figure;
        let mut told = Vec::new();
        let left_out = trainer.drop_broken(&mut groups, &mut measured, &mut |event: Event<'_>| {
            if let Event::Warning(text) = event {
                told.push(text.to_owned());
            }
        });
        assert_eq!((groups.len(), left_out.len(), told.len()), (1, 1, 1));
        assert!(told[0].contains(&left_out[0].problem.id), "{told:?}");
        assert_eq!(measured, whole[..4]);
    }
}
