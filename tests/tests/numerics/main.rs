//! Figures that are not finite: the updates that they spoil are not made, counted and told of, and too many end the run.
#![allow(clippy::unwrap_used, reason = "a run that fails fails its test")]
#![allow(
    clippy::print_stdout,
    reason = "a test of random settings says how many it tried"
)]

mod edges;
mod random;
mod small;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use burn::tensor::{DType, Device};
use losses::replay::{Case, Figures};
use reward::{Problem, Response, Reward, Score};
use trainer::{
    Event, RunFolder, Stages, TrainConfig, Trainer, TrainerError, bundled_base, newest_checkpoint,
};

/// Gives every other response a reward of any size, as long as it is switched on.
struct Spoilt {
    reward: f64,
    only: Option<&'static str>,
    is_on: Arc<AtomicBool>,
}

impl Reward for Spoilt {
    fn score(&self, problem: &Problem, response: &Response<'_>) -> Score {
        let is_meant = self.only.is_none_or(|id| problem.id == id);
        let size = if self.is_on.load(Relaxed) && is_meant {
            self.reward
        } else {
            1.0
        };
        let sum: usize = response.text.bytes().map(usize::from).sum();
        let mut score = Score::binary(sum.is_multiple_of(2), None, "by_bytes");
        score.reward = score.reward.map(|reward| reward * size);
        score
    }
}

fn trainer(reward: f64, only: Option<&'static str>, is_on: &Arc<AtomicBool>) -> Trainer {
    let settings = [
        "steps=10",
        "rollout.prompts_per_step=8",
        "rollout.filter_groups=false",
        "update.mini_batch_prompts=2",
        "advantage.type=dr_grpo",
        "validation.problems=0",
        "checkpoint.every=1",
    ];
    let config = TrainConfig::load(None, &settings.map(str::to_owned)).unwrap();
    let policy = bundled_base(DType::F32, &Device::flex().autodiff()).unwrap();
    let is_on = Arc::clone(is_on);
    let spoilt = Spoilt {
        reward,
        only,
        is_on,
    };
    Trainer::compose(config, policy, Stages::default().with_reward(spoilt)).unwrap()
}

#[test]
fn one_problem_spoils_one_update_and_is_named() {
    let is_on = Arc::new(AtomicBool::new(true));
    // Beyond f32.
    let mut trainer = trainer(1e39, Some("arithmetic-train-1-3"), &is_on);
    let mut told = Vec::new();
    let outcome = trainer.step(&mut |event: Event<'_>| {
        if let Event::Warning(text) = event {
            told.push(text.to_owned());
        }
    });
    let metrics = outcome.unwrap().metrics;
    assert_eq!((metrics.updates, metrics.skipped_updates), (3, 1));
    assert!(metrics.grad_norm.is_finite() && metrics.policy_loss.is_finite());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("by problems 'arithmetic-train-1-3'"),
        "{told:?}"
    );
    assert_eq!(trainer.state().skipped_in_a_row, 0, "two updates followed");
}

#[test]
fn skipped_updates_change_neither_weights_nor_moments() {
    let dir = tempfile::tempdir().unwrap();
    let is_on = Arc::new(AtomicBool::new(false));
    let mut trainer = trainer(3e38, None, &is_on);
    let observer = &mut |_: Event<'_>| ();
    assert_eq!(trainer.step(observer).unwrap().metrics.updates, 4);
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    trainer.save_checkpoint(&before).unwrap();
    is_on.store(true, Relaxed);
    let metrics = trainer.step(observer).unwrap().metrics;
    assert_eq!((metrics.updates, metrics.skipped_updates), (0, 4));
    trainer.save_checkpoint(&after).unwrap();
    let read = |folder: &Path, name: &str| fs::read(folder.join(name)).unwrap();
    for name in ["model.safetensors", "optimizer.bpk"] {
        assert!(read(&before, name) == read(&after, name), "{name} changed");
    }
    is_on.store(false, Relaxed);
    assert_eq!(trainer.step(observer).unwrap().metrics.updates, 4);
    trainer.save_checkpoint(&after).unwrap();
    assert!(read(&before, "optimizer.bpk") != read(&after, "optimizer.bpk"));
}

#[test]
fn sixteen_in_a_row_end_the_run_and_leave_their_batch_to_replay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    // In f32's range: it is their sum that is not.
    let mut trainer = trainer(3e38, None, &Arc::new(AtomicBool::new(true)));
    let mut folder = RunFolder::create(&path, trainer.config()).unwrap();
    let mut told = 0;
    let error = trainer
        .run(&mut folder, &mut |event: Event<'_>| {
            told += usize::from(matches!(event, Event::Warning(_)));
        })
        .unwrap_err();
    let text = error.to_string();
    let TrainerError::DivergedOn {
        step,
        count: 16,
        file: Some(file),
        ..
    } = error
    else {
        unreachable!("{text}");
    };
    // A group of equal responses has no advantages: its update is made, and the count begins anew.
    assert!(told >= 15, "{told}");
    assert!(
        text.contains("over problems 'arithmetic-train-1-"),
        "{text}"
    );
    assert!(text.contains(&file.display().to_string()), "{text}");
    let case: Case = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let output = case.replay(&Device::flex()).unwrap().output;
    assert!(matches!(output["loss"], Figures::Scalar(loss) if !loss.is_finite()));
    let newest = newest_checkpoint(&path, &mut |error| unreachable!("{error}")).unwrap();
    assert_eq!(newest.unwrap().0, step - 1);
}

#[test]
fn a_figure_that_is_not_finite_stands_in_the_case_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut trainer = trainer(1e39, None, &Arc::new(AtomicBool::new(true)));
    let mut folder = RunFolder::create(&path, trainer.config()).unwrap();
    let error = trainer.run(&mut folder, &mut |_: Event<'_>| ());
    let Err(TrainerError::DivergedOn {
        file: Some(file), ..
    }) = error
    else {
        unreachable!("{error:?}");
    };
    let text = fs::read_to_string(file).unwrap();
    let case: Case = serde_json::from_str(&text).unwrap();
    let advantages = case.inputs.advantages.as_ref().unwrap().concat();
    assert!(advantages.iter().any(|advantage| advantage.is_infinite()));
    let refused = case.replay(&Device::flex()).unwrap_err().to_string();
    assert!(refused.contains("advantage"), "{refused}");
}
