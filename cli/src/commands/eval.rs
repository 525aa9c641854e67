//! `anneal eval`.

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use policy::Policy;
use reward::{Problem, Reward, Split, VerifierReward, load_problems};
use rollout::SamplingParams;
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;
use trainer::{
    AnswerKey, Answerer, Figure, Group, PromptFormat, PromptStyle, TrainConfig, accuracies,
    load_policy, majority, pass_at,
};

use super::{print_json, say};
use crate::{args::EvalArgs, device, progress};

/// Held-out problems of the built-in task, where no file is named.
const TASK_PROBLEMS: usize = 256;
const BATCH_ROWS: usize = 128;
/// Past this a number of responses is a slip, and memory would end before the work began.
const MOST_RESPONSES: usize = 1 << 24;
/// The longest response where nothing says it, if the model's context has room for it.
const MAX_NEW_TOKENS: usize = 512;

pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    if args.samples == 0 || args.limit == Some(0) {
        bail!("--samples and --limit must be at least 1");
    }
    let device = device::parse(&args.device.device)?;
    // The model decides which settings lie below the file's.
    let model = args
        .model
        .as_ref()
        .map(|model| format!("model.path={model:?}"));
    let config = TrainConfig::load(args.config.as_deref(), model.as_slice())?;
    let (problems, reward) = problems(args, &config)?;
    if problems.len().saturating_mul(args.samples) > MOST_RESPONSES {
        bail!(
            "--samples {}: more than {MOST_RESPONSES} responses in all",
            args.samples
        );
    }
    let responses = args.responses.as_deref().map(ResponseFile::create);
    let responses = responses.transpose()?;
    let policy = load_policy(&config.model.path, DType::F32, &device)?;
    let format = prompt_format(args, &config, &policy)?;
    let params = SamplingParams {
        temperature: args.temperature,
        max_new_tokens: max_new_tokens(args, &config, &policy, &format, &problems)?,
        stop_token_ids: policy.end_token_ids(),
        ..match args.config {
            Some(_) => config.sampling(),
            None => SamplingParams::default(),
        }
    };
    params.validate()?;
    let answerer = Answerer {
        policy: &policy,
        dtype: DType::F32,
        format,
        reward: reward.as_ref(),
        params: &params,
        batch_rows: BATCH_ROWS,
    };
    let groups = answer(args, &answerer, problems.clone(), args.samples)?;
    let greedy = if args.temperature == 0.0 {
        None
    } else {
        let params = SamplingParams {
            temperature: 0.0,
            ..params.clone()
        };
        let answerer = Answerer {
            params: &params,
            ..answerer
        };
        Some(answer(args, &answerer, problems, 1)?)
    };
    if let Some(file) = responses {
        file.write(&groups)?;
    }
    let report = report(args, &config, &groups, greedy.as_deref());
    say(&table(&report));
    print_json(&report)
}

fn answer(
    args: &EvalArgs,
    answerer: &Answerer<'_>,
    problems: Vec<Problem>,
    samples: usize,
) -> Result<Vec<Group>> {
    let key = AnswerKey {
        seed: args.seed,
        step: 0,
        first_row: 0,
    };
    let unit = if answerer.params.temperature == 0.0 {
        "greedy answers"
    } else {
        "answers"
    };
    let bar = progress::bar((problems.len() * samples) as u64, unit);
    let groups = answerer.answer(problems, samples, key, &mut |progress| {
        progress::show_generation(&bar, progress);
    })?;
    bar.finish_and_clear();
    Ok(groups)
}

type Problems = (Vec<Problem>, Box<dyn Reward>);

/// The problems of the file, else those that the configuration validates on.
fn problems(args: &EvalArgs, config: &TrainConfig) -> Result<Problems> {
    let limit = args.limit.unwrap_or(usize::MAX);
    let file = args.data.as_ref().or(config.data.validation.as_ref());
    if file.is_none() && config.data.train.is_some() {
        bail!(
            "the configuration trains on a file and validates on none: name the problems with --data FILE"
        );
    }
    if let Some(path) = file {
        let mut problems = load_problems(path)?;
        problems.truncate(limit);
        return Ok((problems, Box::new(VerifierReward::default())));
    }
    let task = config.task.build()?;
    let count = args.limit.unwrap_or(TASK_PROBLEMS).min(MOST_RESPONSES) as u64;
    let problem = |index| task.problem(Split::HeldOut, 0, index);
    Ok(((0..count).map(problem).collect(), task.reward()))
}

