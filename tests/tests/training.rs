//! Whole runs: that they learn, that they are reproducible, and that they end well where there is nothing to learn from.
#![allow(clippy::unwrap_used, reason = "a run that fails fails its test")]

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn::tensor::{DType, Device};
use losses::{
    AdvantageInputs, Advantages, Aggregation, Estimator, Granularity, LossError, PerToken,
    PolicyLoss, PolicyTerms, PpoClip,
};
use policy::{LoraConfig, Policy, SaveDtype, save_weights};
use rayon::ThreadPoolBuilder;
use reward::{Problem, Reward, Split, Task};
use trainer::{
    Event, ProblemSource, RunFolder, SftConfig, SftProgress, Stages, StepMetrics, TrainConfig,
    Trainer, TrainerError, bundled_base, list_checkpoints, resume_policy, train_supervised,
};

fn config(settings: &[&str]) -> TrainConfig {
    let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    TrainConfig::load(None, &settings).unwrap()
}

fn base() -> Policy {
    bundled_base(DType::F32, &Device::flex().autodiff()).unwrap()
}

/// Runs to the end and gives back every line of metrics, step 0 first.
fn run(mut trainer: Trainer, folder: &mut RunFolder) -> Vec<StepMetrics> {
    let mut lines = Vec::new();
    trainer
        .run(folder, &mut |event: Event<'_>| {
            if let Event::Step(metrics) = event {
                lines.push(metrics.clone());
            }
        })
        .unwrap();
    lines
}

fn fresh(policy: Policy, config: &TrainConfig, path: &Path) -> Vec<StepMetrics> {
    let trainer = Trainer::new(config.clone(), policy).unwrap();
    run(trainer, &mut RunFolder::create(path, config).unwrap())
}

/// The metrics as written, without the clock's.
fn without_times(lines: &[StepMetrics]) -> Vec<serde_json::Value> {
    let line = |metrics: &StepMetrics| {
        let mut line = serde_json::to_value(metrics).unwrap();
        line.as_object_mut()
            .unwrap()
            .retain(|key, _| !key.ends_with("_seconds"));
        line
    };
    lines.iter().map(line).collect()
}

#[test]
fn the_bundled_base_learns_and_its_entropy_falls() {
    learns("model.dtype=f32");
}

/// The same thresholds with operands rounded to bf16; there, generation and training still agree to the bit.
#[test]
fn the_bundled_base_learns_in_half_precision() {
    for line in &learns("model.dtype=bf16")[1..] {
        assert!(
            line.sampler_log_prob_gap < 1e-6,
            "step {}: the sampler's log-probabilities are {:e} off",
            line.step,
            line.sampler_log_prob_gap
        );
    }
}

/// Adapters learn over weights that stay as they are, and what samples is what learns, to the bit.
#[test]
fn adapters_alone_learn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let settings = ["lora.rank=8", "optimizer.learning_rate=5e-4"];
    for line in &learns_into(&settings, &path)[1..] {
        let (step, gap) = (line.step, line.sampler_log_prob_gap);
        assert!(
            gap == 0.0,
            "step {step}: the sampler's log-probabilities are {gap:e} off"
        );
    }
    // The checkpoint is a whole model, of which the adapters beside it make up the change.
    let checkpoint = path.join("checkpoints/step-000012");
    let lora = LoraConfig {
        rank: 8,
        ..LoraConfig::default()
    };
    let adapted = base().model.with_lora(&lora, 7);
    let adapted = adapted.load_adapters(&checkpoint.join("adapter")).unwrap();
    let merged = Policy::load(&checkpoint, DType::F32, &Device::flex()).unwrap();
    let saved = tempfile::tempdir().unwrap();
    save_weights(&adapted, saved.path(), SaveDtype::F32).unwrap();
    let file = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(file(saved.path()), file(&checkpoint));
    assert_ne!(merged.model.fingerprint(), base().model.fingerprint());
    assert_eq!(adapted.fingerprint(), base().model.fingerprint());
}

fn learns(dtype: &str) -> Vec<StepMetrics> {
    let dir = tempfile::tempdir().unwrap();
    learns_into(&[dtype], &dir.path().join("run"))
}

