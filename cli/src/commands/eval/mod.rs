//! `anneal eval`.

mod report;
mod responses;
mod sets;

use anyhow::{Result, bail};
use policy::Policy;
use rollout::SamplingParams;
use serde_json::{Value, json};
use trainer::{
    AnswerDtype, AnswerKey, Answerer, Group, PromptFormat, PromptStyle, TrainConfig, TrainerError,
    load_to_answer,
};

use self::{
    report::{overall, overview, report, table},
    responses::ResponseFile,
    sets::{ProblemSet, sets},
};
use super::{print_json, say};
use crate::{args::EvalArgs, device, progress};

const BATCH_ROWS: usize = 128;
/// The longest response where nothing says it, if the model's context has room for it.
const MAX_NEW_TOKENS: usize = 512;

pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    if args.samples == Some(0) || args.limit == Some(0) {
        bail!("--samples and --limit must be at least 1");
    }
    let device = device::parse(&args.device.device)?;
    // The model decides which settings lie below the file's.
    let model = args
        .model
        .as_ref()
        .map(|model| format!("model.path={model:?}"));
    let config = TrainConfig::load(args.config.as_deref(), model.as_slice())?;
    let sets = sets(args, &config)?;
    let file = args.responses.as_deref().map(ResponseFile::create);
    let file = file.transpose()?;
    let dtype = match args.dtype {
        Some(dtype) => (dtype, "--dtype"),
        // So that a checkpoint answers as its run's validation did.
        None => (
            AnswerDtype::Model(config.model.dtype),
            "model.dtype of --config, where no --dtype is given",
        ),
    };
    let policy = load_to_answer(&config.model.path, dtype, &device)?;
    let mut reports = Vec::new();
    let mut responses = Vec::new();
    for set in &sets {
        let evaluation = Evaluation::new(args, &config, &policy, set)?;
        let (report, groups) = evaluation.run()?;
        say(&table(&report));
        reports.push(report);
        responses.push(groups);
    }
    if let Some(file) = file {
        file.write(responses.iter().flatten())?;
    }
    print_json(&joined(reports))
}

/// One set's report as it is, several with their mean.
fn joined(mut reports: Vec<Value>) -> Value {
    if reports.len() == 1 {
        return reports.swap_remove(0);
    }
    let overall = overall(&reports);
    say(&overview(&reports, &overall));
    json!({"sets": reports, "overall": overall})
}

/// One set with a model.
struct Evaluation<'a> {
    args: &'a EvalArgs,
    policy: &'a Policy,
    set: &'a ProblemSet,
    format: PromptFormat<'a>,
    params: SamplingParams,
}

impl<'a> Evaluation<'a> {
    fn new(
        args: &'a EvalArgs,
        config: &TrainConfig,
        policy: &'a Policy,
        set: &'a ProblemSet,
    ) -> Result<Self> {
        let format = prompt_format(args, config, policy, set)?;
        let base = match args.config {
            Some(_) => config.sampling(),
            None => SamplingParams::default(),
        };
        let params = SamplingParams {
            temperature: set.temperature,
            top_k: args.top_k.unwrap_or(base.top_k),
            top_p: args.top_p.unwrap_or(base.top_p),
            min_p: args.min_p.unwrap_or(base.min_p),
            max_new_tokens: max_new_tokens(args, config, policy, &format, set)?,
            stop_token_ids: policy.end_token_ids(),
            ..base
        };
        params.validate()?;
        Ok(Self {
            args,
            policy,
            set,
            format,
            params,
        })
    }

    /// The report and the answers; greedy answers too, where those were sampled.
    fn run(&self) -> Result<(Value, Vec<Group>)> {
        let groups = self.answer(&self.params, self.set.samples)?;
        let greedy = if self.params.temperature == 0.0 {
            None
        } else {
            let params = SamplingParams {
                temperature: 0.0,
                ..self.params.clone()
            };
            Some(self.answer(&params, 1)?)
        };
        let report = report(self.set, &groups, greedy.as_deref(), self.args.seed);
        Ok((report, groups))
    }

    fn answer(&self, params: &SamplingParams, samples: usize) -> Result<Vec<Group>> {
        let answerer = Answerer {
            policy: self.policy,
            model: self.policy.model.clone(),
            format: self.format.clone(),
            reward: self.set.reward.as_ref(),
            params,
            batch_rows: BATCH_ROWS,
            is_stopped: &|| false,
        };
        let key = AnswerKey {
            seed: self.args.seed,
            step: 0,
            first_row: 0,
        };
        let kind = if params.temperature == 0.0 {
            "greedy answers"
        } else {
            "answers"
        };
        let bar = progress::bar(
            (self.set.problems.len() * samples) as u64,
            &format!("{} {kind}", self.set.name),
        );
        let groups = answerer.answer(self.set.problems.clone(), samples, key, &mut |progress| {
            progress::show_generation(&bar, progress);
        })?;
        bar.finish_and_clear();
        Ok(groups)
    }
}

fn prompt_format<'a>(
    args: &EvalArgs,
    config: &TrainConfig,
    policy: &'a Policy,
    set: &ProblemSet,
) -> Result<PromptFormat<'a>> {
    let mut data = config.data.clone();
    if args.plain {
        data.prompt = PromptStyle::Plain;
    }
    if let Some(instruction) = &args.instruction {
        data.instruction.clone_from(instruction);
    } else if args.config.is_none() {
        data.instruction = usual_instruction(policy, set)?;
    }
    Ok(PromptFormat::new(policy, &data, set.is_task)?)
}

/// What a file's problems are followed by where nobody says it: the usual request, if the model can read it.
fn usual_instruction(policy: &Policy, set: &ProblemSet) -> Result<String> {
    let usual = trainer::DataSection::default().instruction;
    match policy.require_tokenizer()?.encode(&usual, false) {
        Ok(_) => Ok(usual),
        Err(error) => {
            if !set.is_task {
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
    set: &ProblemSet,
) -> Result<usize, TrainerError> {
    if let Some(given) = args.max_new_tokens {
        return Ok(given);
    }
    if args.config.is_some() {
        return Ok(config.rollout.max_new_tokens);
    }
    let lengths = set
        .problems
        .iter()
        .map(|problem| Ok(format.encode(problem)?.len()));
    let longest = lengths
        .collect::<Result<Vec<_>, TrainerError>>()?
        .into_iter()
        .max();
    let context = policy.config.max_position_embeddings;
    let room = context.saturating_sub(longest.unwrap_or(0));
    Ok(room.clamp(1, MAX_NEW_TOKENS))
}