fn prompt_format<'a>(
    args: &EvalArgs,
    config: &TrainConfig,
    policy: &'a Policy,
) -> Result<PromptFormat<'a>> {
    let mut data = config.data.clone();
    if args.plain {
        data.prompt = PromptStyle::Plain;
    }
    if let Some(instruction) = &args.instruction {
        data.instruction.clone_from(instruction);
    } else if args.config.is_none() {
        data.instruction = usual_instruction(args, policy)?;
    }
    Ok(PromptFormat::new(policy, &data, is_task(args, config))?)
}

/// Whether the configuration's task makes the problems.
fn is_task(args: &EvalArgs, config: &TrainConfig) -> bool {
    args.data.is_none() && config.data.validation.is_none()
}

/// What a file's problems are followed by where nobody says it: the usual request, if the model can read it.
fn usual_instruction(args: &EvalArgs, policy: &Policy) -> Result<String> {
    let usual = trainer::DataSection::default().instruction;
    match policy.require_tokenizer()?.encode(&usual, false) {
        Ok(_) => Ok(usual),
        Err(error) => {
            if args.data.is_some() {
                say(&format!(
                    "note: problems are given without an instruction: {error}"
                ));
            }
            Ok(String::new())
        }
    }
}

/// What is asked for, else what the configuration has, else as much as the context leaves the longest prompt.
fn max_new_tokens(
    args: &EvalArgs,
    config: &TrainConfig,
    policy: &Policy,
    format: &PromptFormat<'_>,
    problems: &[Problem],
) -> Result<usize> {
    if let Some(given) = args.max_new_tokens {
        return Ok(given);
    }
    if args.config.is_some() {
        return Ok(config.rollout.max_new_tokens);
    }
    let lengths = problems
        .iter()
        .map(|problem| Ok(format.encode(problem)?.len()));
    let longest = lengths.collect::<Result<Vec<_>>>()?.into_iter().max();
    let context = policy.config.max_position_embeddings;
    let room = context.saturating_sub(longest.unwrap_or(0));
    Ok(room.clamp(1, MAX_NEW_TOKENS))
}

/// A file that appears once all is written, and whose place is known to be writable before the work begins.
struct ResponseFile<'a> {
    path: &'a Path,
    file: NamedTempFile,
}

impl<'a> ResponseFile<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        // Readable as any file is: what the process's mask leaves.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(parent.unwrap_or(Path::new(".")));
        let file = file.with_context(|| path.display().to_string())?;
        if path.is_dir() {
            bail!("{}: is a folder", path.display());
        }
        Ok(Self { path, file })
    }

    fn write(self, groups: &[Group]) -> Result<()> {
        let place = || self.path.display().to_string();
        let mut writer = BufWriter::new(&self.file);
        for group in groups {
            serde_json::to_writer(&mut writer, group).with_context(place)?;
            writer.write_all(b"\n").with_context(place)?;
        }
        writer.flush().with_context(place)?;
        drop(writer);
        self.file.persist(self.path).with_context(place)?;
        Ok(())
    }
}

/// The contract's keys: each figure with its 95 % interval.
fn report(
    args: &EvalArgs,
    config: &TrainConfig,
    groups: &[Group],
    greedy: Option<&[Group]>,
) -> Value {
    let figure = |values: &[f64]| json!(Figure::of(values, args.seed));
    let powers = (0..)
        .map(|n| 1_usize << n)
        .take_while(|&k| k <= args.samples);
    let pass: Map<String, Value> = powers
        .map(|k| (k.to_string(), figure(&pass_at(groups, k))))
        .collect();
    let majority_at = json!({ args.samples.to_string(): figure(&majority(groups)) });
    let mean = figure(&accuracies(groups));
    let greedy = greedy.map_or(mean.clone(), |greedy| figure(&accuracies(greedy)));
    let data = match args.data.as_ref().or(config.data.validation.as_ref()) {
        Some(path) => path.display().to_string(),
        None => config.task.name().to_owned(),
    };
    json!({
        "data": data,
        "problems": groups.len(),
        "samples": args.samples,
        "temperature": args.temperature,
        "mean": mean,
        "pass_at": pass,
        "majority_at": majority_at,
        "greedy": greedy,
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
    lines.push(line("greedy", &report["greedy"]));
    for (k, figure) in report["pass_at"].as_object().into_iter().flatten() {
        lines.push(line(&format!("pass@{k}"), figure));
    }
    for (k, figure) in report["majority_at"].as_object().into_iter().flatten() {
        lines.push(line(&format!("majority@{k}"), figure));
    }
    lines.join("\n")
}