fn learns_into(settings: &[&str], path: &Path) -> Vec<StepMetrics> {
    const ALL: [&str; 4] = [
        "steps=12",
        "validation.problems=0",
        "checkpoint.rollouts=false",
        "update.recompute_log_probs=true",
    ];
    let config = config(&[&ALL[..], settings].concat());
    let lines = fresh(base(), &config, path);
    // 256 answers a step: the standard error of three steps' mean accuracy is below 2 points.
    let mean = |lines: &[StepMetrics], figure: fn(&StepMetrics) -> f64| {
        lines.iter().map(figure).sum::<f64>() / lines.len() as f64
    };
    let (early, late) = (&lines[1..4], &lines[10..13]);
    let gain = mean(late, |m| m.accuracy_mean) - mean(early, |m| m.accuracy_mean);
    assert!(gain > 0.08, "accuracy rose by {gain:.3} alone");
    let entropy = |lines| mean(lines, |m| m.entropy_token_mean);
    assert!(
        entropy(late) < 0.8 * entropy(early),
        "entropy went from {:.4} to {:.4}",
        entropy(early),
        entropy(late)
    );
    lines
}

const SMALL: [&str; 6] = [
    "steps=2",
    "rollout.prompts_per_step=8",
    "update.mini_batch_prompts=2",
    "update.max_tokens=256",
    "validation.problems=8",
    "checkpoint.every=1",
];

#[test]
fn a_seed_gives_one_run_whatever_the_threads_and_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let losses: [&[&str]; 2] = [
        &["loss.type=kl_cov", "advantage.type=remax"],
        &[
            "loss.type=clip_cov",
            "advantage.type=gae",
            "entropy.bonus.coef=0.01",
        ],
    ];
    for (index, loss) in losses.iter().enumerate() {
        let settings = [&SMALL[..], loss].concat();
        let many = fresh(
            base(),
            &config(&settings),
            &dir.path().join(format!("many-{index}")),
        );
        let one = ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap()
            .install(|| {
                let settings = [&settings[..], &["rollout.batch_rows=5"]].concat();
                fresh(
                    base(),
                    &config(&settings),
                    &dir.path().join(format!("one-{index}")),
                )
            });
        for (many, one) in without_times(&many).iter().zip(without_times(&one)) {
            assert_eq!(*many, one, "{loss:?}");
        }
        assert!(many[2].selected_tokens > 0);
    }
}

#[test]
fn what_is_kept_for_the_backward_pass_changes_no_bit_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    // With `small`, passes that measure are not held until their update. A critic has a trunk of its own, which is
    // computed alike.
    let runs: [&[&str]; 6] = [
        &["advantage.type=gae"],
        &[
            "lora.targets=[\"q_proj\", \"down_proj\"]",
            "model.dtype=bf16",
        ],
        &["advantage.type=gae", "model.dtype=bf16"],
        &["loss.type=kl_cov", "update.recompute_log_probs=true"],
        &["loss.type=clip_cov", "rollout.dtype=int8"],
        &[
            "loss.type=kl_cov",
            "loss.reference_kl.coef=0.01",
            "entropy.bonus.coef=0.01",
            "update.epochs=2",
        ],
    ];
    for (index, run) in runs.into_iter().enumerate() {
        let modes = ["small", "balanced", "fast"].map(|memory| {
            let setting = format!("update.memory={memory}");
            let config = config(&[&SMALL[..], run, &[setting.as_str()]].concat());
            fresh(
                base(),
                &config,
                &dir.path().join(format!("{index}-{memory}")),
            )
        });
        let [small, balanced, fast] = modes.map(|lines| without_times(&lines));
        assert_eq!(small, balanced, "{run:?}");
        assert_eq!(small, fast, "{run:?}");
    }
}

/// Generation on rounded weights differs from training a little, says by how much, and is corrected for.
#[test]
fn generation_may_round_its_weights_alone() {
    let dir = tempfile::tempdir().unwrap();
    for (dtype, training, most_kl) in [
        ("bf16", "f32", 1e-3),
        ("int8", "f32", 1e-2),
        ("int8", "bf16", 1e-2),
    ] {
        let settings = [
            format!("rollout.dtype={dtype}"),
            format!("model.dtype={training}"),
        ];
        let settings: Vec<&str> = SMALL
            .into_iter()
            .chain(settings.iter().map(String::as_str))
            .collect();
        let folder = dir.path().join(format!("{dtype}-{training}"));
        for line in &fresh(base(), &config(&settings), &folder)[1..] {
            let kl = line.sampler_kl.unwrap();
            assert!(
                kl > 0.0 && kl < most_kl,
                "{dtype}, step {}: KL {kl:e}",
                line.step
            );
            assert!(line.sampler_log_prob_gap > 0.0);
            let weight = line.correction_weight_mean.unwrap();
            assert!((weight - 1.0).abs() < 0.05, "{dtype}: mean weight {weight}");
        }
    }
    let refused = [
        ["rollout.dtype=f16", "model.dtype=f32"],
        ["rollout.dtype=f32", "model.dtype=bf16"],
    ];
    for settings in refused {
        let settings = settings.map(str::to_owned);
        let error = TrainConfig::load(None, &settings).and_then(|config| config.validate());
        let message = error.unwrap_err().to_string();
        assert!(message.contains("rollout.dtype"), "{message}");
    }
}

