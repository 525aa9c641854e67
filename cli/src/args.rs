//! Arguments as typed. Each command resolves its own.

use std::path::PathBuf;

use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use trainer::AnswerDtype;

/// Reinforcement learning for reasoning language models, with the policy's entropy under control.
#[derive(Debug, Parser)]
#[command(
    name = "anneal",
    version,
    after_help = "\
Examples:
  anneal train                                  train the bundled base on the built-in task
  anneal train loss.type=kl_cov --out runs/kl   the same, with KL-Cov holding entropy up
  anneal train --config my.toml steps=200       a configuration file, one key changed
  anneal eval --model runs/kl/checkpoints/step-000060 --config runs/kl/config.toml"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a policy by reinforcement learning on verifiable rewards
    Train(TrainArgs),
    /// Train a model on worked solutions (supervised)
    Sft(SftArgs),
    /// Measure a model's accuracy on a file of problems
    Eval(EvalArgs),
    /// Sample answers to a prompt
    Generate(GenerateArgs),
    /// Compute log-probabilities, entropies and greedy continuations of given texts
    Score(ScoreArgs),
    /// Judge answers against gold ones, and say why
    Verify(VerifyArgs),
    /// Fit the law R = -a·e^H + b to a run's figures, ours or another framework's
    Fit(FitArgs),
    /// Run several settings over several seeds, and compare them in one table
    Compare(CompareArgs),
    /// Draw runs: a page for a browser, or pictures
    Report(ReportArgs),
    /// Compute losses, advantages, KL estimates and value losses of given cases again
    Replay(ReplayArgs),
    /// Turn a GGUF file into a Hugging Face folder
    Import(ImportArgs),
    /// Measure what a training step of a given size costs here
    #[command(subcommand)]
    Bench(BenchCommand),
    /// List the devices that this build can use
    Devices(DevicesArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Whole steps: generation and one update over all responses; a line of JSON for each, then their medians
    Step(BenchStepArgs),
    /// The CPU's inner loops by themselves; a line of JSON for each
    Ops(BenchOpsArgs),
    /// The parts that steps are made of, on any device, beside burn's own operations
    Parts(BenchPartsArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchPartsArgs {
    /// A model with random weights: of the bundled base's sizes, SmolLM2-135M's or Qwen2.5-0.5B's
    #[arg(long, value_name = "SIZE", default_value = "135m", value_parser = ["tiny", "135m", "0.5b"])]
    pub(crate) random_model: String,
    /// Sequences at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count(65_536))]
    pub(crate) rows: usize,
    /// Responses to each prompt, in the update and the step
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count(65_536))]
    pub(crate) group: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 44, value_parser = count(1 << 20))]
    pub(crate) prompt_tokens: usize,
    /// Tokens of each response
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count(1 << 20))]
    pub(crate) response_tokens: usize,
    /// Runs of each part, of which the median is taken, after one that warms up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count(10_000))]
    pub(crate) repetitions: usize,
    /// The type that the model computes in
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = ["f32", "bf16", "f16"])]
    pub(crate) dtype: String,
    /// Leave out burn's own operations, beside which each part is timed otherwise
    #[arg(long)]
    pub(crate) ours_alone: bool,
    /// Print JSON, a line for each part
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Settings of the update and the step, as `anneal train` takes them
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

/// A number from 1 to `most`.
fn count(most: u64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64)
        .range(1..=most)
        .map(|count| count as usize)
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchStepArgs {
    /// A Hugging Face folder or hub name
    #[arg(long, value_name = "NAME", required_unless_present = "random_model")]
    pub(crate) model: Option<String>,
    /// A model of this size with random weights instead
    #[arg(long, value_name = "SIZE", conflicts_with = "model", value_parser = ["tiny", "135m", "0.5b"])]
    pub(crate) random_model: Option<String>,
    /// Prompts of a step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) prompts: u32,
    /// Responses to each prompt
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) group: u32,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 44, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) prompt_tokens: u32,
    /// Tokens of each response; none ends before
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) response_tokens: u32,
    /// Steps to measure
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) steps: u32,
    /// The type that the model computes in; its weights stay f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = ["f32", "bf16", "f16"])]
    pub(crate) dtype: String,
    /// Bounds to hold the medians against: a JSON list of `{"figure", "of", "at_most"}`, such as `benches/bounds.json`; the
    /// figures gain `reference_seconds`, what 10¹² operations of a product take by a library here; exit 1 where a
    /// ratio is over its bound
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Settings of the step, as `anneal train` takes them
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchOpsArgs {
    /// Seconds to spend on each part
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(crate) seconds: f64,
}

