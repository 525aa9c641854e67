//! `anneal train`.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device};
use indicatif::ProgressBar;
use trainer::{
    Event, MemoryEstimate, RunFolder, RunLock, StepMetrics, TrainConfig, Trainer, TrainerError,
    changed_settings, load_policy, newest_checkpoint, remove_surplus, resume_policy,
};

use super::say;
use crate::{
    advice::Advised, allocator, args::TrainArgs, device, progress, progress::Heartbeat,
    report::Report, signals::Signals, summary::Summary,
};

pub(crate) fn run(args: TrainArgs) -> Result<()> {
    let signals = Signals::watch()?;
    let device = device::parse(&args.device.device)?.autodiff();
    if args.dry_run {
        return rehearse(&args, &device);
    }
    let begun = match &args.resume {
        Some(run) => resume(run, &args, &device)?,
        None => Some(start(&args, &device)?),
    };
    let Some((mut trainer, mut folder)) = begun else {
        return Ok(());
    };
    let mut watch = Watch::new(&trainer, &folder)?;
    trainer.stop_when(signals.flag());
    match trainer.run(&mut folder, &mut |event: Event<'_>| watch.on_event(event)) {
        Err(TrainerError::Stopped { step }) => {
            watch.bar.finish_and_clear();
            return Err(signals.stopped(how_to_go_on(folder.path(), step)).into());
        }
        outcome => outcome?,
    }
    watch.finish(folder.path());
    write_report(folder.path());
    Ok(())
}