/// Runs with state of their own, which a resume must find again.
const STATEFUL: [&[&str]; 11] = [
    &[],
    &["model.dtype=bf16", "optimizer.learning_rate=1e-5"],
    &["rollout.oversampling=3", "rollout.group_size=4"],
    &["advantage.type=gae", "critic.learning_rate=1e-3"],
    &[
        "advantage.type=gae",
        "critic.trunk=policy",
        "critic.learning_rate=1e-3",
    ],
    &["loss.reference_kl.coef=1.0", "entropy.adaptive.delta=1e-3"],
    &["loss.reference_kl.coef=1.0", "model.dtype=bf16"],
    &["loss.reference_kl.coef=1.0", "lora.rank=4"],
    &[
        "lora.rank=4",
        "advantage.type=gae",
        "critic.learning_rate=1e-3",
    ],
    &[
        "lora.rank=4",
        "model.dtype=bf16",
        "advantage.type=gae",
        "critic.trunk=policy",
        "critic.learning_rate=1e-3",
    ],
    &[
        "loss.type=kl_cov",
        "entropy.budget.target_nats=0.3",
        "entropy.budget.lever=kl_coef",
    ],
];

#[test]
fn a_resumed_run_goes_on_as_if_it_had_not_stopped() {
    let dir = tempfile::tempdir().unwrap();
    for (index, settings) in STATEFUL.iter().enumerate() {
        let path = dir.path().join(index.to_string());
        let config = config(&[&SMALL[..], settings].concat());
        let whole = fresh(base(), &config, &path);
        let (step, checkpoint) = list_checkpoints(&path).unwrap().remove(0);
        assert_eq!(step, 1);
        let last = path.join("checkpoints/step-000002");
        let mut saved = BTreeMap::new();
        read_all(&last, &mut saved);
        let device = Device::flex().autodiff();
        let policy = resume_policy(&config, &checkpoint, &device).unwrap();
        let mut trainer = Trainer::new(config.clone(), policy).unwrap();
        trainer.load_state(&checkpoint).unwrap();
        if config.rollout.oversampling > 1.0 {
            assert!(
                !trainer.state().surplus.is_empty(),
                "nothing was carried over"
            );
        }
        let mut folder = RunFolder::reopen(&path, step, &config).unwrap();
        let rest = run(trainer, &mut folder);
        assert_eq!(
            without_times(&rest),
            without_times(&whole[2..]),
            "{settings:?}"
        );
        let text = std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
        let written: Vec<StepMetrics> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(without_times(&written), without_times(&whole));
        // Weights, moments, the critic's, and the run's state: every file to the bit.
        let mut found = BTreeMap::new();
        read_all(&last, &mut found);
        assert!(found.len() >= 8 && found == saved, "{settings:?}");
    }
}

/// Every file below a folder.
fn read_all(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, files);
        } else {
            let content = std::fs::read(&path).unwrap();
            files.insert(path, content);
        }
    }
}

