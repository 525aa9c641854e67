//! What is evaluated on: sets of problems, each with the way in which it is answered.

use std::path::Path;

use anyhow::{Context, Result, bail};
use reward::{Problem, Reward, Split, VerifierReward, load_problems};
use trainer::{TrainConfig, check_gold};

use crate::args::EvalArgs;

/// Held-out problems of the built-in task, where no file is named.
const TASK_PROBLEMS: usize = 256;
/// Past this a number of responses is a slip, and memory would end before the work began.
pub(super) const MOST_RESPONSES: usize = 1 << 24;

/// How a published set is answered (arXiv 2505.22617, section 4.1): the small ones sampled, for a mean that stands
/// still, the others greedily.
struct Protocol {
    name: &'static str,
    samples: usize,
    temperature: f64,
}

const SAMPLES_OF_SMALL_SETS: usize = 32;
const TEMPERATURE_OF_SMALL_SETS: f64 = 0.6;

const fn sampled(name: &'static str) -> Protocol {
    Protocol {
        name,
        samples: SAMPLES_OF_SMALL_SETS,
        temperature: TEMPERATURE_OF_SMALL_SETS,
    }
}

const fn greedy(name: &'static str) -> Protocol {
    Protocol {
        name,
        samples: 1,
        temperature: 0.0,
    }
}

const PROTOCOLS: [Protocol; 7] = [
    greedy("math500"),
    sampled("aime24"),
    sampled("aime25"),
    sampled("amc23"),
    greedy("minerva_math"),
    greedy("olympiadbench"),
    greedy("gsm8k_test"),
];

/// Problems, what scores answers to them, and how many are sampled at which temperature.
pub(super) struct ProblemSet {
    pub(super) name: String,
    pub(super) problems: Vec<Problem>,
    pub(super) reward: Box<dyn Reward>,
    /// Whether the built-in task makes the problems, which then are whole prompts.
    pub(super) is_task: bool,
    pub(super) samples: usize,
    pub(super) temperature: f64,
}

/// The sets that are named, else the one that the configuration validates on.
pub(super) fn sets(args: &EvalArgs, config: &TrainConfig) -> Result<Vec<ProblemSet>> {
    let sets = if !args.data.is_empty() {
        let named = args.data.iter().map(|name| named(name, args, config));
        named.collect::<Result<Vec<_>>>()?
    } else if let Some(path) = &config.data.validation {
        vec![file(path, &path.display().to_string(), None, args, config)?]
    } else if config.data.train.is_some() {
        bail!(
            "the configuration trains on a file and validates on none: name the problems with --data FILE"
        );
    } else {
        vec![task(args, config)?]
    };
    let responses: usize = sets
        .iter()
        .map(|set| set.problems.len().saturating_mul(set.samples))
        .fold(0, usize::saturating_add);
    if responses > MOST_RESPONSES {
        bail!("{responses} responses are more than {MOST_RESPONSES}: lower --samples or --limit");
    }
    Ok(sets)
}

/// A file, or a published set by its name.
fn named(name: &str, args: &EvalArgs, config: &TrainConfig) -> Result<ProblemSet> {
    let path = Path::new(name);
    if path.exists() {
        return file(path, name, None, args, config);
    }
    let Some(protocol) = PROTOCOLS.iter().find(|protocol| protocol.name == name) else {
        let known = PROTOCOLS.map(|protocol| protocol.name).join(", ");
        bail!("--data {name}: neither a file nor one of {known}");
    };
    let path = args.data_dir.join(format!("{name}.jsonl"));
    if !path.exists() {
        bail!(
            "--data {name}: no {} there; name the folder of the sets with --data-dir",
            path.display()
        );
    }
    file(&path, name, Some(protocol), args, config)
}

fn file(
    path: &Path,
    name: &str,
    protocol: Option<&Protocol>,
    args: &EvalArgs,
    config: &TrainConfig,
) -> Result<ProblemSet> {
    let mut problems = load_problems(path)?;
    problems.truncate(args.limit.unwrap_or(usize::MAX));
    if config.reward.asks_verifier(true) {
        check_gold(&problems).with_context(|| path.display().to_string())?;
    }
    let reward = config.reward.build(Box::new(VerifierReward::default()))?;
    Ok(with_protocol(name, problems, reward, protocol, args))
}

fn task(args: &EvalArgs, config: &TrainConfig) -> Result<ProblemSet> {
    let task = config.task.build()?;
    let count = args.limit.unwrap_or(TASK_PROBLEMS).min(MOST_RESPONSES) as u64;
    let problem = |index| task.problem(Split::HeldOut, 0, index);
    let problems = (0..count).map(problem).collect();
    let reward = config.reward.build(task.reward())?;
    let set = with_protocol(config.task.name(), problems, reward, None, args);
    Ok(ProblemSet {
        is_task: true,
        ..set
    })
}

fn with_protocol(
    name: &str,
    problems: Vec<Problem>,
    reward: Box<dyn Reward>,
    protocol: Option<&Protocol>,
    args: &EvalArgs,
) -> ProblemSet {
    ProblemSet {
        name: name.to_owned(),
        problems,
        reward,
        is_task: false,
        samples: args
            .samples
            .unwrap_or_else(|| protocol.map_or(1, |p| p.samples)),
        temperature: args
            .temperature
            .unwrap_or_else(|| protocol.map_or(0.0, |p| p.temperature)),
    }
}
