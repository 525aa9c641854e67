//! Supervised training on worked solutions: how the bundled base is made.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::Device,
};
use policy::{CausalLm, EntropyPass, HeadOptions, ModelConfig, Policy, Tokenizer};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use reward::{MistakeRate, Problem, Split, Task, TaskConfig, load_problems};
use rollout::SamplingParams;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    AnswerKey, Answerer, DataSection, ModelSection, OptimizerSection, PromptFormat, TrainerError,
    batch::{Collated, Sequence, longest_response, micro_batches},
    config::{check, load_layers},
    optimizer::{adamw, clip, gradient_norm},
    parallel::{map_ordered, workers},
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
    /// The model that is drawn.
    pub architecture: ArchitectureSection,
    /// Solutions from a file; without one, `task` writes them.
    pub data: DataSection,
    /// The task.
    pub task: TaskConfig,
    /// AdamW; after the warm-up its rate falls to nothing along a cosine.
    pub optimizer: OptimizerSection,
    /// Held-out problems answered in a validation; 0 for none.
    pub validation_problems: usize,
    /// Steps between validations; 0 for one at the end alone.
    pub validation_every: u64,
    /// Stops at the first validation whose sampled accuracy is at least this; 1 runs all steps.
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
            architecture: ArchitectureSection::default(),
            data: DataSection::default(),
            task: TaskConfig::default(),
            optimizer: OptimizerSection {
                learning_rate: 1e-3,
                warmup_steps: 50,
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
    /// Share of held-out problems answered right, greedily.
    pub greedy_accuracy: Option<f64>,
    /// Share of held-out answers right when sampled at temperature 1.
    pub sampled_accuracy: Option<f64>,
    /// Minus the mean log-probability of those samples' tokens, in nats.
    pub sampled_entropy_nats: Option<f64>,
}

impl SftConfig {
    /// Reads a file, if one is given, and applies `key=value` overrides.
    ///
    /// # Errors
    /// As [`TrainConfig::load`](crate::TrainConfig::load).
    pub fn load(file: Option<&Path>, overrides: &[String]) -> Result<Self, TrainerError> {
        let config: Self = load_layers(
            file,
            overrides,
            &crate::config::known_sft_keys()?,
            Vec::new(),
        )?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn validate(&self) -> Result<(), TrainerError> {
        check(
            "batch_size",
            self.batch_size >= 1,
            "at least 1",
            self.batch_size,
        )?;
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
        MistakeRate::new(self.mistakes)?;
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
        Ok(Policy::new(config, Some(tokenizer), self.seed, device))
    }
}

/// Where worked solutions come from.
enum Lessons {
    Task {
        task: Box<dyn Task>,
        mistakes: MistakeRate,
    },
    File(Vec<Problem>),
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
            let message = format!("{}: problem '{}' has no solution", path.display(), bare.id);
            return Err(TrainerError::Config { message });
        }
        Ok(Self::File(problems))
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
            Self::File(problems) => {
                let problem = problems[(index % problems.len() as u64) as usize].clone();
                let solution = problem.solution.clone().unwrap_or_default();
                (problem, solution)
            }
        }
    }
}

/// Trains a policy on worked solutions; its device must track gradients.
///
/// # Errors
/// Problems that cannot be read or encoded, a policy without a tokenizer or an end token.
pub fn train_supervised(
    config: &SftConfig,
    mut policy: Policy,
    on_progress: &mut dyn FnMut(SftProgress),
) -> Result<(Policy, SftReport), TrainerError> {
    let lessons = Lessons::new(config)?;
    let mut optimizer = adamw(&config.optimizer);
    let workers = workers(policy.config.parameters(), &policy.model.device());
    let mut report = SftReport::default();
    for step in 0..config.steps {
        let sequences = lessons_of(config, &policy, &lessons, step)?;
        let (loss, gradients) = gradient(&policy.model, &sequences, workers);
        let norm = gradient_norm(&policy.model, &gradients);
        if norm.is_finite() {
            let largest = config.optimizer.max_grad_norm;
            let gradients = clip(&policy.model, gradients, norm, largest);
            policy.model = optimizer.step(config.rate(step + 1), policy.model, gradients);
        }
        let done = step + 1;
        let every = config.validation_every;
        let is_due = done == config.steps || (every > 0 && done.is_multiple_of(every));
        if is_due {
            report = evaluate(config, &policy)?;
        }
        (report.steps, report.loss) = (done, loss);
        let validation = is_due.then_some(report);
        let tokens = sequences.iter().map(Sequence::response_tokens).sum();
        on_progress(SftProgress {
            step: done,
            steps: config.steps,
            loss,
            tokens,
            validation,
        });
        let reached = report
            .sampled_accuracy
            .is_some_and(|x| x >= config.stop_at_accuracy);
        if is_due && reached {
            break;
        }
    }
    Ok((policy, report))
}