/// Updates far below bf16's resolution add up, as the weights that they change are f32.
#[test]
fn half_precision_computes_over_weights_of_full_precision() {
    let settings = [
        &SMALL[..],
        &[
            "steps=1",
            "validation.problems=0",
            "optimizer.learning_rate=1e-6",
            "optimizer.warmup_steps=1",
        ],
    ]
    .concat();
    let step = |dtype: &str| {
        let config = config(&[&settings[..], &[dtype]].concat());
        let mut trainer = Trainer::new(config, base()).unwrap();
        let metrics = trainer.step(&mut |_: Event<'_>| ()).unwrap().metrics;
        (trainer, metrics)
    };
    let (full, full_metrics) = step("model.dtype=f32");
    let (half, half_metrics) = step("model.dtype=bf16");
    let weights = |policy: &Policy| {
        let dir = tempfile::tempdir().unwrap();
        policy.save(dir.path(), SaveDtype::F32).unwrap();
        let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let view = tensors.tensor("model.layers.1.mlp.up_proj.weight").unwrap();
        let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        view.data().chunks_exact(4).map(float).collect::<Vec<f32>>()
    };
    let (before, full, half) = (
        weights(&base()),
        weights(full.policy()),
        weights(half.policy()),
    );
    let moved = |after: &[f32]| {
        after
            .iter()
            .zip(&before)
            .filter(|(a, b)| a.to_bits() != b.to_bits())
            .count()
    };
    let share = moved(&half) as f64 / before.len() as f64;
    assert!(share > 0.9, "{share:.3} of the weights moved");
    // Adam's first updates follow the gradient's signs: most of them agree.
    let agree = full.iter().zip(&half).zip(&before);
    let agree = agree.filter(|((f, h), b)| ((*f - **b) > 0.0) == ((*h - **b) > 0.0));
    let agree = agree.count() as f64 / before.len() as f64;
    assert!(agree > 0.8, "{agree:.3} of the updates agree with f32's");
    let shift = half_metrics.entropy_token_mean / full_metrics.entropy_token_mean - 1.0;
    assert!(shift.abs() < 0.2, "entropies differ by {shift:.3}");
}

#[test]
fn what_was_sampled_is_kept_with_what_became_of_it() {
    for more in ["rollout.oversampling=1", "rollout.oversampling=4"] {
        sampled_groups_are_kept(more);
    }
}

fn sampled_groups_are_kept(more: &str) {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&[&SMALL[..], &["steps=1", "validation.problems=0", more]].concat());
    let lines = fresh(base(), &config, &dir.path().join("run"));
    let text = std::fs::read_to_string(dir.path().join("run/rollouts/step-000001.jsonl")).unwrap();
    let trained: Vec<bool> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["samples"][0]["score"]["reward"].is_number());
            line["state"] == "trained"
        })
        .collect();
    assert_eq!(trained.len() as u64, lines[1].groups_sampled);
    let kept = trained.iter().filter(|trained| **trained).count();
    assert_eq!(kept as u64, lines[1].groups_kept);
    assert!(kept < trained.len(), "the filter left nothing out");
}

#[test]
fn a_file_validates_a_task_by_the_verifier_and_with_the_instruction() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("held-out.jsonl");
    std::fs::write(&file, "{\"problem\": \"1+1\", \"answer\": \"2\"}\n").unwrap();
    let setting = format!("data.validation={}", file.display());
    let source = ProblemSource::new(&config(&[&setting])).unwrap();
    assert!(source.is_task() && !source.validates_task());
    let problem = &source.validation()[0];
    let correct = |reward: &dyn reward::Reward, text| {
        reward.score(problem, &reward::Response::from(text)).correct
    };
    assert!(correct(source.validation_reward(), "so it is \\boxed{2}"));
    assert!(!correct(source.validation_reward(), "so it is \\boxed{3}"));
    let own = ProblemSource::new(&config(&[])).unwrap();
    assert!(own.validates_task());
}