/// `1 step`, `2 steps`.
fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn how_to_go_on(folder: &Path, step: u64) -> String {
    let kept = match step {
        0 => "no step is saved yet".to_owned(),
        step => format!("step {step} is saved"),
    };
    format!(
        "{kept}; go on with\n  anneal train --resume {}",
        quoted(folder)
    )
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Leaves a page in the run's folder. The run is done and saved by now: a page that cannot be written is no failure of it.
fn write_report(folder: &Path) {
    let page = folder.join("report.html");
    let written = Report::of(&[folder.to_owned()]).and_then(|report| report.write(&page));
    match written {
        Ok(()) => say(&format!("report             {}", page.display())),
        Err(error) => say(&format!("warning: no report: {error:#}")),
    }
}

/// The command line's settings, named options included.
fn overrides(args: &TrainArgs) -> Vec<String> {
    let named = [
        args.steps.map(|steps| format!("steps={steps}")),
        args.seed.map(|seed| format!("seed={seed}")),
        args.model
            .as_ref()
            .map(|model| format!("model.path={model:?}")),
    ];
    args.overrides
        .iter()
        .cloned()
        .chain(named.into_iter().flatten())
        .collect()
}

fn start(args: &TrainArgs, device: &Device) -> Result<(Trainer, RunFolder)> {
    let config = TrainConfig::load(args.config.as_deref(), &overrides(args))?.with_whole_paths();
    let out = match &args.out {
        Some(out) => out.clone(),
        None => unused_folder(&config)?,
    };
    RunFolder::check_unused(&out)?;
    let policy = load_policy(&config.model.path, DType::F32, device)?;
    // All that input can get wrong is checked before the folder is made.
    let trainer = Trainer::new(config, policy)?;
    let folder = RunFolder::create(&out, trainer.config())?;
    Ok((trainer, folder))
}

/// All that a start checks, and what the run would take of the device's memory; nothing is written.
fn rehearse(args: &TrainArgs, device: &Device) -> Result<()> {
    let config = TrainConfig::load(args.config.as_deref(), &overrides(args))?;
    if let Some(out) = &args.out {
        RunFolder::check_unused(out)?;
    }
    let policy = load_policy(&config.model.path, DType::F32, device)?;
    let trainer = Trainer::new(config, policy)?;
    for warning in trainer.warnings() {
        say(&format!("warning: {warning}"));
    }
    let estimate = trainer.memory_estimate();
    let name = args.device.device.as_str();
    write!(
        std::io::stdout(),
        "{}",
        memory_table(&estimate, &parameters(&trainer), name)
    )?;
    if !estimate.fits() {
        let adapters = match trainer.config().lora {
            None => ", or train adapters alone (lora={})",
            Some(_) => "",
        };
        return Err(Advised::new(
            format!("--device {name} has less memory than this run is estimated to take"),
            format!("lower update.max_tokens or rollout.batch_rows{adapters}"),
        )
        .into());
    }
    Ok(())
}

/// How many parameters a policy has, and how many of them are trained where not all are.
fn parameters(trainer: &Trainer) -> String {
    let policy = trainer.policy();
    let millions = |count: u64| format!("{:.1} M", count as f64 / 1e6);
    let all = millions(policy.config.parameters());
    if trainer.config().lora.is_none() {
        return format!("{all} parameters");
    }
    let trained = millions(policy.model.trained_parameters());
    format!("{all} parameters, {trained} more in adapters")
}

/// What a run would take, line by line.
fn memory_table(estimate: &MemoryEstimate, parameters: &str, device: &str) -> String {
    let gigabytes = |bytes: u64| format!("{:9.3} GB", bytes as f64 / 1e9);
    let tokens = format!("a pass of {} tokens", estimate.tokens);
    let mut lines = vec![
        ("weights".to_owned(), gigabytes(estimate.weights)),
        ("gradients".to_owned(), gigabytes(estimate.gradients)),
        ("AdamW's moments".to_owned(), gigabytes(estimate.moments)),
        (
            "reference, critic".to_owned(),
            gigabytes(estimate.other_models),
        ),
        ("generation".to_owned(), gigabytes(estimate.generation)),
        (tokens, gigabytes(estimate.pass)),
        ("at most at once".to_owned(), gigabytes(estimate.total())),
    ];
    let available = estimate.available.map_or_else(
        || "     not known: the device does not say".to_owned(),
        gigabytes,
    );
    let have = if device.starts_with("flex") {
        "free on"
    } else {
        "in all on"
    };
    lines.push((format!("{have} {device}"), available));
    let title = format!("{parameters}; an estimate, generation and updates taking turns");
    let body = lines
        .iter()
        .map(|(name, value)| format!("{name:<24}{value}"));
    let all: Vec<String> = std::iter::once(title).chain(body).collect();
    all.join("\n") + "\n"
}

/// `runs/arithmetic-ppo_clip-seed-1`, with a number after it where that is taken.
fn unused_folder(config: &TrainConfig) -> Result<PathBuf> {
    let name = config.run_name();
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    let free = names.find_map(|name| {
        let path = Path::new("runs").join(name);
        (!path.exists()).then_some(path)
    });
    free.context("no free name in runs/")
}

/// The run as its newest whole checkpoint has it; `None` where it is finished.
fn resume(run: &Path, args: &TrainArgs, device: &Device) -> Result<Option<(Trainer, RunFolder)>> {
    let file = run.join("config.toml");
    let saved = TrainConfig::load(Some(&file), &[])?;
    let mut config = TrainConfig::load(Some(&file), &overrides(args))?;
    if saved == saved.clone().with_whole_paths() {
        config = config.with_whole_paths();
    }
    let mut model = saved.model.clone();
    if config.lora.is_some() {
        // Where its model is now; which one it is, is seen from its weights.
        model.path.clone_from(&config.model.path);
    }
    if config.model != model || config.lora != saved.lora {
        bail!(
            "{}: a run goes on with its own model; leave model.path, model.dtype and lora as they are",
            run.display()
        );
    }
    // Before anything of the run is read, as another process may be changing it.
    let lock = RunLock::take(run)?;
    let mut warn = |error: &TrainerError| say(&format!("warning: passed over: {error}"));
    let Some((step, checkpoint)) = newest_checkpoint(run, &mut warn)? else {
        if config.model != saved.model {
            bail!(
                "{}: the run has no checkpoint yet, and begins with its own model; leave model.path as it is",
                run.display()
            );
        }
        say("the run has no checkpoint yet; it starts again from its first step");
        let policy = load_policy(&config.model.path, DType::F32, device)?;
        let trainer = Trainer::new(config, policy)?;
        let folder = RunFolder::go_on(lock, 0, trainer.config())?;
        return Ok(Some((trainer, folder)));
    };
    if step >= config.steps {
        remove_surplus(run, &checkpoint, &saved.checkpoint)?;
        let (run, steps) = (run.display(), config.steps);
        say(&format!(
            "{run}: the run is finished at step {step} of {steps}; go on with --steps N"
        ));
        return Ok(None);
    }
    let changed = changed_settings(&checkpoint, &config)?;
    let policy = resume_policy(&config, &checkpoint, device)?;
    let changed_monitor = config.monitor != saved.monitor;
    let mut trainer = Trainer::new(config, policy)?;
    trainer.load_state(&checkpoint)?;
    if let Some(reason) = &trainer.state().ended
        && !changed_monitor
    {
        bail!(
            "{}: the run ended itself at step {step}: {reason}; go on by changing monitor.*, such as monitor.stop_below_gain=0",
            run.display()
        );
    }
    trainer.go_on();
    let folder = RunFolder::go_on(lock, step, trainer.config())?;
    say(&format!("going on from step {step}"));
    for change in changed {
        say(&format!("changed from here on: {change}"));
    }
    Ok(Some((trainer, folder)))
}

/// Shows a run as it goes.
struct Watch {
    bar: ProgressBar,
    heartbeat: Heartbeat,
    /// Steps since one taught anything, and the sum of their accuracies.
    idle: (u64, f64),
    summary: Summary,
    last: String,
}

impl Watch {
    fn new(trainer: &Trainer, folder: &RunFolder) -> Result<Self> {
        let config = trainer.config();
        let parameters = parameters(trainer);
        let model = match config.model.path.as_str() {
            "" => "the bundled base",
            path => path,
        };
        say(&format!(
            "training {model} ({parameters}) on {} for {} of {} × {}, into {}",
            config.problems(),
            counted(config.steps, "step"),
            counted(config.rollout.prompts_per_step as u64, "problem"),
            counted(config.rollout.group_size as u64, "answer"),
            folder.path().display()
        ));
        // A run that goes on is summed up whole.
        let mut summary = Summary::new(config.rollout.prompts_per_step);
        folder.metrics()?.iter().for_each(|step| summary.add(step));
        let bar = progress::bar(config.steps, "step");
        bar.set_position(trainer.state().step);
        Ok(Self {
            bar,
            heartbeat: Heartbeat::new(),
            idle: (0, 0.0),
            summary,
            last: String::new(),
        })
    }

    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::Generating { progress, .. } => {
                self.show(&format!("answers {}/{}", progress.finished, progress.total));
            }
            Event::Validating { progress, .. } => {
                self.show(&format!(
                    "validating {}/{}",
                    progress.finished, progress.total
                ));
            }
            Event::Updating { done, total, .. } => self.show(&format!("updates {done}/{total}")),
            Event::Step(metrics) => self.on_step(metrics),
            Event::Checkpoint(_) => allocator::release_free_memory(),
            Event::Warning(text) => self.bar.suspend(|| say(&format!("warning: {text}"))),
            _ => (),
        }
    }

    fn on_step(&mut self, metrics: &StepMetrics) {
        self.summary.add(metrics);
        if metrics.step > 0 {
            self.bar.set_position(metrics.step);
            if !self.bar.is_hidden() {
                self.last = self.summary.line(metrics);
            }
            self.watch_idleness(metrics);
            let summary = &self.summary;
            let line = self.heartbeat.line(&self.bar, || {
                format!("step {:>4}  {}", metrics.step, summary.line(metrics))
            });
            if let Some(line) = line {
                say(&line);
            }
        }
        // In a log too, where these few lines are all that tells how far a run is.
        if let Some(accuracy) = metrics.validation_accuracy {
            let entropy = if metrics.step == 0 {
                String::new()
            } else {
                format!("  entropy {:.3} nats", metrics.entropy_token_mean)
            };
            let line = format!(
                "step {:>4}  held-out accuracy {:5.1} %{entropy}",
                metrics.step,
                100.0 * accuracy
            );
            self.bar.suspend(|| say(&line));
        }
        self.show("");
    }

    /// Warns of steps whose groups were all right or all wrong, the first time after three of them.
    fn watch_idleness(&mut self, metrics: &StepMetrics) {
        const FIRST: u64 = 3;
        // What has no reward is told of by the step.
        let has_rewards = metrics.rewards_missing == 0 && metrics.groups_dropped == 0;
        if metrics.groups_kept > 0 || !has_rewards {
            self.idle = (0, 0.0);
            return;
        }
        self.idle = (self.idle.0 + 1, self.idle.1 + metrics.accuracy_mean);
        let (steps, accuracies) = self.idle;
        if steps.is_multiple_of(FIRST) && (steps / FIRST).is_power_of_two() {
            let warning = format!(
                "warning: the last {steps} steps taught nothing: the answers to each problem were rewarded alike ({:.1} % right); take \
                 problems that the model solves now and then",
                100.0 * accuracies / steps as f64
            );
            self.bar.suspend(|| say(&warning));
        }
    }

    fn show(&self, doing: &str) {
        self.bar.set_message(format!("{}  {doing}", self.last));
    }

    fn finish(&self, folder: &Path) {
        self.bar.finish_and_clear();
        say(&self.summary.closing(folder));
    }
}
