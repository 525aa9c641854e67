//! What runs measure of entropy, and what they do about it.
#![allow(clippy::unwrap_used, reason = "a run that fails fails its test")]

use std::path::Path;

use burn::tensor::{DType, Device};
use serde_json::Value;
use trainer::{Event, RunFolder, StepMetrics, TrainConfig, Trainer, TrainerError, bundled_base};

const SMALL: [&str; 6] = [
    "steps=2",
    "rollout.prompts_per_step=8",
    "update.mini_batch_prompts=2",
    "update.max_tokens=256",
    "validation.problems=0",
    "seed=3",
];

/// Runs and gives back the lines of the steps and what the run warned of.
fn run(settings: &[&str], path: &Path) -> (Vec<StepMetrics>, Vec<String>) {
    let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    let config = TrainConfig::load(None, &settings).unwrap();
    let base = bundled_base(DType::F32, &Device::flex().autodiff()).unwrap();
    let mut trainer = Trainer::new(config.clone(), base).unwrap();
    let mut folder = RunFolder::create(path, &config).unwrap();
    let (mut lines, mut warnings) = (Vec::new(), Vec::new());
    let observer = &mut |event: Event<'_>| match event {
        Event::Step(metrics) if metrics.step > 0 => lines.push(metrics.clone()),
        Event::Warning(text) => warnings.push(text.to_owned()),
        _ => (),
    };
    trainer.run(&mut folder, observer).unwrap();
    (lines, warnings)
}

fn small(more: &[&str]) -> (Vec<StepMetrics>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    run(&[&SMALL[..], more].concat(), &dir.path().join("run"))
}

/// The tracked pass of an update and the untracked one before it differ by rounding.
const ROUNDING_NATS: f64 = 1e-6;

#[test]
fn a_rate_of_nothing_moves_no_entropy_and_a_large_one_does() {
    let (still, _) = small(&["optimizer.learning_rate=0"]);
    for step in &still {
        assert!(
            step.entropy_change.abs() < ROUNDING_NATS,
            "{}",
            step.entropy_change
        );
        assert!(step.entropy_change_lemma.abs() < ROUNDING_NATS);
        assert!(step.entropy_change_theorem_1.abs() < f64::EPSILON);
    }
    let moving = [
        "optimizer.learning_rate=1e-3",
        "optimizer.warmup_steps=0",
        "steps=1",
    ];
    let (moved, _) = small(&moving);
    assert!(
        moved[0].entropy_change.abs() > 1e3 * ROUNDING_NATS,
        "{}",
        moved[0].entropy_change
    );
}

/// The change within the steps, added up, is the change over the run: measured on other problems and by another
/// formula, the two agree within the problems' noise.
#[test]
fn changes_within_steps_add_up_to_the_runs() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        "steps=10",
        "rollout.prompts_per_step=16",
        "update.mini_batch_prompts=2",
        "validation.problems=0",
        "optimizer.learning_rate=2e-4",
        "checkpoint.rollouts=false",
    ];
    let (lines, _) = run(&settings, &dir.path().join("run"));
    let within: f64 = lines[..9].iter().map(|step| step.entropy_change).sum();
    let between = lines[9].entropy_token_mean - lines[0].entropy_token_mean;
    assert!(between < -0.03, "entropy moved by {between}");
    let ratio = within / between;
    assert!(
        (0.6..1.6).contains(&ratio),
        "{within} within the steps, {between} between them"
    );
}

#[test]
fn without_the_measurement_the_run_is_the_same_and_the_figures_are_missing() {
    let (with, _) = small(&["loss.type=kl_cov"]);
    let (without, _) = small(&[
        "loss.type=kl_cov",
        "measurement.change=false",
        "measurement.tokens=false",
    ]);
    for (with, without) in with.iter().zip(&without) {
        assert!(with.entropy_change.is_finite() && without.entropy_change.is_nan());
        assert_eq!(with.policy_loss.to_bits(), without.policy_loss.to_bits());
        assert_eq!(
            with.entropy_token_mean.to_bits(),
            without.entropy_token_mean.to_bits()
        );
    }
}