fn go_on(_: SftProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_supervised_run_that_is_told_to_stop_gives_what_it_has() {
    let settings = ["steps=9", "batch_size=4", "validation_problems=0"].map(str::to_owned);
    let config = SftConfig::load(None, &settings).unwrap();
    let policy = config.new_policy(&Device::flex().autodiff()).unwrap();
    let before = policy.model.fingerprint();
    let mut stop = |progress: SftProgress| match progress.step {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let (policy, report) = train_supervised(&config, policy, &mut stop).unwrap();
    assert_eq!(report.steps, 3);
    assert_ne!(policy.model.fingerprint(), before);
}

/// The same solutions teach adapters, over weights that stay.
#[test]
fn supervised_runs_teach_adapters_too() {
    let settings = [
        "model.path=base",
        "lora.rank=4",
        "steps=20",
        "batch_size=16",
        "validation_problems=0",
        "optimizer.warmup_steps=2",
    ]
    .map(str::to_owned);
    let config = SftConfig::load(None, &settings).unwrap();
    let mut losses = Vec::new();
    let (policy, _) = train_supervised(&config, base(), &mut |progress| {
        losses.push(progress.loss);
        ControlFlow::Continue(())
    })
    .unwrap();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (early, late) = (mean(&losses[..4]), mean(&losses[16..]));
    assert!(late < 0.95 * early, "from {early} to {late}");
    assert_ne!(policy.model.fingerprint(), base().model.fingerprint());
    assert!(!policy.model.has_adapters());
    // Norms, embeddings and biases are what they were.
    let of = |policy: &Policy| {
        let dir = tempfile::tempdir().unwrap();
        policy.save(dir.path(), SaveDtype::F32).unwrap();
        let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let kept = tensors.iter().filter(|(name, _)| !name.contains("_proj"));
        kept.map(|(name, view)| (name.to_owned(), view.data().to_vec()))
            .collect::<BTreeMap<_, _>>()
    };
    assert!(of(&policy) == of(&base()) && of(&policy).len() == 10);
    // A run attaches its own.
    let refused = Trainer::new(config_with_adapters(), with_adapters()).unwrap_err();
    assert!(refused.to_string().contains("adapters"), "{refused}");
}

fn config_with_adapters() -> TrainConfig {
    config(&["lora.rank=2"])
}

fn with_adapters() -> Policy {
    let mut policy = base();
    policy.model = policy.model.with_lora(&LoraConfig::default(), 1);
    policy
}

#[test]
fn supervised_runs_validate_on_a_file_and_refuse_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let (data, held_out) = (
        dir.path().join("data.jsonl"),
        dir.path().join("held-out.jsonl"),
    );
    let line = |n: u32| {
        format!(
            "{{\"problem\": \"{n}+1=\", \"solution\": \"{}\", \"answer\": \"{}\"}}\n",
            n + 1,
            n + 1
        )
    };
    std::fs::write(&data, (1..9).map(line).collect::<String>()).unwrap();
    std::fs::write(&held_out, (1..5).map(line).collect::<String>()).unwrap();
    let settings = |more: &[String]| {
        let mut settings = vec![
            format!("data.train={}", data.display()),
            format!("data.validation={}", held_out.display()),
            "data.instruction=".to_owned(),
            "steps=200".to_owned(),
            "batch_size=8".to_owned(),
            "validation_every=20".to_owned(),
            "stop_at_accuracy=0.5".to_owned(),
            "max_new_tokens=4".to_owned(),
            "optimizer.warmup_steps=5".to_owned(),
        ];
        settings.extend_from_slice(more);
        SftConfig::load(None, &settings).unwrap()
    };
    let teach = |config: &SftConfig| {
        let policy = config.new_policy(&Device::flex().autodiff()).unwrap();
        train_supervised(config, policy, &mut go_on).map(|(_, report)| report)
    };
    let report = teach(&settings(&[])).unwrap();
    assert!(report.sampled_accuracy.unwrap() >= 0.5, "{report:?}");
    assert!(report.steps < 200, "{report:?}");
    let short = settings(&["architecture.max_position_embeddings=7".to_owned()]);
    assert!(matches!(
        teach(&short),
        Err(TrainerError::PromptTooLong { .. })
    ));
    let short = settings(&[
        "architecture.max_position_embeddings=5".to_owned(),
        "max_new_tokens=1".to_owned(),
    ]);
    let error = teach(&short).unwrap_err();
    assert!(
        matches!(error, TrainerError::LessonTooLong { tokens: 6, .. }),
        "{error}"
    );
    // What is too long may be left out, if something is left.
    let dropping = |context: usize| {
        teach(&settings(&[
            format!("architecture.max_position_embeddings={context}"),
            "data.drop_overlong=true".to_owned(),
            "stop_at_accuracy=1".to_owned(),
            "max_new_tokens=1".to_owned(),
            "steps=1".to_owned(),
        ]))
    };
    assert!(matches!(dropping(5), Err(TrainerError::NoneFits)));
    assert_eq!(dropping(6).unwrap().overlong, 0);
    let mixed = (8..12).map(line).collect::<String>();
    std::fs::write(&data, mixed).unwrap();
    // 9+1=10 is a token longer than 8+1=9, and 10+1=11 one more.
    assert_eq!(dropping(6).unwrap().overlong, 3);
}

#[test]
fn a_critic_learns_the_returns() {
    let dir = tempfile::tempdir().unwrap();
    for trunk in ["own", "policy"] {
        // While the policy waits for its critic, every run samples the same.
        let value_loss = |rate: &str| {
            let trunk_setting = format!("critic.trunk={trunk}");
            let rate_setting = format!("critic.learning_rate={rate}");
            let critic = [
                "steps=4",
                "update.epochs=4",
                "advantage.type=gae",
                "critic.warmup_steps=4",
                &trunk_setting,
                &rate_setting,
            ];
            let settings = [&SMALL[..], &critic].concat();
            let path = dir.path().join(format!("{trunk}-{rate}"));
            fresh(base(), &config(&settings), &path)[4]
                .value_loss
                .unwrap()
        };
        let (taught, untaught) = (value_loss("1e-3"), value_loss("0"));
        assert!(
            taught < 0.9 * untaught,
            "{trunk}: {taught} after, {untaught} without learning"
        );
    }
}

#[test]
fn a_reference_holds_the_policy_near() {
    let dir = tempfile::tempdir().unwrap();
    let divergence = |settings: &[&str], name: &str| {
        let settings = [
            &SMALL[..],
            &["steps=3", "optimizer.warmup_steps=1"],
            settings,
        ]
        .concat();
        let lines = fresh(base(), &config(&settings), &dir.path().join(name));
        lines[3].reference_kl.unwrap()
    };
    let free = divergence(&["loss.reference_kl.coef=0.0"], "free");
    let held = divergence(&["loss.reference_kl.coef=10.0"], "held");
    assert!(
        held < 0.7 * free,
        "KL {held:.2e} with the penalty, {free:.2e} without"
    );
}

/// A program that scores by length, another that never answers: the first trains, the second ends the run.
#[cfg(unix)]
#[test]
fn rewards_are_combined_and_come_from_programs_too() {
    let score = r#"while read -r line; do id=$(printf %s "$line" | sed 's/^{"id":\([0-9]*\).*/\1/'); echo "{\"id\": $id, \"reward\": ${#line}}"; done"#;
    let parts = |script: &str, seconds: f64| {
        format!(
            "reward.parts=[{{type=\"task\"}}, {{type=\"external\", weight=0.01, command=[\"sh\", \"-c\", {script:?}], timeout_seconds={seconds}}}]"
        )
    };
    let settings = [
        &SMALL[..],
        &[
            "steps=1",
            "validation.problems=0",
            "rollout.prompts_per_step=2",
            "rollout.group_size=2",
        ],
    ]
    .concat();
    let step = |parts: String| {
        let config = config(&[&settings[..], &[&parts]].concat());
        let mut trainer = Trainer::new(config, base()).unwrap();
        trainer.step(&mut |_: Event<'_>| ())
    };
    let scored = step(parts(score, 20.0)).unwrap();
    assert_eq!(scored.metrics.rewards_missing, 0);
    assert!(
        !scored.trained.is_empty() && scored.metrics.reward_mean > 1.0,
        "{:?}",
        scored.metrics
    );
    let silent = step(parts("cat > /dev/null", 0.2));
    let silent = silent.unwrap_err().to_string();
    assert!(
        silent.starts_with("step 1: none of 12 answers") && silent.contains("external_timeout"),
        "{silent}"
    );
}

#[test]
fn a_reward_that_is_not_finite_drops_its_group() {
    struct Broken;
    impl reward::Reward for Broken {
        fn score(
            &self,
            problem: &reward::Problem,
            response: &reward::Response<'_>,
        ) -> reward::Score {
            let mut score = reward::VerifierReward::default().score(problem, response);
            if problem.id.ends_with('1') {
                score.reward = Some(f64::NAN);
            }
            score
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let config = config(&[&SMALL[..], &["rollout.filter_groups=false", "steps=1"]].concat());
    let stages = Stages::default().with_reward(Broken);
    let mut trainer = Trainer::compose(config.clone(), base(), stages).unwrap();
    let mut folder = RunFolder::create(&dir.path().join("run"), &config).unwrap();
    let (mut dropped, mut warned) = (0, 0);
    trainer
        .run(&mut folder, &mut |event: Event<'_>| match event {
            Event::Step(metrics) => dropped = metrics.groups_dropped,
            Event::Warning(text) => {
                assert!(text.contains("a reward is missing or not finite"), "{text}");
                warned += 1;
            }
            _ => (),
        })
        .unwrap();
    assert!(
        dropped > 0 && dropped == warned,
        "{dropped} dropped, {warned} told"
    );
}

#[test]
fn micro_batches_make_the_update_of_their_mini_batch() {
    let dir = tempfile::tempdir().unwrap();
    let lines_of = |max_tokens: &str, name: &str| {
        let mut settings = SMALL.to_vec();
        settings[3] = max_tokens;
        settings.push("loss.type=kl_cov");
        fresh(base(), &config(&settings), &dir.path().join(name))
    };
    let small = lines_of("update.max_tokens=256", "small");
    let whole = lines_of("update.max_tokens=100000", "whole");
    assert_eq!(small[1].selected_tokens, whole[1].selected_tokens);
    // Sums over micro-batches round differently from a sum over the batch.
    let relative = (small[1].grad_norm / whole[1].grad_norm - 1.0).abs();
    assert!(relative < 1e-3, "gradient norms differ by {relative:e}");
    let shift = (small[1].policy_loss - whole[1].policy_loss).abs();
    assert!(shift < 1e-5, "losses differ by {shift:e}");
}

#[test]
fn a_policy_that_solves_nothing_ends_its_run_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex().autodiff();
    let ignorant = SftConfig::default().new_policy(&device).unwrap();
    for name in ["before", "after"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    ignorant
        .save(&dir.path().join("before"), SaveDtype::F32)
        .unwrap();
    let config = config(&[
        "steps=1",
        "rollout.prompts_per_step=2",
        "rollout.max_new_tokens=8",
        "validation.problems=2",
    ]);
    let path = dir.path().join("run");
    let mut short = 0;
    let mut trainer = Trainer::new(config.clone(), ignorant).unwrap();
    let mut folder = RunFolder::create(&path, &config).unwrap();
    trainer
        .run(&mut folder, &mut |event: Event<'_>| {
            short += usize::from(matches!(event, Event::ShortRollout { groups: 0, .. }));
        })
        .unwrap();
    assert_eq!(short, 1);
    trainer
        .policy()
        .save(&dir.path().join("after"), SaveDtype::F32)
        .unwrap();
    let weights = |name: &str| std::fs::read(dir.path().join(name).join("model.safetensors"));
    assert_eq!(weights("before").unwrap(), weights("after").unwrap());
}

/// A key of a table leaves the table's others as the command has them.
#[test]
fn one_setting_does_not_change_another() {
    let settings = ["optimizer.warmup_steps=5".to_owned()];
    let config = SftConfig::load(None, &settings).unwrap();
    let expected = SftConfig::default().optimizer.learning_rate;
    assert!((config.optimizer.learning_rate - expected).abs() < 1e-15);
    assert_eq!(config.optimizer.warmup_steps, 5);
}

#[test]
fn another_loss_takes_no_setting_of_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    std::fs::write(&file, config(&["loss.clip_low=0.1"]).to_toml().unwrap()).unwrap();
    let load = |item: &str| TrainConfig::load(Some(&file), &[item.to_owned()]).unwrap();
    let gspo = load("loss.type=gspo").loss;
    assert_eq!(
        gspo.aggregation,
        config(&["loss.type=gspo"]).loss.aggregation
    );
    // The same type in other words changes nothing.
    for same in [
        "loss.type=ppo_clip",
        "loss.type= \"ppo_clip\"",
        "loss.type='ppo_clip'",
        "seed=1",
    ] {
        assert_eq!(load(same), config(&["loss.clip_low=0.1"]), "{same}");
    }
    assert_eq!(
        load("loss={type=\"kl_cov\"}").loss.loss,
        load("loss.type=kl_cov").loss.loss
    );
}

#[test]
fn every_recipe_is_a_valid_configuration() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().unwrap().to_str().unwrap() {
            "base.toml" | "base_large.toml" | "gsm8k_smollm2_sft.toml" => {
                drop(SftConfig::load(Some(&path), &[]).unwrap());
            }
            // The command's own tests read it.
            "compare.toml" => (),
            _ => drop(TrainConfig::load(Some(&path), &[]).unwrap()),
        }
        count += 1;
    }
    assert!(count >= 6, "{count} recipes");
}