/// The device that a command computes on.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DeviceArgs {
    /// flex (CPU), wgpu, vulkan, metal, cuda or rocm, with `:INDEX` for another than the first
    #[arg(long, default_value = "flex", value_name = "NAME[:INDEX]")]
    pub(crate) device: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Settings are dotted keys, as in the TOML file: rollout.group_size=16 optimizer.learning_rate=1e-5.
Without --config, the bundled base learns the built-in arithmetic task in about a minute on two cores,
with settings vetted for it; with a --model of your own, defaults for pretrained models apply.
The run folder holds config.toml (every setting as used), metrics.jsonl (a line a step), rollouts/ and checkpoints/.
Ctrl-C saves and ends the run, --resume goes on with it as if it had not stopped; a second Ctrl-C ends it at once.")]
pub(crate) struct TrainArgs {
    /// A TOML file of settings; defaults fill what it leaves out
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The run folder; it must be empty or not exist yet [default: a new one in runs/]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on from the newest whole checkpoint of this run folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "out", "seed", "model"])]
    pub(crate) resume: Option<PathBuf>,
    /// Steps to run; the same as steps=N
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u64>,
    /// The seed of every random choice; the same as seed=N
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// A Hugging Face folder or hub name; the same as model.path=NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Check everything and say how much memory the run would take, without running it
    #[arg(long, conflicts_with = "resume")]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Settings that override the file's
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SftArgs {
    /// A TOML file of settings; defaults fill what it leaves out
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the model goes; the folder must be empty or not exist yet
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Settings that override the file's
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

fn answer_dtype() -> impl TypedValueParser<Value = AnswerDtype> {
    PossibleValuesParser::new(AnswerDtype::ALL.map(|(name, _)| name))
        .map(|name| AnswerDtype::named(&name).expect("one of the possible values"))
}

#[derive(Debug, clap::Args)]
pub(crate) struct EvalArgs {
    /// A Hugging Face folder or hub name [default: the bundled base]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// JSON lines with `problem`, `question` or `prompt`, and `answer`; or one of `math500`, `aime24`, `aime25`, `amc23`,
    /// `minerva_math`, `olympiadbench` and `gsm8k_test` in --data-dir, answered as published; may be given more than once
    /// [default: the built-in task's held-out problems]
    #[arg(long, value_name = "FILE|NAME", value_delimiter = ',')]
    pub(crate) data: Vec<String>,
    /// Where the sets lie that are given by name, as NAME.jsonl
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(crate) data_dir: PathBuf,
    /// A run's config.toml: its task, prompts, instruction, truncation and response length are used
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Text put after each problem of --data; '' for none [default: a request to reason and to box the answer]
    #[arg(long, value_name = "TEXT")]
    pub(crate) instruction: Option<String>,
    /// Give problems as they are, without the model's chat template
    #[arg(long)]
    pub(crate) plain: bool,
    /// Responses to each problem [default: 1; of AIME and AMC by name, 32]
    #[arg(long, value_name = "N")]
    pub(crate) samples: Option<usize>,
    /// Sampling temperature; 0 is greedy [default: 0; of AIME and AMC by name, 0.6]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Keep the K most probable tokens; 0 keeps all [default: as --config has it, else 0]
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Keep the fewest tokens whose probabilities sum to P [default: as --config has it, else 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f64>,
    /// Drop tokens less probable than P times the most probable one [default: as --config has it, else 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f64>,
    /// The longest response, in tokens [default: 512, or what the model's context leaves]
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Only the first N problems; of the built-in task, as many as that
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// The seed of sampling and of the intervals
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Write every response with its score to this file, a line a problem
    #[arg(long, value_name = "FILE")]
    pub(crate) responses: Option<PathBuf>,
    /// What the model computes in; f16 on a GPU, int8 on the CPU alone [default: the `model.dtype` of --config, else f32]
    #[arg(long, value_name = "TYPE", value_parser = answer_dtype())]
    pub(crate) dtype: Option<AnswerDtype>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GenerateArgs {
    /// A Hugging Face folder or hub name [default: the bundled base]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// What the model goes on from
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: String,
    /// Give the prompt as it is, without the model's chat template
    #[arg(long)]
    pub(crate) plain: bool,
    /// Read `\n`, `\t` and `\\` in the prompt as a newline, a tab and a backslash
    #[arg(long, short = 'e')]
    pub(crate) escapes: bool,
    /// Samples to draw
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) samples: u64,
    /// Sampling temperature; 0 is greedy
    #[arg(
        long,
        default_value_t = 1.0,
        value_name = "T",
        allow_negative_numbers = true
    )]
    pub(crate) temperature: f64,
    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub(crate) top_k: usize,
    /// Keep the fewest tokens whose probabilities sum to P
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub(crate) top_p: f64,
    /// Drop tokens less probable than P times the most probable one
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub(crate) min_p: f64,
    /// The longest response, in tokens
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) max_new_tokens: usize,
    /// A text that ends the response; may be given more than once
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// The seed of sampling
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Print a JSON line a sample, with token ids and log-probabilities
    #[arg(long)]
    pub(crate) json: bool,
    /// What the model computes in; f16 on a GPU, int8 on the CPU alone [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = answer_dtype())]
    pub(crate) dtype: Option<AnswerDtype>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScoreArgs {
    /// A Hugging Face folder or hub name
    #[arg(long, value_name = "NAME")]
    pub(crate) model: String,
    /// JSON with `input_ids` (and `attention_mask`), or `cases` with `messages` or `text`
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A case is a JSON object with `inputs` (matrices, a row a response), one of `loss` with `aggregation`, `estimator`, `kl` and
`value_loss`, and what was `expected` of it. Each prints a line: the expected keys computed again, and the largest error.")]
pub(crate) struct ReplayArgs {
    /// The cases
    #[arg(value_name = "CASE.json", required = true)]
    pub(crate) cases: Vec<PathBuf>,
    /// Fail where a case differs from what it expects by more than 1e-4
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A line is a JSON object with `gold` (an answer, or a solution that holds one), `pred` (a model's output, or a bare answer)
and, if wanted, `id`. Each prints a line, in order: id, correct, gold_answer, pred_answer and reason.")]
pub(crate) struct VerifyArgs {
    /// JSON lines; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Say too which rule found the answer, and how both were read
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads metrics.jsonl, JSON lines, {\"points\": [{\"entropy\", \"reward\"}, ...]}, TRL's trainer_state.json, and CSV as wandb and TensorBoard
export it. Where no key is named, entropy and reward are found by the names that Anneal, verl, TRL, OpenRLHF, SkyRL and NeMo-RL give them.

  anneal fit --input runs/kl/metrics.jsonl --first 0.15
  anneal fit --input wandb.csv --entropy-key actor/entropy --reward-key val-core/math/acc
  anneal fit --input entropy.csv --reward-input reward.csv            (TensorBoard: a file each)
  anneal fit --input a.jsonl --input b.jsonl --parameters 5e8 --parameters 7e9")]
pub(crate) struct FitArgs {
    /// A run's figures; may be given more than once
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) input: Vec<PathBuf>,
    /// Fit the first part of the run too, and score its forecast of the rest: 0.15 in the paper
    #[arg(long, value_name = "FRACTION", allow_negative_numbers = true)]
    pub(crate) first: Option<f64>,
    /// The key or column of entropy, in nats
    #[arg(long, value_name = "KEY")]
    pub(crate) entropy_key: Option<String>,
    /// The key or column of performance
    #[arg(long, value_name = "KEY")]
    pub(crate) reward_key: Option<String>,
    /// A file of rewards, joined to --input by step
    #[arg(long, value_name = "FILE")]
    pub(crate) reward_input: Vec<PathBuf>,
    /// Parameters of each run's model: fits the coefficients over sizes too
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) parameters: Vec<f64>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The page holds all that it shows and needs no network. A run is a run folder, or a file of figures as `anneal fit` reads it.

  anneal report runs/kl                         writes runs/kl/report.html
  anneal report runs/grpo runs/kl --out both.html
  anneal report runs/kl --charts pictures       an SVG of each chart")]
pub(crate) struct ReportArgs {
    /// Run folders or files of figures; several are overlaid
    #[arg(value_name = "RUN", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// Where the page goes [default: report.html in the run's folder; of several runs, here]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write each chart as SVG to this folder; the page too where --out is given
    #[arg(long, value_name = "DIR")]
    pub(crate) charts: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file has seeds = [1, 2, 3], settings = [\"steps=60\"] for all, and [[variants]] with a name and settings = [\"loss.type=kl_cov\"]; `config`
names a TOML file that all start from, `jobs` how many run at once. Each run is a folder OUT/VARIANT/seed-N. Runs that are there are not run again,
and those that were cut off go on, so a comparison can be stopped, extended by seeds, and taken up again with the same command.

  anneal compare --config recipes/compare.toml --out runs/compare
  anneal compare --config recipes/compare.toml --out runs/compare --seeds 1,2,3,4,5")]
pub(crate) struct CompareArgs {
    /// What to compare
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Where the runs and the report go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Seeds in place of the file's
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(crate) seeds: Vec<u64>,
    /// Runs at once, sharing the threads, in place of the file's
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Settings of all runs, above those that the file has for all; a variant's own are above both
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The GGUF file, or the folder of a PEFT adapter, which is merged into the model that it is for
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What an adapter is for, a Hugging Face folder or hub name, where that is not what it names itself
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<String>,
    /// Where the Hugging Face folder goes; it must be empty or not exist yet
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Write weights as bfloat16, half the size
    #[arg(long)]
    pub(crate) bf16: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}
