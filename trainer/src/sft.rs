//! Supervised training on worked solutions: how the bundled base is made.

use std::{
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{DType, Device},
};
use policy::{EntropyPass, HeadOptions, LoraConfig, ModelConfig, PackedTokens, Policy, Tokenizer};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use reward::{
    MistakeRate, Problem, Reward, Split, Task, TaskConfig, VerifierReward, load_problems,
};
use rollout::SamplingParams;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    AnswerKey, Answerer, DataSection, Dtype, Memory, ModelSection, OptimizerSection, PromptFormat,
    Schedule, TrainConfig, TrainerError,
    answer::has_room,
    batch::{Collated, Sequence, TokenBudget, longest_response, micro_batches},
    config::{check, check_count, is_default, load_layers},
    lora,
    memory::{blocks_kept_alone, computing, prepare, tensor_dtype},
    optimizer::{adamw, clip, gradient_norm, is_finite},
    parallel::{map_ordered, workers},
    pass::Pass,
    run::check_policy,
    source::{Epochs, check_gold, keep},
    update::MOST_SKIPPED_IN_A_ROW,
};

/// A supervised run: a model from nothing or from a folder, taught worked solutions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Updates to make.
    pub steps: u64,
    /// Solutions in an update.
    pub batch_size: usize,
    /// The seed that weights, problems and solutions follow from.
    pub seed: u64,
    /// Probability that a step of a worked solution is wrong.
    pub mistakes: f64,
    /// A model to go on from; without a path, one of `architecture` is drawn.
    pub model: ModelSection,
    /// Low-rank adapters, which are trained in place of the weights; unset, the weights are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// The model that is drawn.
    pub architecture: ArchitectureSection,
    /// Solutions from a file, in an order of their own for each epoch; without one, `task` writes them.
    /// `data.validation` is then what validations answer; without that either, there are none.
    pub data: DataSection,
    /// The task.
    pub task: TaskConfig,
    /// AdamW; its rate falls along a cosine by default.
    pub optimizer: OptimizerSection,
    /// Held-out problems answered in a validation; 0 for none.
    pub validation_problems: usize,
    /// Steps between validations; 0 for one at the end alone.
    pub validation_every: u64,
    /// Stops at the first validation whose sampled accuracy is at least this; 1 runs all steps, whatever it is.
    ///
    /// A base for reinforcement learning should solve some problems and not most, and its accuracy leaps
    /// within a few hundred steps: the accuracy says better than a number of steps when to stop.
    pub stop_at_accuracy: f64,
    /// The longest response of that validation, in tokens.
    pub max_new_tokens: usize,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: 64,
            seed: 1,
            mistakes: 0.0,
            model: ModelSection::default(),
            lora: None,
            architecture: ArchitectureSection::default(),
            data: DataSection::default(),
            task: TaskConfig::default(),
            optimizer: OptimizerSection {
                learning_rate: 1e-3,
                warmup_steps: 50,
                schedule: Schedule::Cosine,
                ..OptimizerSection::default()
            },
            validation_problems: 256,
            validation_every: 0,
            stop_at_accuracy: 1.0,
            max_new_tokens: 64,
        }
    }
}

/// The sizes of a freshly drawn decoder of the llama family, its embedding tied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArchitectureSection {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// The context, in tokens.
    pub max_position_embeddings: usize,
}

impl Default for ArchitectureSection {
    fn default() -> Self {
        Self {
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 512,
        }
    }
}

/// How a supervised run stands after an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SftProgress {
    /// Updates made.
    pub step: u64,
    /// Updates to make.
    pub steps: u64,
    /// Mean negative log-probability of the solutions' tokens, in nats.
    pub loss: f64,
    /// Solution tokens learnt from in this update.
    pub tokens: usize,
    /// Updates skipped so far, their gradient not being finite.
    pub skipped: u64,
    /// The validation after this update, where there was one.
    pub validation: Option<SftReport>,
}

/// What a supervised run made of its model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct SftReport {
    /// Updates made.
    pub steps: u64,
    /// Loss of the last update, in nats a token.
    pub loss: f64,
    /// Updates skipped, their gradient not being finite.
    pub skipped: u64,
    /// Problems left out because they are too long for the model's context (`data.drop_overlong`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub overlong: u64,
    /// Share of held-out problems answered right, greedily.
    pub greedy_accuracy: Option<f64>,
    /// Share of held-out answers right when sampled at temperature 1.
    pub sampled_accuracy: Option<f64>,
    /// Minus the mean log-probability of those samples' tokens, in nats.
    pub sampled_entropy_nats: Option<f64>,
}