#[test]
fn a_seed_gives_one_supervised_run_whatever_the_threads() {
    let settings = ["steps=3", "batch_size=24", "validation_problems=4"].map(str::to_owned);
    let config = SftConfig::load(None, &settings).unwrap();
    let weights = || {
        let policy = config.new_policy(&Device::flex().autodiff()).unwrap();
        let (policy, _) = train_supervised(&config, policy, &mut go_on).unwrap();
        let dir = tempfile::tempdir().unwrap();
        policy.save(dir.path(), SaveDtype::F32).unwrap();
        std::fs::read(dir.path().join("model.safetensors")).unwrap()
    };
    let many = weights();
    let one = ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap()
        .install(weights);
    assert_eq!(many, one);
}

/// PPO's clip as somebody else would write it.
#[derive(Debug)]
struct OwnLoss(PpoClip);

impl PolicyLoss for OwnLoss {
    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        self.0.per_token(terms)
    }
}

/// One loss a response.
#[derive(Debug)]
struct OfSequences;

impl PolicyLoss for OfSequences {
    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        PpoClip::default().per_token(terms)
    }

    fn granularity(&self) -> Granularity {
        Granularity::Sequence
    }
}

/// Compares no groups.
#[derive(Debug)]
struct OfAll;

impl Estimator for OfAll {
    fn compares_groups(&self) -> bool {
        false
    }

    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        Ok(inputs.broadcast(&inputs.outcomes()))
    }
}

