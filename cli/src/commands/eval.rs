//! `anneal eval`.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use reward::{Problem, Reward, Split, TaskConfig, VerifierReward, load_problems};
use rollout::SamplingParams;
use serde_json::{Map, Value, json};
use trainer::{
    AnswerKey, Answerer, DataSection, Figure, Group, PromptFormat, accuracies, load_policy,
    majority, pass_at,
};

use super::{print_json, say};
use crate::{args::EvalArgs, device, progress};

/// Held-out problems of the built-in task, where no file is named.
const TASK_PROBLEMS: usize = 256;
const BATCH_ROWS: usize = 128;

pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    if args.samples == 0 {
        bail!("--samples must be at least 1");
    }
    let device = device::parse(&args.device.device)?;
    let (problems, reward) = problems(args)?;
    let policy = load_policy(
        args.model.as_deref().unwrap_or_default(),
        DType::F32,
        &device,
    )?;
    let params = SamplingParams {
        temperature: args.temperature,
        max_new_tokens: args.max_new_tokens,
        stop_token_ids: policy.end_token_ids(),
        ..SamplingParams::default()
    };
    let answerer = Answerer {
        policy: &policy,
        format: PromptFormat::new(&policy, &DataSection::default(), args.data.is_none())?,
        reward: reward.as_ref(),
        params: &params,
        batch_rows: BATCH_ROWS,
    };
    let key = AnswerKey {
        seed: args.seed,
        step: 0,
        first_row: 0,
    };
    let bar = progress::bar((problems.len() * args.samples) as u64, "answers");
    let groups = answerer.answer(problems, args.samples, key, &mut |progress| {
        progress::show_generation(&bar, progress);
    })?;
    bar.finish_and_clear();
    if let Some(path) = &args.responses {
        write_responses(path, &groups)?;
    }
    let report = report(args, &groups);
    say(&table(&report));
    print_json(&report)
}

type Problems = (Vec<Problem>, Box<dyn Reward>);

fn problems(args: &EvalArgs) -> Result<Problems> {
    let limit = args.limit.unwrap_or(usize::MAX);
    if let Some(path) = &args.data {
        let mut problems = load_problems(path)?;
        problems.truncate(limit.max(1));
        return Ok((problems, Box::new(VerifierReward::default())));
    }
    let task = TaskConfig::default().build()?;
    let count = limit.clamp(1, TASK_PROBLEMS) as u64;
    let problems = (0..count)
        .map(|index| task.problem(Split::HeldOut, 0, index))
        .collect();
    Ok((problems, task.reward()))
}

fn write_responses(path: &Path, groups: &[Group]) -> Result<()> {
    let place = || path.display().to_string();
    let mut file = BufWriter::new(File::create(path).with_context(place)?);
    for group in groups {
        serde_json::to_writer(&mut file, group)?;
        file.write_all(b"\n").with_context(place)?;
    }
    file.flush().with_context(place)
}

/// The contract's keys: each figure with its 95 % interval.
fn report(args: &EvalArgs, groups: &[Group]) -> Value {
    let figure = |values: &[f64]| json!(Figure::of(values, args.seed));
    let powers = (0..)
        .map(|n| 1_usize << n)
        .take_while(|&k| k <= args.samples);
    let pass: Map<String, Value> = powers
        .map(|k| (k.to_string(), figure(&pass_at(groups, k))))
        .collect();
    let majority_at = json!({ args.samples.to_string(): figure(&majority(groups)) });
    let mean = figure(&accuracies(groups));
    let is_greedy = args.temperature == 0.0;
    json!({
        "data": args.data.as_ref().map_or_else(|| "arithmetic".into(), |path| path.display().to_string()),
        "problems": groups.len(),
        "samples": args.samples,
        "temperature": args.temperature,
        "mean": mean,
        "pass_at": pass,
        "majority_at": majority_at,
        "greedy": if is_greedy { mean.clone() } else { Value::Null },
        "truncated_fraction": truncated(groups),
    })
}

fn truncated(groups: &[Group]) -> f64 {
    let samples = || groups.iter().flat_map(|group| &group.samples);
    let cut = samples()
        .filter(|sample| sample.rollout.finish.is_truncated())
        .count();
    cut as f64 / samples().count() as f64
}

/// The same for people.
fn table(report: &Value) -> String {
    let line = |name: &str, figure: &Value| {
        let percent = |value: &Value| 100.0 * value.as_f64().unwrap_or(f64::NAN);
        let interval = &figure["interval"];
        let (low, high) = (percent(&interval[0]), percent(&interval[1]));
        format!(
            "{name:<12} {:5.1} %  (95 %: {low:.1} to {high:.1})",
            percent(&figure["value"])
        )
    };
    let mut lines = vec![format!(
        "{}: {} problems",
        report["data"], report["problems"]
    )];
    lines.push(line("mean", &report["mean"]));
    for (k, figure) in report["pass_at"].as_object().into_iter().flatten() {
        lines.push(line(&format!("pass@{k}"), figure));
    }
    for (k, figure) in report["majority_at"].as_object().into_iter().flatten() {
        lines.push(line(&format!("majority@{k}"), figure));
    }
    lines.join("\n")
}