/// The rate for a model that has learnt something, where none is given: [`SftConfig::default`]'s is for one that has not.
const PRETRAINED_LEARNING_RATE: f64 = 1e-5;
const LORA_LEARNING_RATE: f64 = 1e-4;

impl SftConfig {
    /// Reads a file, if one is given, and applies `key=value` overrides.
    ///
    /// # Errors
    /// As [`TrainConfig::load`](crate::TrainConfig::load).
    pub fn load(file: Option<&Path>, overrides: &[String]) -> Result<Self, TrainerError> {
        let known = crate::config::known_sft_keys()?;
        let mut config: Self = load_layers(file, overrides, &known, Vec::new())?;
        if !config.model.path.is_empty() {
            let rate = match config.lora {
                Some(_) => LORA_LEARNING_RATE,
                None => PRETRAINED_LEARNING_RATE,
            };
            let vetted = vec![("optimizer.learning_rate".to_owned(), rate.into())];
            config = load_layers(file, overrides, &known, vetted)?;
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn validate(&self) -> Result<(), TrainerError> {
        check_count("batch_size", self.batch_size, 1)?;
        self.data.validate()?;
        check_count("validation_problems", self.validation_problems, 0)?;
        check("steps", self.steps >= 1, "at least 1", self.steps)?;
        let stop = self.stop_at_accuracy;
        check(
            "stop_at_accuracy",
            (0.0..=1.0).contains(&stop),
            "in 0..=1",
            stop,
        )?;
        check(
            "max_new_tokens",
            self.max_new_tokens >= 1,
            "at least 1",
            self.max_new_tokens,
        )?;
        if self.model.dtype == Dtype::F16 {
            let message =
                "model.dtype = \"f16\" is not for supervised training, whose losses are not scaled; use bf16 or f32".into();
            return Err(TrainerError::Config { message });
        }
        MistakeRate::new(self.mistakes)?;
        lora::validate(self.lora.as_ref())?;
        if self.lora.is_some() && self.model.path.is_empty() {
            let message =
                "lora without model.path: adapters are for a model that has learnt something; set model.path to one".into();
            return Err(TrainerError::Config { message });
        }
        self.optimizer.validate()?;
        self.task.validate()?;
        Ok(())
    }

    /// A freshly drawn policy of the configured architecture, whose tokenizer knows the task's characters.
    ///
    /// # Errors
    /// An architecture that no decoder can have.
    pub fn new_policy(&self, device: &Device) -> Result<Policy, TrainerError> {
        let tokenizer = Tokenizer::characters(&self.task.build()?.alphabet())?;
        let sizes = &self.architecture;
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": tokenizer.vocab_size(),
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.intermediate_size,
            "num_hidden_layers": sizes.num_hidden_layers,
            "num_attention_heads": sizes.num_attention_heads,
            "num_key_value_heads": sizes.num_key_value_heads,
            "max_position_embeddings": sizes.max_position_embeddings,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": true,
            "attention_bias": false,
            "mlp_bias": false,
            "bos_token_id": null,
            "eos_token_id": tokenizer.eos_token_id(),
            "dtype": "float32",
        });
        let config = ModelConfig::from_json(&config, &PathBuf::from("architecture"))?;
        let parameters = config.parameters();
        check(
            "architecture",
            parameters <= MOST_DRAWN_PARAMETERS,
            &format!("of at most {MOST_DRAWN_PARAMETERS} parameters"),
            parameters,
        )?;
        Ok(Policy::new(config, Some(tokenizer), self.seed, device))
    }
}

/// Larger models are not made from nothing by this; a size with a digit too many is.
const MOST_DRAWN_PARAMETERS: u64 = 1 << 31;

/// Where worked solutions come from.
enum Lessons {
    Task {
        task: Box<dyn Task>,
        mistakes: MistakeRate,
    },
    File(Epochs),
}

impl Lessons {
    fn new(config: &SftConfig) -> Result<Self, TrainerError> {
        let Some(path) = &config.data.train else {
            let mistakes = MistakeRate::new(config.mistakes)?;
            return Ok(Self::Task {
                task: config.task.build()?,
                mistakes,
            });
        };
        let problems = load_problems(path)?;
        if let Some(bare) = problems.iter().find(|problem| problem.solution.is_none()) {
            let message = format!(
                "{}: problem '{}' has no solution; each line needs a \"solution\" to learn, or an \"answer\" in GSM8K's form",
                path.display(),
                bare.id
            );
            return Err(TrainerError::Config { message });
        }
        let epochs = Epochs::new(problems, config.data.shuffle, config.seed);
        Ok(Self::File(epochs))
    }

