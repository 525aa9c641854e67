//! `anneal sft`.

use std::ops::ControlFlow;

use anyhow::Result;
use burn::tensor::DType;
use policy::{OutputFolder, SaveDtype};
use trainer::{SftConfig, SftReport, load_policy, train_supervised};

use super::{print_json, say, train::quoted};
use crate::{args::SftArgs, device, progress, progress::Heartbeat, signals::Signals};

pub(crate) fn run(args: SftArgs) -> Result<()> {
    let device = device::parse(&args.device.device)?.autodiff();
    let config = SftConfig::load(args.config.as_deref(), &args.overrides)?;
    let out = OutputFolder::create(&args.out)?;
    let policy = match config.model.path.as_str() {
        "" => config.new_policy(&device)?,
        path => load_policy(path, DType::F32, &device)?,
    };
    // Until here there is nothing to save.
    let signals = Signals::watch()?;
    let parameters = policy.config.parameters() as f64 / 1e6;
    say(&format!(
        "teaching a model of {parameters:.2} M parameters for {} steps",
        config.steps
    ));
    let bar = progress::bar(config.steps, "step");
    let mut heartbeat = Heartbeat::new();
    let mut tokens = 0;
    let (policy, report) = train_supervised(&config, policy, &mut |progress| {
        tokens += progress.tokens;
        bar.set_position(progress.step);
        let speed = tokens as f64 / bar.elapsed().as_secs_f64();
        let line = format!("loss {:.4}  {speed:.0} tokens/s", progress.loss);
        bar.set_message(line.clone());
        if let Some(line) = heartbeat.line(&bar, || format!("step {}: {line}", progress.step)) {
            say(&line);
        }
        if let Some(line) = progress.validation.as_ref().and_then(describe) {
            bar.suspend(|| say(&format!("step {}: {line}", progress.step)));
        }
        if signals.is_received() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    bar.finish_and_clear();
    policy.save(out.path(), SaveDtype::F32)?;
    out.publish()?;
    if report.overlong > 0 {
        say(&format!(
            "note: {} problems were left out, too long for the model's context",
            report.overlong
        ));
    }
    if report.skipped > 0 {
        say(&format!(
            "note: {} updates were skipped, their gradient not being finite",
            report.skipped
        ));
    }
    say(&format!("wrote {}", args.out.display()));
    print_json(&report)?;
    if signals.is_received() && report.steps < config.steps {
        let (done, all, out) = (report.steps, config.steps, quoted(&args.out));
        let message = format!(
            "the model as step {done} of {all} left it is in {out}; another run goes on from it with model.path={out}, with moments, \
             warm-up and schedule of its own"
        );
        return Err(signals.stopped(message).into());
    }
    Ok(())
}

/// A validation in words; `None` where there was nothing to validate on.
fn describe(report: &SftReport) -> Option<String> {
    let (greedy, sampled) = (report.greedy_accuracy?, report.sampled_accuracy?);
    let entropy = report.sampled_entropy_nats?;
    Some(format!(
        "loss {:.4}, accuracy {:.1} % greedy and {:.1} % sampled, entropy {entropy:.3} nats",
        report.loss,
        100.0 * greedy,
        100.0 * sampled,
    ))
}