#[test]
fn rollouts_keep_each_tokens_figures() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [&SMALL[..], &["steps=1", "loss.type=kl_cov"]].concat();
    let (lines, _) = run(&settings, &dir.path().join("run"));
    let text = std::fs::read_to_string(dir.path().join("run/rollouts/step-000001.jsonl")).unwrap();
    let (mut selected, mut entropies, mut covariances, mut tokens) = (0, 0.0, 0.0, 0);
    for line in text.lines() {
        let group: Value = serde_json::from_str(line).unwrap();
        if group["state"] != "trained" {
            assert!(
                group.get("figures").is_none(),
                "figures of a group that was not trained on"
            );
            continue;
        }
        let samples = group["samples"].as_array().unwrap().iter();
        for (sample, figures) in samples.zip(group["figures"].as_array().unwrap()) {
            let length = sample["rollout"]["response_ids"].as_array().unwrap().len();
            let column = |key: &str| figures[key].as_array().unwrap().clone();
            assert_eq!(column("entropies").len(), length);
            assert_eq!(column("covariances").len(), length);
            assert_eq!(
                column("advantages").len(),
                1,
                "GRPO's tokens share their advantage"
            );
            assert!(
                column("selected")
                    .iter()
                    .all(|place| (place.as_u64().unwrap() as usize) < length)
            );
            let sum = |key: &str| column(key).iter().map(|x| x.as_f64().unwrap()).sum::<f64>();
            selected += column("selected").len() as u64;
            entropies += sum("entropies");
            covariances += sum("covariances");
            tokens += length;
        }
    }
    // Figures are written with four decimals.
    let rounding = 1e-4;
    assert_eq!(selected, lines[0].selected_tokens);
    assert!((entropies / tokens as f64 - lines[0].entropy_token_mean).abs() < rounding);
    assert!((covariances / tokens as f64 - lines[0].covariance_mean).abs() < rounding);
}

#[test]
fn parts_by_difficulty_are_of_all_kept_groups() {
    let (lines, _) = small(&[]);
    for step in &lines {
        let groups: u64 = step.by_difficulty.values().map(|part| part.groups).sum();
        assert_eq!(groups, step.groups_kept);
        let entropies = step
            .by_difficulty
            .values()
            .map(|part| part.entropy_token_mean);
        let (low, high) = entropies.fold((f64::MAX, f64::MIN), |(low, high), h| {
            (low.min(h), high.max(h))
        });
        assert!((low..=high).contains(&step.entropy_token_mean));
        assert!(step.by_source.is_empty(), "one source is no part");
    }
}

#[test]
fn an_explosion_ends_the_run_where_that_is_asked_for() {
    let settings = [
        "steps=10",
        "optimizer.learning_rate=5e-4",
        "optimizer.warmup_steps=0",
        "entropy.bonus.coef=1",
        "monitor.explosion_factor=1.2",
        "monitor.stop_on_alarm=true",
    ];
    let dir = tempfile::tempdir().unwrap();
    let (lines, warnings) = run(&[&SMALL[..], &settings].concat(), &dir.path().join("run"));
    assert!(lines.len() < 10, "it went on for {} steps", lines.len());
    let told = |text: &String| text.contains("exploded") && text.contains("ends here");
    assert!(warnings.iter().any(told), "{warnings:?}");
    let last = format!("run/checkpoints/step-{:06}", lines.len());
    assert!(
        dir.path().join(last).exists(),
        "a run that ends early is saved"
    );
}

#[test]
fn a_runs_folder_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let config = TrainConfig::load(None, &[]).unwrap();
    let first = RunFolder::create(&path, &config).unwrap();
    let second = RunFolder::reopen(&path, 0, &config);
    assert!(
        matches!(second, Err(TrainerError::InUse { .. })),
        "{second:?}"
    );
    drop(first);
    assert!(RunFolder::reopen(&path, 0, &config).is_ok());
}

#[test]
fn a_budget_raises_its_lever_while_entropy_is_missing() {
    let budget = [
        "entropy.budget.target_nats=0.3",
        "entropy.budget.bonus_coef=0.01",
    ];
    let (lines, _) = small(&budget);
    assert_eq!(lines[0].entropy_target, Some(0.3));
    // Half of the entropy is missing at first, or more, and the lasting part grows.
    let strength = |step: &StepMetrics| step.entropy_strength.unwrap();
    assert!(strength(&lines[0]) > 3.0 && strength(&lines[1]) > strength(&lines[0]));
    let bonus = lines[0].entropy_bonus.unwrap();
    assert!((bonus - 0.01 * strength(&lines[0])).abs() < 1e-12);
    let lever = [
        "loss.type=kl_cov",
        "entropy.budget.target_nats=0.01",
        "entropy.budget.lever=fraction",
    ];
    let (lines, _) = small(&lever);
    // Far above its target entropy needs no holding: the least strength is an eighth, of the 5 %.
    assert!(
        lines[0].selected_fraction < 0.0065,
        "{}",
        lines[0].selected_fraction
    );
}