    /// Lesson `index`, keyed by (seed, index) alone.
    fn lesson(&self, seed: u64, index: u64) -> (Problem, String) {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&index.to_le_bytes());
        key[16..23].copy_from_slice(b"lessons");
        match self {
            Self::Task { task, mistakes } => {
                let problem = task.problem(Split::Train, seed, index);
                let mut rng = ChaCha8Rng::from_seed(key);
                let solution = task.worked_solution(&problem, &mut rng, *mistakes);
                (problem, solution)
            }
            Self::File(epochs) => {
                let problem = epochs.problem(index).clone();
                let solution = solution(&problem).to_owned();
                (problem, solution)
            }
        }
    }
}

/// The solution of a file's problem, which has one.
fn solution(problem: &Problem) -> &str {
    problem.solution.as_deref().unwrap_or_default()
}

/// What is learnt and what is validated on, with how many lessons were left out for their length. All that the input can get wrong is found
/// here, before the first update is paid for.
fn checked(
    config: &SftConfig,
    policy: &Policy,
) -> Result<(Lessons, Validation, u64), TrainerError> {
    let mut lessons = Lessons::new(config)?;
    let mut validation = Validation::new(config)?;
    let mut overlong = 0;
    if config.data.drop_overlong {
        if !validation.is_task {
            let format = PromptFormat::new(policy, &config.data, false)?;
            keep(&mut validation.problems, |problem| {
                let prompt = format.encode(problem)?;
                Ok(has_room(policy, prompt.len(), config.max_new_tokens))
            })?;
        }
        if let Lessons::File(epochs) = &mut lessons {
            overlong = keep(&mut epochs.problems, |problem| {
                match tokens(config, policy, false, problem, solution(problem)) {
                    Err(TrainerError::LessonTooLong { .. }) => Ok(false),
                    lesson => lesson.map(|_| true),
                }
            })?;
            if epochs.problems.is_empty() {
                return Err(TrainerError::NoneFits);
            }
        }
    }
    if config.stop_at_accuracy < 1.0 && validation.problems.is_empty() {
        let message = "stop_at_accuracy needs problems to validate on: set data.validation and validation_problems".into();
        return Err(TrainerError::Config { message });
    }
    validation.check(config, policy)?;
    if let Lessons::File(epochs) = &lessons {
        let count = epochs.problems.len() as u64;
        (0..count).try_for_each(|index| sequence(config, policy, &lessons, index).map(drop))?;
    }
    Ok((lessons, validation, overlong as u64))
}

/// Trains a policy, whose weights must be f32, on worked solutions; its device must track gradients. Adapters are merged at the end,
/// which leaves weights without gradients: load what is saved to train it further. After each update it tells
/// of it, and ends with what it has where that answers so.
///
/// # Errors
/// Problems that cannot be read or encoded or are longer than the model's context, a policy without a tokenizer or an
/// end token, or many gradients in a row that are not finite.
pub fn train_supervised(
    config: &SftConfig,
    policy: Policy,
    on_progress: &mut dyn FnMut(SftProgress) -> ControlFlow<()>,
) -> Result<(Policy, SftReport), TrainerError> {
    config.validate()?;
    check_policy(&policy)?;
    let (lessons, validation, overlong) = checked(config, &policy)?;
    let mut report = SftReport {
        overlong,
        ..SftReport::default()
    };
    let mut optimizer = adamw(&config.optimizer);
    let workers = workers(policy.config.parameters(), &policy.model.device());
    let policy = lora::attach(policy, config.lora.as_ref(), config.seed)?;
    let (mut policy, dtype) = prepare(policy, config.model.dtype, Memory::Auto, MICRO_BATCH_TOKENS);
    TrainConfig::check_dtype("model.dtype", &policy.model.device(), dtype)?;
    let (mut skipped, mut skipped_in_a_row) = (0, 0);
    for step in 0..config.steps {
        let size = config.batch_size as u64;
        let indices = step * size..(step + 1) * size;
        let lessons = indices.map(|index| sequence(config, &policy, &lessons, index));
        let sequences = lessons.collect::<Result<Vec<_>, _>>()?;
        let (loss, gradients) = gradient(&policy, dtype, &sequences, workers);
        let norm = gradient_norm(&policy.model, &gradients);
        if norm.is_finite() {
            let largest = config.optimizer.max_grad_norm;
            let gradients = clip(&policy.model, gradients, norm, largest);
            policy.model = optimizer.step(
                config.optimizer.rate(step + 1, config.steps),
                policy.model,
                gradients,
            );
            skipped_in_a_row = 0;
        } else {
            (skipped, skipped_in_a_row) = (skipped + 1, skipped_in_a_row + 1);
        }
        if skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW {
            return Err(TrainerError::Diverged {
                step: step + 1,
                count: skipped_in_a_row,
            });
        }
        let done = step + 1;
        let every = config.validation_every;
        let is_due = done == config.steps || (every > 0 && done.is_multiple_of(every));
        // Accuracies are those of this update's model, or none.
        let measured = if is_due {
            validation.evaluate(config, &policy)?
        } else {
            SftReport::default()
        };
        report = SftReport {
            steps: done,
            loss,
            skipped,
            overlong: report.overlong,
            ..measured
        };
        let validation = is_due.then_some(report);
        let tokens = sequences.iter().map(Sequence::response_tokens).sum();
        let answer = on_progress(SftProgress {
            step: done,
            steps: config.steps,
            loss,
            tokens,
            skipped,
            validation,
        });
        let stop = config.stop_at_accuracy;
        let reached = stop < 1.0 && report.sampled_accuracy.is_some_and(|x| x >= stop);
        if reached || answer.is_break() {
            break;
        }
    }
    if !is_finite(&policy.model) {
        let step = report.steps;
        return Err(TrainerError::NonFiniteWeights { step });
    }
    policy.model = policy.model.merged_as(DType::F32);
    Ok((policy, report))
}