/// Mean negative log-probability of the responses' tokens and its gradient, micro-batches at once.
fn gradient(model: &CausalLm, sequences: &[Sequence], workers: usize) -> (f64, GradientsParams) {
    let count: usize = sequences.iter().map(Sequence::response_tokens).sum();
    let options = HeadOptions {
        temperature: 1.0,
        entropy: EntropyPass::Skip,
    };
    let ranges = micro_batches(sequences, MICRO_BATCH_TOKENS);
    let part = |range: &Range<usize>| {
        let part = &sequences[range.clone()];
        let model = model.clone().fork(&model.device());
        let scores = Collated::new(part, longest_response(part)).score(&model, options);
        let loss = scores.log_probs.sum().neg() / count as f64;
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
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

/// Tokens, padding included, that go through the model at once.
const MICRO_BATCH_TOKENS: usize = 2048;

fn lessons_of(
    config: &SftConfig,
    policy: &Policy,
    lessons: &Lessons,
    step: u64,
) -> Result<Vec<Sequence>, TrainerError> {
    let is_task = matches!(lessons, Lessons::Task { .. });
    let format = PromptFormat::new(policy, &config.data, is_task)?;
    let tokenizer = policy.require_tokenizer()?;
    let end = policy
        .end_token_ids()
        .first()
        .copied()
        .ok_or_else(|| TrainerError::Config {
            message: "the model has no end token, so no answer could be taught to end".into(),
        })?;
    let size = config.batch_size as u64;
    let sequence = |index| -> Result<Sequence, TrainerError> {
        let (problem, solution) = lessons.lesson(config.seed, index);
        let mut response = tokenizer.encode(&solution, false)?;
        response.push(end);
        Ok(Sequence::new(&format.encode(&problem)?, &response))
    };
    (step * size..(step + 1) * size).map(sequence).collect()
}

impl SftConfig {
    /// Linear warm-up, then a cosine down to nothing; the first step is 1.
    fn rate(&self, step: u64) -> f64 {
        let warmup = self.optimizer.warmup_steps;
        let after = step.saturating_sub(warmup + 1) as f64;
        let done = after / self.steps.saturating_sub(warmup).max(1) as f64;
        self.optimizer.rate(step) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// Accuracy on held-out problems, greedy and sampled; empty where problems come from a file.
fn evaluate(config: &SftConfig, policy: &Policy) -> Result<SftReport, TrainerError> {
    let mut report = SftReport::default();
    if config.data.train.is_some() || config.validation_problems == 0 {
        return Ok(report);
    }
    let task = config.task.build()?;
    let reward = task.reward();
    let count = config.validation_problems as u64;
    let problems: Vec<Problem> = (0..count)
        .map(|index| task.problem(Split::HeldOut, 0, index))
        .collect();
    let accuracy = |temperature| -> Result<(f64, f64), TrainerError> {
        let params = SamplingParams {
            temperature,
            max_new_tokens: config.max_new_tokens,
            stop_token_ids: policy.end_token_ids(),
            ..SamplingParams::default()
        };
        let answerer = Answerer {
            policy,
            format: PromptFormat::new(policy, &config.data, true)?,
            reward: reward.as_ref(),
            params: &params,
            batch_rows: 256,
        };
        let key = AnswerKey {
            seed: config.seed,
            step: 0,
            first_row: 0,
        };
        let groups = answerer.answer(problems.clone(), 1, key, &mut |_| ())?;
        let samples = || groups.iter().flat_map(|group| &group.samples);
        let correct = samples().filter(|sample| sample.score.correct).count();
        let log_probs: Vec<f32> = samples()
            .flat_map(|sample| sample.rollout.sampler_log_probs.clone())
            .collect();
        let mean = log_probs.iter().map(|&x| f64::from(x)).sum::<f64>() / log_probs.len() as f64;
        Ok((correct as f64 / groups.len() as f64, -mean))
    };
    report.greedy_accuracy = Some(accuracy(0.0)?.0);
    let (sampled, entropy) = accuracy(1.0)?;
    report.sampled_accuracy = Some(sampled);
    report.sampled_entropy_nats = Some(entropy);
    Ok(report)
}