/// RLOO as somebody else would write it.
#[derive(Debug)]
struct OwnEstimator;

impl Estimator for OwnEstimator {
    fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
        let figures = inputs.map_groups(|rewards, _| {
            let (sum, others) = (rewards.iter().sum::<f64>(), rewards.len() as f64 - 1.0);
            rewards
                .iter()
                .map(|reward| reward - (sum - reward) / others)
                .collect()
        });
        Ok(inputs.broadcast(&figures))
    }
}

/// The built-in task, as somebody else's.
struct OwnTask {
    task: Box<dyn Task>,
    asked: Arc<AtomicUsize>,
}

impl Task for OwnTask {
    fn name(&self) -> &'static str {
        "own"
    }

    fn problem(&self, split: Split, seed: u64, index: u64) -> Problem {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.task.problem(split, seed, index)
    }

    fn reward(&self) -> Box<dyn Reward> {
        self.task.reward()
    }
}

#[test]
fn stages_of_ones_own_are_those_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let named = config(&[&SMALL[..], &["advantage.type=rloo", "entropy.kl_cov={}"]].concat());
    let expected = fresh(base(), &named, &dir.path().join("named"));
    let own = config(&[&SMALL[..], &["entropy.kl_cov={}", "loss.type=reinforce"]].concat());
    let asked = Arc::new(AtomicUsize::new(0));
    let stages = Stages::default()
        .with_task(OwnTask {
            task: own.task.build().unwrap(),
            asked: Arc::clone(&asked),
        })
        .with_estimator(OwnEstimator)
        .with_loss(OwnLoss(PpoClip::default()));
    let trainer = Trainer::compose(own.clone(), base(), stages).unwrap();
    let mut folder = RunFolder::create(&dir.path().join("own"), &own).unwrap();
    let found = run(trainer, &mut folder);
    assert!(asked.load(Ordering::Relaxed) >= 2 * 8);
    assert_eq!(found.len(), expected.len());
    for (own, named) in found[1..].iter().zip(&expected[1..]) {
        let figures = |m: &StepMetrics| [m.policy_loss, m.grad_norm, m.reward_mean];
        for (own, named) in figures(own).into_iter().zip(figures(named)) {
            assert!((own - named).abs() < 1e-5, "{own} is not {named}");
        }
    }
    // A command that has no such stages does not go on with the run.
    let (_, checkpoint) = list_checkpoints(&dir.path().join("own")).unwrap().remove(0);
    let mut without = Trainer::new(own.clone(), base()).unwrap();
    let refused = without.load_state(&checkpoint).unwrap_err().to_string();
    assert!(refused.contains("task, loss, estimator"), "{refused}");
    // What a stage has by default is its own.
    let stages = Stages::default()
        .with_loss(OfSequences)
        .with_estimator(OfAll);
    let trainer = Trainer::compose(config(&SMALL), base(), stages).unwrap();
    let (loss, rollout) = (&trainer.config().loss, &trainer.config().rollout);
    assert_eq!(loss.aggregation, Some(Aggregation::SeqMeanTokenMean));
    assert_eq!(rollout.filter_groups, Some(false));
    // So too where nobody chose one.
    let stages = Stages::default()
        .with_loss(OfSequences)
        .with_estimator(OfAll);
    let mut unset = config(&SMALL);
    (unset.loss.aggregation, unset.rollout.filter_groups) = (None, None);
    let trainer = Trainer::compose(unset, base(), stages).unwrap();
    assert_eq!(trainer.config().rollout.filter_groups, Some(false));
    assert_eq!(
        trainer.config().loss.aggregation,
        Some(Aggregation::SeqMeanTokenMean)
    );
    let alone = config(
        &[
            &SMALL[..],
            &["rollout.group_size=1", "rollout.filter_groups=false"],
        ]
        .concat(),
    );
    Trainer::compose(alone, base(), Stages::default().with_estimator(OfAll)).unwrap();
    // With a reward of one's own, nobody else has to read the answers.
    let problems = dir.path().join("problems.jsonl");
    std::fs::write(
        &problems,
        "{\"problem\": \"1+1=\", \"answer\": \"\\\\frac{1\"}\n",
    )
    .unwrap();
    let setting = format!("data.train={}", problems.display());
    let unreadable = config(&[&SMALL[..], &[setting.as_str()]].concat());
    let refused = Trainer::new(unreadable.clone(), base()).unwrap_err();
    assert!(
        matches!(refused, TrainerError::UnreadableGold { .. }),
        "{refused}"
    );
    let stages = Stages::default().with_reward(reward::ExactTextReward::default());
    Trainer::compose(unreadable, base(), stages).unwrap();
    // The verifier reads them as a part among others too; other parts do not.
    for (parts, is_read) in [
        (
            "reward.parts=[{type=\"verifier\"}, {type=\"overlong\"}]",
            true,
        ),
        ("reward.parts=[{type=\"task\"}, {type=\"overlong\"}]", true),
        ("reward.parts=[{type=\"exact_text\"}]", false),
    ] {
        let config = config(&[&SMALL[..], &[setting.as_str(), parts]].concat());
        let refused = Trainer::new(config, base()).err();
        let is_refused = matches!(refused, Some(TrainerError::UnreadableGold { .. }));
        assert_eq!(is_refused, is_read, "{parts}");
    }
}