/// Mean negative log-probability of the responses' tokens and its gradient, micro-batches at once.
fn gradient(
    policy: &Policy,
    dtype: DType,
    sequences: &[Sequence],
    workers: usize,
) -> (f64, GradientsParams) {
    let model = &policy.model;
    let count: usize = sequences.iter().map(Sequence::response_tokens).sum();
    let longest = sequences.iter().map(|sequence| sequence.ids.len()).max();
    let longest = longest.unwrap_or(0);
    // One that is longer than a micro-batch makes one by itself.
    let tokens = MICRO_BATCH_TOKENS.max(PackedTokens::padded_length(longest));
    let kept = blocks_kept_alone(policy, dtype, (tokens, longest));
    let options = HeadOptions {
        temperature: 1.0,
        entropy: EntropyPass::Skip,
    };
    let budget = TokenBudget {
        tokens: MICRO_BATCH_TOKENS,
        is_packed: model.is_fused(),
    };
    let ranges = micro_batches(sequences, budget);
    let part = |range: &Range<usize>| {
        let part = &sequences[range.clone()];
        let model = model.clone().fork(&model.device());
        // Through the cast, gradients arrive at the f32 weights.
        let head = model.clone().cast_head(dtype);
        let collated = Collated::new(part, longest_response(part));
        let pass = Pass::new(&collated, &model, dtype, kept);
        let scores = collated.score_hidden(&head, pass.hidden.clone(), options);
        let loss = scores.log_probs.sum().neg() / count as f64;
        let (gradients, _) = pass.below().gradients(&model, loss.backward());
        (loss.into_scalar::<f64>(), gradients)
    };
    let mut accumulator = GradientsAccumulator::new();
    let mut total = 0.0;
    // A few at a time: each gradient is as large as the model.
    for ranges in ranges.chunks(workers) {
        for (loss, gradients) in map_ordered(ranges, workers, part) {
            total += loss;
            accumulator.accumulate(model, gradients);
        }
    }
    (total, accumulator.grads())
}

/// Tokens that go through the model at once.
const MICRO_BATCH_TOKENS: usize = 2048;

/// Lesson `index` in tokens.
fn sequence(
    config: &SftConfig,
    policy: &Policy,
    lessons: &Lessons,
    index: u64,
) -> Result<Sequence, TrainerError> {
    let is_task = matches!(lessons, Lessons::Task { .. });
    let (problem, solution) = lessons.lesson(config.seed, index);
    tokens(config, policy, is_task, &problem, &solution)
}

/// A problem with its solution in tokens.
fn tokens(
    config: &SftConfig,
    policy: &Policy,
    is_task: bool,
    problem: &Problem,
    solution: &str,
) -> Result<Sequence, TrainerError> {
    let format = PromptFormat::new(policy, &config.data, is_task)?;
    let end = policy.end_token_id().ok_or_else(|| TrainerError::Config {
        message: "the model has no end token, so no answer could be taught to end".into(),
    })?;
    let prompt = format.encode(problem)?;
    let mut response = policy.require_tokenizer()?.encode(solution, false)?;
    response.push(end);
    let context_tokens = policy.config.max_position_embeddings;
    if prompt.len() + response.len() > context_tokens {
        return Err(TrainerError::LessonTooLong {
            id: problem.id.clone(),
            tokens: prompt.len() + response.len(),
            context_tokens,
        });
    }
    Ok(Sequence::new(&prompt, &response))
}

/// Held-out problems, and what scores answers to them.
struct Validation {
    problems: Vec<Problem>,
    is_task: bool,
    reward: Box<dyn Reward>,
}

impl Validation {
    fn new(config: &SftConfig) -> Result<Self, TrainerError> {
        let count = config.validation_problems;
        if config.data.train.is_some() || config.data.validation.is_some() {
            let file = config.data.validation.as_deref();
            let mut problems = file.map_or(Ok(Vec::new()), load_problems)?;
            problems.truncate(count);
            check_gold(&problems)?;
            return Ok(Self {
                problems,
                is_task: false,
                reward: Box::new(VerifierReward::default()),
            });
        }
        let task = config.task.build()?;
        let problem = |index| task.problem(Split::HeldOut, 0, index);
        Ok(Self {
            problems: (0..count as u64).map(problem).collect(),
            is_task: true,
            reward: task.reward(),
        })
    }

    fn answerer<'a>(
        &'a self,
        config: &SftConfig,
        policy: &'a Policy,
        params: &'a SamplingParams,
    ) -> Result<Answerer<'a>, TrainerError> {
        Ok(Answerer {
            policy,
            model: computing(
                &policy.model,
                tensor_dtype(&policy.model, config.model.dtype),
            ),
            format: PromptFormat::new(policy, &config.data, self.is_task)?,
            reward: self.reward.as_ref(),
            params,
            batch_rows: VALIDATION_ROWS,
            is_stopped: &|| false,
        })
    }

    /// Refuses problems that leave no room for their answers.
    fn check(&self, config: &SftConfig, policy: &Policy) -> Result<(), TrainerError> {
        let params = config.sampling(policy, 0.0);
        let answerer = self.answerer(config, policy, &params)?;
        let mut prompts = self.problems.iter().map(|problem| answerer.prompt(problem));
        prompts.try_for_each(|prompt| prompt.map(drop))
    }

    /// Accuracy, greedy and sampled; empty where there are no problems.
    fn evaluate(&self, config: &SftConfig, policy: &Policy) -> Result<SftReport, TrainerError> {
        let mut report = SftReport::default();
        if self.problems.is_empty() {
            return Ok(report);
        }
        report.greedy_accuracy = Some(self.accuracy(config, policy, 0.0)?.0);
        let (sampled, entropy) = self.accuracy(config, policy, 1.0)?;
        report.sampled_accuracy = Some(sampled);
        report.sampled_entropy_nats = Some(entropy);
        Ok(report)
    }

    /// Share of right answers, and minus the mean log-probability of their tokens.
    fn accuracy(
        &self,
        config: &SftConfig,
        policy: &Policy,
        temperature: f64,
    ) -> Result<(f64, f64), TrainerError> {
        let params = config.sampling(policy, temperature);
        let answerer = self.answerer(config, policy, &params)?;
        let key = AnswerKey {
            seed: config.seed,
            step: 0,
            first_row: 0,
        };
        let groups = answerer.answer(self.problems.clone(), 1, key, &mut |_| ())?;
        let samples = || groups.iter().flat_map(|group| &group.samples);
        let correct = samples().filter(|sample| sample.score.correct).count();
        let log_probs: Vec<f32> = samples()
            .flat_map(|sample| sample.rollout.sampler_log_probs.clone())
            .collect();
        let mean = log_probs.iter().map(|&x| f64::from(x)).sum::<f64>() / log_probs.len() as f64;
        Ok((correct as f64 / groups.len() as f64, -mean))
    }
}

/// Sequences decoded together in a validation.
const VALIDATION_ROWS: usize = 256;

impl SftConfig {
    fn sampling(&self, policy: &Policy, temperature: f64) -> SamplingParams {
        SamplingParams {
            temperature,
            max_new_tokens: self.max_new_tokens,
            stop_token_ids: policy.end_token_ids(),
            ..SamplingParams::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_has_learnt_something_has_a_lower_rate() {
        let rate = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|&setting| setting.into()).collect();
            let config = SftConfig::load(None, &settings).unwrap();
            config.optimizer.learning_rate
        };
        let model = "model.path=a/b";
        let own = "optimizer.learning_rate=2e-4";
        for (settings, expected) in [
            (&[][..], 1e-3_f64),
            (&[model], 1e-5),
            (&[model, "lora={}"], 1e-4),
            (&[model, own], 2e-4),
        ] {
            let found = rate(settings);
            assert_eq!(found.to_bits(), expected.to_bits(), "{settings:?}");
        }
    }
}
