//! A run's configuration: defaults < TOML file < `key=value` on the command line.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use config::{Config, File, FileFormat, ValueKind};
use losses::{
    AdaptiveEntropy, AdvantageConfig, Aggregation, ClipCovControl, EntropyBonus, EntropyBudget,
    EntropyControl, EntropyRatioClip, Estimator, KlClamp, KlCovControl, LossConfig,
    ObjectiveConfig, PpoClip, ReferenceKl, RolloutCorrection, ShapedAdvantage, TopEntropy,
};
use policy::{LoraConfig, Packing};
use reward::{RewardConfig, TaskConfig};
use rollout::SamplingParams;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::{CriticSection, MonitorSection, SftConfig, TrainerError, base::base_settings, lora};

/// A training run. Its `Default` suits a pretrained model of some hundred million parameters or more; where
/// `model.path` is empty, [`TrainConfig::load`] puts the settings vetted for the bundled base above it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps to run: each is one rollout with all its updates.
    pub steps: u64,
    /// The seed that every random choice follows from.
    pub seed: u64,
    /// The policy to start from.
    pub model: ModelSection,
    /// Low-rank adapters, which are trained in place of the weights; unset, the weights are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Problems from files; without a file, `task` makes them.
    pub data: DataSection,
    /// The built-in task, used where `data.train` is not set.
    pub task: TaskConfig,
    /// Sampling.
    pub rollout: RolloutSection,
    /// What responses are scored by.
    pub reward: RewardConfig,
    /// Rewards to advantages.
    pub advantage: AdvantageConfig,
    /// The objective.
    pub loss: ObjectiveConfig,
    /// Entropy controllers over the objective, beside those that a loss brings along.
    pub entropy: EntropyControl,
    /// The critic, where `advantage.type` is `gae`.
    pub critic: CriticSection,
    /// How a rollout is cut into updates.
    pub update: UpdateSection,
    /// AdamW.
    pub optimizer: OptimizerSection,
    /// Accuracy on held-out problems.
    pub validation: ValidationSection,
    /// What is kept of the run.
    pub checkpoint: CheckpointSection,
    /// What is measured beside what training needs.
    pub measurement: MeasurementSection,
    /// When a run is warned of, or ended early.
    pub monitor: MonitorSection,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 60,
            seed: 1,
            model: ModelSection::default(),
            lora: None,
            data: DataSection::default(),
            task: TaskConfig::default(),
            rollout: RolloutSection::default(),
            reward: RewardConfig::default(),
            advantage: AdvantageConfig::default(),
            loss: ObjectiveConfig::default(),
            entropy: EntropyControl::default(),
            critic: CriticSection::default(),
            update: UpdateSection::default(),
            optimizer: OptimizerSection::default(),
            validation: ValidationSection::default(),
            checkpoint: CheckpointSection::default(),
            measurement: MeasurementSection::default(),
            monitor: MonitorSection::default(),
        }
    }
}

/// The policy to start from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A Hugging Face folder or hub name; empty is the bundled base.
    pub path: String,
    /// The type that the model computes in. Weights and AdamW's moments are f32 whatever it is, and so are logits,
    /// log-probabilities and losses.
    pub dtype: Dtype,
}

/// A floating-point type of weights and activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision, for devices without bfloat16: losses are scaled up before their way back.
    F16,
}

/// What must differ between the responses of a group that is trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterBy {
    /// The rewards.
    #[default]
    Reward,
    /// Whether they are right (DAPO, arXiv 2503.14476, Eq. 11): what parts of a reward beside it, such as a response's length,
    /// would tell apart alone is dropped.
    Correct,
}

impl FilterBy {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "what serde calls takes a reference"
    )]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What generation rounds weights, and what they are multiplied with, to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutDtype {
    /// Not rounded.
    F32,
    /// To bfloat16.
    Bf16,
    /// To eight bits, with a factor for every 64 numbers.
    Int8,
}

impl RolloutDtype {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl From<RolloutDtype> for Packing {
    fn from(dtype: RolloutDtype) -> Self {
        match dtype {
            RolloutDtype::F32 => Self::F32,
            RolloutDtype::Bf16 => Self::Bf16,
            RolloutDtype::Int8 => Self::Int8,
        }
    }
}

impl From<Dtype> for burn::tensor::DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
            Dtype::F16 => Self::F16,
        }
    }
}

/// Problems from JSON-lines files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Problems to train on; unset, the built-in task makes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// Problems to validate on; unset, the task's held-out split or, for files, none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// How a problem becomes a prompt.
    pub prompt: PromptStyle,
    /// Text put after a problem of a file.
    pub instruction: String,
    /// Whether a file's problems are reordered, anew for each epoch.
    pub shuffle: bool,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            train: None,
            validation: None,
            prompt: PromptStyle::Auto,
            instruction:
                "\nPlease reason step by step, and put your final answer within \\boxed{}.".into(),
            shuffle: true,
        }
    }
}

/// How a problem becomes a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptStyle {
    /// By the model's chat template where it has one, else the bare text.
    #[default]
    Auto,
    /// By the chat template.
    Chat,
    /// The bare text.
    Plain,
}

/// Sampling of rollouts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutSection {
    /// Problems in a rollout, once filtered.
    pub prompts_per_step: usize,
    /// Responses to each problem.
    pub group_size: usize,
    /// The longest response, in tokens.
    pub max_new_tokens: usize,
    /// Divides the logits when sampling, and in the trainer's log-probabilities.
    pub temperature: f64,
    /// Keeps the k most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens whose probabilities sum to this.
    pub top_p: f64,
    /// Drops tokens less probable than this share of the most probable one.
    pub min_p: f64,
    /// Texts that end a response.
    pub stop_strings: Vec<String>,
    /// Sequences decoded together. Speed alone depends on it.
    pub batch_rows: usize,
    /// Whether groups whose scores are all equal are dropped and sampled anew. Left out, they are where the advantage compares
    /// the responses of a group alone, so that such a group has none: not for `gae`, `reinforce_plus_plus` and `remax`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_groups: Option<bool>,
    /// What must differ within a group that is kept.
    #[serde(skip_serializing_if = "FilterBy::is_default")]
    pub filter_by: FilterBy,
    /// The most times that a step samples to fill its groups; then it trains on what it has.
    pub max_sampling_rounds: usize,
    /// Problems that a round samples for each group still missing; kept groups beyond `prompts_per_step` are the next
    /// step's first, sampled by a policy one step older.
    pub oversampling: f64,
    /// What generation on the CPU rounds weights and products to where training does not: the gap is `sampler_log_prob_gap`
    /// and `sampler_kl` in the metrics, and the loss weighs tokens by truncated importance ratios (`loss.rollout_correction`
    /// with its defaults, where the configuration has none of its own).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<RolloutDtype>,
}

impl Default for RolloutSection {
    fn default() -> Self {
        Self {
            prompts_per_step: 32,
            group_size: 8,
            max_new_tokens: 512,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            stop_strings: Vec::new(),
            batch_rows: 256,
            filter_groups: None,
            filter_by: FilterBy::Reward,
            max_sampling_rounds: 3,
            oversampling: 1.0,
            dtype: None,
        }
    }
}

/// How a rollout is cut into optimizer updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateSection {
    /// Problems (whole groups) in a mini-batch: one optimizer update each.
    pub mini_batch_prompts: usize,
    /// Tokens that go through the model at once: on the CPU a prompt that a group shares counted once, on a GPU with
    /// their padding. 0 chooses 4,096 on the CPU, and on a GPU what its memory holds, between 512 and 16,384; where it
    /// does not say how large it is, what fits an eighth of what the weights' training takes, or 256 MiB. Memory alone
    /// depends on it: `anneal train --dry-run` says how much.
    pub max_tokens: usize,
    /// What is kept of a forward pass for the backward pass.
    pub memory: Memory,
    /// Whether a pass before the updates computes log-probabilities and entropies again that the sampler has given
    /// already and to the same bits.
    pub recompute_log_probs: bool,
    /// Times that a rollout is gone through.
    pub epochs: usize,
    /// Whether responses that `rollout.max_new_tokens` cut off are left out of the losses, as if they were padding: they
    /// count in their group's advantages alone (overlong filtering, DAPO, arXiv 2503.14476, §3.4).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mask_truncated: bool,
}

impl Default for UpdateSection {
    fn default() -> Self {
        Self {
            mini_batch_prompts: 4,
            max_tokens: 0,
            memory: Memory::Auto,
            recompute_log_probs: false,
            epochs: 1,
            mask_truncated: false,
        }
    }
}

/// What is kept of a forward pass; no result depends on it. On a GPU it is the graphs of whole blocks, the last ones: of all with
/// `fast`, of as many as there is room for with `auto` and `balanced`, of none with `small`; of the others their inputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// `balanced` where it fits into the free memory, `small` where it does not.
    #[default]
    Auto,
    /// Everything but what is cheap to compute again.
    Fast,
    /// Attention's part; the feed-forward layers are computed again.
    Balanced,
    /// The input of each block alone, and of one pass at a time; blocks are computed again.
    Small,
}

/// AdamW (arXiv 1711.05101).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSection {
    /// The rate after the warm-up.
    pub learning_rate: f64,
    /// Steps over which the rate rises linearly to its full value: while its moments are young, Adam's updates
    /// have the full size whatever the gradient's noise.
    pub warmup_steps: u64,
    /// How the rate falls after the warm-up, until the last step.
    #[serde(skip_serializing_if = "Schedule::is_constant")]
    pub schedule: Schedule,
    /// The share of the rate that it falls to; nothing of it at the default of 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub final_ratio: f64,
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// ε of the denominator.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The largest norm of a whole gradient; 0 leaves it as it is.
    pub max_grad_norm: f64,
}

impl Default for OptimizerSection {
    fn default() -> Self {
        Self {
            learning_rate: 1e-6,
            warmup_steps: 5,
            schedule: Schedule::Constant,
            final_ratio: 0.0,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "what serde calls takes a reference"
)]
fn is_zero(x: &f64) -> bool {
    x.to_bits() == 0.0_f64.to_bits()
}

/// How a learning rate falls once it has risen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Not at all.
    #[default]
    Constant,
    /// In a line.
    Linear,
    /// Along half a cosine (arXiv 1608.03983, Eq. 5).
    Cosine,
}

impl Schedule {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "what serde calls takes a reference"
    )]
    fn is_constant(&self) -> bool {
        *self == Self::Constant
    }

    /// What is left of the rate once a share of the way is done.
    fn left(self, done: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Linear => 1.0 - done,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        }
    }
}

/// Accuracy on held-out problems.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationSection {
    /// Steps between validations; 0 for the first and the last alone.
    pub every: u64,
    /// Problems, the first of the set; 0 for all of a file, none of a task.
    pub problems: usize,
    /// Temperature; 0 is greedy.
    pub temperature: f64,
}

impl Default for ValidationSection {
    fn default() -> Self {
        Self {
            every: 10,
            problems: 256,
            temperature: 0.0,
        }
    }
}

/// What is kept of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointSection {
    /// Steps between checkpoints; 0 for the last alone.
    pub every: u64,
    /// How many of the newest are kept; 0 keeps all.
    pub keep: usize,
    /// Whether a step whose validation is the best so far is saved too, and kept until another is better.
    pub keep_best: bool,
    /// Whether each step's rollouts are written to `rollouts/`.
    pub rollouts: bool,
}

impl Default for CheckpointSection {
    fn default() -> Self {
        Self {
            every: 20,
            keep: 2,
            keep_best: false,
            rollouts: true,
        }
    }
}

/// What is measured beside what training needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeasurementSection {
    /// Whether the updates' passes measure how entropy moves within a step.
    pub change: bool,
    /// Whether `rollouts/` keeps each trained token's entropy, covariance and advantage.
    pub tokens: bool,
}

impl Default for MeasurementSection {
    fn default() -> Self {
        Self {
            change: true,
            tokens: true,
        }
    }
}

impl TrainConfig {
    /// Reads a file, if one is given, and applies `key=value` overrides.
    ///
    /// # Errors
    /// An unreadable file, invalid TOML, an unknown key (with the nearest known one), a value of the
    /// wrong type or out of range.
    pub fn load(file: Option<&Path>, overrides: &[String]) -> Result<Self, TrainerError> {
        let known = known_keys()?;
        let mut config: Self = load_layers(file, overrides, &known, Vec::new())?;
        let vetted = if config.model.path.is_empty() {
            base_settings(&config)
        } else {
            lora::vetted(config.lora.as_ref())
        };
        if !vetted.is_empty() {
            config = load_layers(file, overrides, &known, vetted)?;
        }
        config.validate()?;
        // What a run used stands in its folder, not what a later version may take for it.
        config.rollout.filter_groups = Some(config.filters_groups());
        config.loss.aggregation = Some(config.loss.aggregation());
        Ok(config)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn validate(&self) -> Result<(), TrainerError> {
        let rollout = &self.rollout;
        let counts = [
            ("rollout.prompts_per_step", rollout.prompts_per_step),
            ("rollout.group_size", rollout.group_size),
            ("rollout.batch_rows", rollout.batch_rows),
            ("rollout.max_sampling_rounds", rollout.max_sampling_rounds),
            ("update.mini_batch_prompts", self.update.mini_batch_prompts),
            ("update.epochs", self.update.epochs),
        ];
        for (key, value) in counts {
            check_count(key, value, 1)?;
        }
        check_count("validation.problems", self.validation.problems, 0)?;
        check_count("update.max_tokens", self.update.max_tokens, 0)?;
        check("steps", self.steps >= 1, "at least 1", self.steps)?;
        // TOML's integers have a sign, and a run's settings must read back from its folder.
        for (key, value) in [("seed", self.seed), ("steps", self.steps)] {
            check(key, i64::try_from(value).is_ok(), "below 2^63", value)?;
        }
        if (self.rollout.dtype, self.model.dtype) == (Some(RolloutDtype::F32), Dtype::Bf16) {
            return Err(TrainerError::Config {
                message: "rollout.dtype = \"f32\" with model.dtype = \"bf16\": generation rounds as training does; \
                          leave rollout.dtype out"
                    .into(),
            });
        }
        let sampling = self.sampling();
        check_sampling(&sampling, "rollout")?;
        check(
            "rollout.temperature",
            rollout.temperature > 0.0,
            "above 0",
            rollout.temperature,
        )?;
        let validation = SamplingParams {
            temperature: self.validation.temperature,
            ..sampling
        };
        check_sampling(&validation, "validation")?;
        self.check_groups()?;
        lora::validate(self.lora.as_ref())?;
        self.optimizer.validate()?;
        self.advantage.validate()?;
        self.loss.validate()?;
        self.entropy.validate(self.loss.loss.policy_loss())?;
        self.critic.validate()?;
        self.task.validate()?;
        self.reward.validate()?;
        self.monitor.validate()
    }

    /// Refuses a type that the model's device does not compute in.
    pub(crate) fn check_dtype(device: &Device, dtype: DType) -> Result<(), TrainerError> {
        let is_cpu = device.clone().inner() == Device::flex();
        let message = if is_cpu && dtype == DType::F16 {
            "model.dtype = \"f16\" is for GPUs without bf16; on the CPU use bf16 or f32".to_owned()
        } else if !device.supports_dtype(dtype) {
            let name = dtype.name();
            format!(
                "model.dtype: the device does not compute in {name}; `anneal devices` lists its types"
            )
        } else {
            return Ok(());
        };
        Err(TrainerError::Config { message })
    }

    /// Generation in another type than training is the CPU's own loops' alone.
    pub(crate) fn check_rollout_dtype(&self, is_fused: bool) -> Result<(), TrainerError> {
        let rounds = self
            .rollout
            .dtype
            .filter(|&dtype| dtype != RolloutDtype::F32);
        if let (Some(dtype), false) = (rounds, is_fused) {
            return Err(TrainerError::Config {
                message: format!(
                    "rollout.dtype = \"{}\" is for `--device flex` on a CPU with vector instructions alone; set model.dtype = \"bf16\", \
                     which generates and trains in it",
                    dtype.name()
                ),
            });
        }
        Ok(())
    }

    /// Groups must be large enough for rewards to differ in, and for the estimator to compare.
    fn check_groups(&self) -> Result<(), TrainerError> {
        let rollout = &self.rollout;
        let responses = rollout.prompts_per_step.saturating_mul(rollout.group_size);
        check_count(
            "rollout.prompts_per_step times rollout.group_size",
            responses,
            1,
        )?;
        let more = rollout.oversampling;
        check(
            "rollout.oversampling",
            (1.0..=100.0).contains(&more),
            "in 1..=100",
            more,
        )?;
        self.check_group_size(&self.advantage)?;
        if rollout.group_size == 1 && self.filters_groups() {
            let message = "rollout.group_size = 1 with rollout.filter_groups = true leaves nothing to train on: the \
                           rewards of a single response cannot differ; set rollout.filter_groups = false"
                .into();
            return Err(TrainerError::Config { message });
        }
        Ok(())
    }

    /// Refuses groups that an estimator cannot compare.
    pub(crate) fn check_group_size(&self, estimator: &dyn Estimator) -> Result<(), TrainerError> {
        let (least, size) = (estimator.least_group_size(), self.rollout.group_size);
        let expected = format!(
            "at least {least} for this advantage.type, which compares the responses of a group"
        );
        check("rollout.group_size", size >= least, &expected, size)
    }

    /// Whether groups without a difference are dropped.
    pub fn filters_groups(&self) -> bool {
        let filters = self.rollout.filter_groups;
        filters.unwrap_or_else(|| self.advantage.compares_groups())
    }

    /// The sampling parameters of rollouts, without the model's own end tokens.
    pub fn sampling(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.rollout.temperature,
            top_k: self.rollout.top_k,
            top_p: self.rollout.top_p,
            min_p: self.rollout.min_p,
            max_new_tokens: self.rollout.max_new_tokens,
            stop_token_ids: Vec::new(),
            stop_strings: self.rollout.stop_strings.clone(),
            ignore_stops: false,
        }
    }

    /// Optimizer updates that a full rollout makes.
    pub fn updates_per_rollout(&self) -> usize {
        self.rollout
            .prompts_per_step
            .div_ceil(self.update.mini_batch_prompts)
            * self.update.epochs
    }

    /// The same with the whole paths of its problem files, and of the folder of its model, so that a run goes on from wherever.
    #[must_use]
    pub fn with_whole_paths(mut self) -> Self {
        let model = Path::new(&self.model.path);
        if model.is_dir()
            && let Ok(whole) = std::path::absolute(model)
        {
            self.model.path = whole.to_string_lossy().into_owned();
        }
        for path in [&mut self.data.train, &mut self.data.validation] {
            let whole = path
                .as_ref()
                .and_then(|path| std::path::absolute(path).ok());
            *path = whole.or_else(|| path.take());
        }
        self
    }

    /// What a run of this configuration is called: its problems, its loss and its seed.
    pub fn run_name(&self) -> String {
        let problems = self.problems();
        let loss = self.loss_name();
        format!("{problems}-{loss}-seed-{}", self.seed)
    }

    /// What its problems are called: their file's name, or the task's.
    pub fn problems(&self) -> String {
        match &self.data.train {
            Some(path) => {
                let stem = path.file_stem().unwrap_or_default();
                stem.to_string_lossy().into_owned()
            }
            None => self.task.name().to_owned(),
        }
    }

    /// The tag of the loss.
    pub(crate) fn loss_name(&self) -> String {
        let table = Table::try_from(self.loss.loss).ok();
        let tag = table.and_then(|table| Some(table.get("type")?.as_str()?.to_owned()));
        tag.unwrap_or_default()
    }

    /// The resolved configuration as TOML, which [`TrainConfig::load`] reads back.
    ///
    /// # Errors
    /// None in practice; the serializer's, if it finds a value that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, TrainerError> {
        toml::to_string(self).map_err(|error| TrainerError::Config {
            message: error.to_string(),
        })
    }
}

impl OptimizerSection {
    /// The rate of a step of so many; the first is 1. The first after the warm-up has all of it.
    pub(crate) fn rate(&self, step: u64, steps: u64) -> f64 {
        let warmup = self.warmup_steps;
        let risen = (step as f64 / warmup.max(1) as f64).min(1.0);
        let after = step.saturating_sub(warmup + 1) as f64;
        let done = after / steps.saturating_sub(warmup).max(1) as f64;
        let left = self.final_ratio + (1.0 - self.final_ratio) * self.schedule.left(done.min(1.0));
        self.learning_rate * risen * left
    }

    pub(crate) fn validate(&self) -> Result<(), TrainerError> {
        let rate = self.learning_rate;
        check(
            "optimizer.learning_rate",
            (0.0..=1.0).contains(&rate),
            "in 0..=1",
            rate,
        )?;
        let ratio = self.final_ratio;
        let is_share = (0.0..=1.0).contains(&ratio);
        check("optimizer.final_ratio", is_share, "in 0..=1", ratio)?;
        for (key, beta) in [
            ("optimizer.beta_1", self.beta_1),
            ("optimizer.beta_2", self.beta_2),
        ] {
            check(key, (0.0..1.0).contains(&beta), "in [0, 1)", beta)?;
        }
        let epsilon = self.epsilon;
        check(
            "optimizer.epsilon",
            epsilon > 0.0 && epsilon <= 1.0,
            "in (0, 1]",
            epsilon,
        )?;
        let decay = self.weight_decay;
        check(
            "optimizer.weight_decay",
            (0.0..=10.0).contains(&decay),
            "in 0..=10",
            decay,
        )?;
        let norm = self.max_grad_norm;
        check(
            "optimizer.max_grad_norm",
            norm >= 0.0 && norm.is_finite(),
            "0 or more",
            norm,
        )
    }
}

/// Counts past which a setting is a slip, and memory would end before the work began.
const MAX_COUNT: usize = 1 << 24;

/// Checks a number of things that are held at once.
pub(crate) fn check_count(key: &str, value: usize, least: usize) -> Result<(), TrainerError> {
    let expected = format!("a whole number in {least}..={MAX_COUNT}");
    check(key, (least..=MAX_COUNT).contains(&value), &expected, value)
}

/// Checks sampling parameters that stand in a table of the configuration.
pub(crate) fn check_sampling(params: &SamplingParams, table: &str) -> Result<(), TrainerError> {
    params.validate().map_err(|error| TrainerError::Config {
        message: format!("{table}.{error}"),
    })
}

pub(crate) fn check(
    key: &str,
    is_valid: bool,
    expected: &str,
    found: impl std::fmt::Display,
) -> Result<(), TrainerError> {
    if is_valid {
        return Ok(());
    }
    Err(TrainerError::Config {
        message: format!("{key} must be {expected}, not {found}"),
    })
}

/// Merges defaults, settings of lowest rank, a file and overrides into one typed configuration.
pub(crate) fn load_layers<T: DeserializeOwned + Default + Serialize>(
    file: Option<&Path>,
    overrides: &[String],
    known: &[String],
    lowest: Vec<(String, ValueKind)>,
) -> Result<T, TrainerError> {
    let mut builder = Config::builder();
    for (key, value) in defaults::<T>()?.into_iter().chain(lowest) {
        builder = builder
            .set_default(key, value)
            .map_err(|e| config_error(&e))?;
    }
    if let Some(path) = file {
        let table = read_table(path)?;
        check_keys(&table, known, &path.display().to_string())?;
        let kept = without_replaced_types(table, overrides);
        builder = builder.add_source(File::from_str(&kept.to_string(), FileFormat::Toml));
    }
    for item in overrides {
        let (key, value) = parse_override(item)?;
        check_key(&key, known, "the command line")?;
        builder = builder
            .set_override(&key, value)
            .map_err(|e| config_error(&e))?;
    }
    let merged = builder.build().map_err(|e| config_error(&e))?;
    // By way of TOML's own types: `config` would round 8.5 to 9 and read "off" as false.
    let merged: Value = merged.try_deserialize().map_err(|e| config_error(&e))?;
    merged
        .try_into()
        .map_err(|error: toml::de::Error| TrainerError::Config {
            message: in_plain_words(error.to_string().trim_end()),
        })
}

/// The default configuration's tables, key by key: a default that a whole holds for one of its parts may differ from
/// the part's own, which serde would take where a file or the command line sets another key of that part.
///
/// Of a tagged table such as `loss`, the tag alone: the keys of the default type would be unknown to another.
fn defaults<T: Default + Serialize>() -> Result<Vec<(String, ValueKind)>, TrainerError> {
    let whole = Table::try_from(T::default()).map_err(|error| config_error(&error))?;
    let mut settings = Vec::new();
    for (section, part) in whole {
        let Value::Table(part) = part else { continue };
        let tag = ["type", "name"]
            .into_iter()
            .find(|tag| part.contains_key(*tag));
        for (key, value) in part {
            if tag.is_none_or(|tag| tag == key) {
                settings.push((format!("{section}.{key}"), into_kind(value)));
            }
        }
    }
    Ok(settings)
}

fn config_error(error: &impl std::fmt::Display) -> TrainerError {
    TrainerError::Config {
        message: error.to_string(),
    }
}

fn read_table(path: &Path) -> Result<Table, TrainerError> {
    let text = std::fs::read_to_string(path).map_err(|source| TrainerError::Io {
        path: path.to_owned(),
        source,
    })?;
    text.parse::<Table>().map_err(|error| TrainerError::Config {
        message: {
            let place = error.span().map(|span| line_and_column(&text, span.start));
            let place = place.unwrap_or_default();
            let message = error.message().trim_end().replace('\n', "; ");
            format!("{}{place}: {message}", path.display())
        },
    })
}

/// Where a byte of a text stands, as `:line:column`.
fn line_and_column(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |line| line.chars().count());
    format!(":{line}:{}", column + 1)
}

/// What serde says of a value, without Rust's names of types.
fn in_plain_words(message: &str) -> String {
    let mut message = message.replace('\n', " ");
    for (rust, plain) in [
        ("expected u64", "expected a whole number of 0 or more"),
        ("expected u32", "expected a whole number of 0 or more"),
        ("expected usize", "expected a whole number of 0 or more"),
        ("expected f64", "expected a number"),
        ("expected f32", "expected a number"),
        ("expected a boolean", "expected true or false"),
    ] {
        message = message.replace(rust, plain);
    }
    // `expected struct ReferenceKl in ...`: a table, whose keys are settings.
    if let Some(at) = message.find("expected struct ") {
        let after = at + "expected struct ".len();
        let end = message[after..].find(|c: char| !c.is_alphanumeric());
        let end = end.map_or(message.len(), |end| after + end);
        message.replace_range(at..end, "expected a table of settings, key.setting=value");
    }
    message
}

/// `key=value`, the value read as TOML and, where it is none, as a bare string.
fn parse_override(item: &str) -> Result<(String, config::Value), TrainerError> {
    let (key, text) = item.split_once('=').ok_or_else(|| TrainerError::Config {
        message: format!("'{item}' is not of the form key=value"),
    })?;
    let parsed = format!("value = {text}").parse::<Table>().ok();
    let value = parsed.and_then(|mut table| table.remove("value"));
    let value = value.unwrap_or_else(|| Value::String(text.to_owned()));
    let origin = "the command line".to_owned();
    let kind = into_kind(value);
    Ok((
        key.trim().to_owned(),
        config::Value::new(Some(&origin), kind),
    ))
}

fn into_kind(value: Value) -> ValueKind {
    let wrap = |value| config::Value::new(None, into_kind(value));
    match value {
        Value::String(text) => text.into(),
        Value::Integer(number) => number.into(),
        Value::Float(number) => number.into(),
        Value::Boolean(flag) => flag.into(),
        Value::Datetime(time) => time.to_string().into(),
        Value::Array(items) => ValueKind::Array(items.into_iter().map(wrap).collect()),
        Value::Table(table) => ValueKind::Table(
            table
                .into_iter()
                .map(|(key, value)| (key, wrap(value)))
                .collect(),
        ),
    }
}

/// Keys of the `loss` table that every type has.
const WHATEVER_THE_TYPE: [&str; 4] = [
    "aggregation",
    "constant_length_tokens",
    "reference_kl",
    "rollout_correction",
];

/// Drops the keys of a table whose `type` or `name` the command line changes: they belong to the old one.
fn without_replaced_types(mut table: Table, overrides: &[String]) -> Table {
    for (section, tag, new) in overrides.iter().filter_map(|item| replaced_type(item)) {
        let Some(Value::Table(fields)) = table.get_mut(&section) else {
            continue;
        };
        let old = fields.get(tag).and_then(Value::as_str).map(str::to_owned);
        let Some(old) = old.filter(|old| *old != new) else {
            continue;
        };
        fields.retain(|key, _| WHATEVER_THE_TYPE.contains(&key));
        // What the old type has by default was not chosen.
        let default = default_aggregation(&old);
        if default.is_some()
            && fields.get("aggregation").and_then(Value::as_str) == default.as_deref()
        {
            fields.remove("aggregation");
        }
        if section == "advantage"
            && let Some(Value::Table(rollout)) = table.get_mut("rollout")
            && rollout.get("filter_groups").and_then(Value::as_bool) == default_filter(&old)
        {
            rollout.remove("filter_groups");
        }
    }
    table
}

/// Whether an advantage of this type filters groups where nothing says so.
fn default_filter(advantage_type: &str) -> Option<bool> {
    let advantage = toml::from_str::<AdvantageConfig>(&format!("type = {advantage_type:?}"));
    Some(advantage.ok()?.compares_groups())
}

/// The section, the tag's key and its new value, where an override sets one: `loss.type=kl_cov`, or the whole table.
fn replaced_type(item: &str) -> Option<(String, &'static str, String)> {
    let (key, value) = parse_override(item).ok()?;
    for tag in ["type", "name"] {
        if let Some(section) = key.strip_suffix(tag).and_then(|key| key.strip_suffix('.')) {
            return Some((section.to_owned(), tag, value.into_string().ok()?));
        }
        if let ValueKind::Table(fields) = &value.kind
            && let Some(new) = fields.get(tag)
        {
            return Some((key, tag, new.clone().into_string().ok()?));
        }
    }
    None
}

/// The aggregation that a loss of this type has where none is set, as it is written.
fn default_aggregation(loss_type: &str) -> Option<String> {
    let loss: LossConfig = toml::from_str(&format!("type = {loss_type:?}")).ok()?;
    let default = ObjectiveConfig {
        loss,
        ..ObjectiveConfig::default()
    };
    let written = Value::try_from(default.aggregation()).ok()?;
    written.as_str().map(str::to_owned)
}

/// Every dotted key that a run's configuration may hold, of all types of its tagged tables.
fn known_keys() -> Result<Vec<String>, TrainerError> {
    let mut keys = Vec::new();
    let mut add = |prefix: &str, text: String| -> Result<(), TrainerError> {
        let table = text
            .parse::<Table>()
            .map_err(|error| config_error(&error))?;
        collect_keys(&table, prefix, &mut keys);
        Ok(())
    };
    let text = |value: Result<String, toml::ser::Error>| value.map_err(|e| config_error(&e));
    add("", text(toml::to_string(&TrainConfig::default()))?)?;
    add("", text(toml::to_string(&with_every_option()))?)?;
    for loss in LossConfig::defaults() {
        add("loss.", text(toml::to_string(&loss))?)?;
    }
    for advantage in AdvantageConfig::defaults() {
        add("advantage.", text(toml::to_string(&advantage))?)?;
    }
    add_tasks(&mut add)?;
    keys.push("model".to_owned());
    keys.sort();
    keys.dedup();
    Ok(keys)
}

/// A configuration in which every optional table and key is there, to know their names by.
fn with_every_option() -> TrainConfig {
    TrainConfig {
        lora: Some(LoraConfig::default()),
        optimizer: OptimizerSection {
            schedule: Schedule::Linear,
            final_ratio: 1.0,
            ..OptimizerSection::default()
        },
        data: DataSection {
            train: Some(PathBuf::new()),
            validation: Some(PathBuf::new()),
            ..DataSection::default()
        },
        rollout: RolloutSection {
            dtype: Some(RolloutDtype::Bf16),
            filter_groups: Some(true),
            filter_by: FilterBy::Correct,
            ..RolloutSection::default()
        },
        update: UpdateSection {
            mask_truncated: true,
            ..UpdateSection::default()
        },
        loss: ObjectiveConfig {
            loss: LossConfig::PpoClip(PpoClip {
                dual_clip: Some(3.0),
                ..PpoClip::default()
            }),
            aggregation: Some(Aggregation::default()),
            constant_length_tokens: Some(1.0),
            reference_kl: Some(ReferenceKl {
                clamp: Some(KlClamp::default()),
                ..ReferenceKl::default()
            }),
            rollout_correction: Some(RolloutCorrection::default()),
        },
        entropy: EntropyControl {
            clip_cov: Some(ClipCovControl::default()),
            kl_cov: Some(KlCovControl::default()),
            bonus: Some(EntropyBonus::default()),
            adaptive: Some(AdaptiveEntropy::default()),
            budget: Some(EntropyBudget {
                final_target_nats: Some(1.0),
                ..EntropyBudget::default()
            }),
            top_entropy: Some(TopEntropy::default()),
            ratio_clip: Some(EntropyRatioClip::default()),
            shaped_advantage: Some(ShapedAdvantage::default()),
        },
        ..TrainConfig::default()
    }
}

/// The names of the built-in tasks.
const TASKS: [&str; 2] = ["arithmetic", "countdown"];

fn add_tasks(
    add: &mut dyn FnMut(&str, String) -> Result<(), TrainerError>,
) -> Result<(), TrainerError> {
    TASKS
        .iter()
        .try_for_each(|task| add("task.", default_of::<TaskConfig>("name", task)?))
}

/// A tagged table's default for one tag, as TOML.
fn default_of<T: DeserializeOwned + Serialize>(
    tag: &str,
    value: &str,
) -> Result<String, TrainerError> {
    let table = toml::from_str::<T>(&format!("{tag} = \"{value}\""));
    let table = table.map_err(|error| config_error(&error))?;
    toml::to_string(&table).map_err(|error| config_error(&error))
}

/// The keys of a supervised run's configuration.
pub(crate) fn known_sft_keys() -> Result<Vec<String>, TrainerError> {
    let mut keys: Vec<String> = ["data.train", "data.validation"].map(str::to_owned).into();
    let mut add = |prefix: &str, text: String| -> Result<(), TrainerError> {
        collect_keys(
            &text.parse().map_err(|error| config_error(&error))?,
            prefix,
            &mut keys,
        );
        Ok(())
    };
    add(
        "",
        toml::to_string(&SftConfig {
            lora: Some(LoraConfig::default()),
            optimizer: OptimizerSection {
                schedule: Schedule::Linear,
                final_ratio: 1.0,
                ..OptimizerSection::default()
            },
            ..SftConfig::default()
        })
        .map_err(|error| config_error(&error))?,
    )?;
    add_tasks(&mut add)?;
    Ok(keys)
}

fn collect_keys(table: &Table, prefix: &str, keys: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        if let Value::Table(inner) = value {
            collect_keys(inner, &format!("{path}."), keys);
        }
        keys.push(path);
    }
}

fn check_keys(table: &Table, known: &[String], place: &str) -> Result<(), TrainerError> {
    let mut found = Vec::new();
    collect_keys(table, "", &mut found);
    found
        .iter()
        .try_for_each(|key| check_key(key, known, place))
}

fn check_key(key: &str, known: &[String], place: &str) -> Result<(), TrainerError> {
    if known.iter().any(|name| name == key) {
        return Ok(());
    }
    Err(TrainerError::UnknownKey {
        key: key.to_owned(),
        place: place.to_owned(),
        nearest: nearest_key(key, known),
    })
}

/// Names that other tools have for a setting, by their last part.
const ALIASES: [(&str, &str); 29] = [
    ("lr", "optimizer.learning_rate"),
    ("learning_rate", "optimizer.learning_rate"),
    ("n", "rollout.group_size"),
    ("num_generations", "rollout.group_size"),
    ("train_batch_size", "rollout.prompts_per_step"),
    ("batch_size", "rollout.prompts_per_step"),
    ("max_completion_length", "rollout.max_new_tokens"),
    ("max_response_length", "rollout.max_new_tokens"),
    ("ppo_mini_batch_size", "update.mini_batch_prompts"),
    ("ppo_epochs", "update.epochs"),
    ("num_iterations", "update.epochs"),
    ("val", "data.validation"),
    ("val_files", "data.validation"),
    ("train_files", "data.train"),
    ("dataset", "data.train"),
    ("kl_coef", "loss.reference_kl.coef"),
    ("beta", "loss.reference_kl.coef"),
    ("entropy_coeff", "entropy.bonus.coef"),
    ("clip_ratio_low", "loss.clip_low"),
    ("clip_ratio_high", "loss.clip_high"),
    ("adv_estimator", "advantage.type"),
    ("lr_scheduler_type", "optimizer.schedule"),
    ("lr_warmup_steps", "optimizer.warmup_steps"),
    ("min_lr_ratio", "optimizer.final_ratio"),
    ("lora_r", "lora.rank"),
    ("lora_target_modules", "lora.targets"),
    ("lora_rank", "lora.rank"),
    ("lora_alpha", "lora.alpha"),
    ("target_modules", "lora.targets"),
];

/// The known key that was probably meant: one that is nearly the same, one of the same section or of another that ends alike,
/// one by another tool's name, or the one with the fewest letters between.
fn nearest_key(key: &str, known: &[String]) -> String {
    let distance = |name: &String| strsim::damerau_levenshtein(name, key);
    let nearest = |names: &mut dyn Iterator<Item = &String>| {
        let nearest = names.min_by_key(|name| distance(name));
        nearest.cloned()
    };
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let (section, own) = match key.rsplit_once('.') {
        Some((section, own)) => (Some(section), own),
        None => (None, key),
    };
    let parts = |name: &str| name.matches('.').count();
    let is_slip = |name: &&String| parts(name) == parts(key) && distance(name) <= 2;
    let slip = nearest(&mut known.iter().filter(is_slip));
    let alike = || known.iter().filter(|name| last(name) == own);
    // Without a section, several that end alike say less than what other tools mean by the name.
    let ends_alike = match section {
        Some(_) => nearest(&mut alike()),
        None => alike().next().filter(|_| alike().count() == 1).cloned(),
    };
    let alias = || {
        let (_, meant) = ALIASES.iter().find(|(name, _)| *name == own)?;
        let here = section.map(|section| format!("{section}.{}", last(meant)));
        let meant = [here, Some((*meant).to_owned())];
        meant
            .into_iter()
            .flatten()
            .find(|name| known.contains(name))
    };
    // The first letters of a name, or a name with more behind it.
    let begins = || {
        let is_alike = |name: &&String| {
            name.rsplit_once('.').map(|(section, _)| section) == section
                && (last(name).starts_with(own) || own.starts_with(&last(name)))
        };
        nearest(&mut known.iter().filter(is_alike))
    };
    let by_last = || {
        known.iter().min_by_key(|name| {
            let of_last = strsim::damerau_levenshtein(&last(name), own);
            (distance(name).min(2 * of_last), distance(name))
        })
    };
    let found = slip.or(ends_alike).or_else(alias).or_else(begins);
    found.or_else(|| by_last().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_stands_in_the_reference() {
        let reference = include_str!("../../SETTINGS.md");
        for key in known_keys().unwrap() {
            let row = format!("\n| `{key}` |");
            assert!(reference.contains(&row), "SETTINGS.md has no row of {key}");
        }
    }

    #[test]
    fn adapters_have_rates_of_their_own_unless_one_is_set() {
        let rate = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|&setting| setting.into()).collect();
            let config = TrainConfig::load(None, &settings).unwrap();
            config.optimizer.learning_rate.to_bits()
        };
        let of = |rate: f64| rate.to_bits();
        assert_eq!(rate(&["lora={}"]), of(2e-4));
        assert_eq!(rate(&["lora.rank=3"]), of(2e-4));
        assert_eq!(rate(&["lora={}", "model.path=other"]), of(1e-5));
        assert_eq!(rate(&["model.path=other"]), of(1e-6));
        let set = ["lora={}", "optimizer.learning_rate=3e-3"];
        assert_eq!(rate(&set), of(3e-3));
    }

    #[test]
    fn rates_rise_and_fall_as_their_schedule_has_it() {
        let of = |schedule, final_ratio| OptimizerSection {
            learning_rate: 1.0,
            warmup_steps: 2,
            schedule,
            final_ratio,
            ..OptimizerSection::default()
        };
        let rates = |section: &OptimizerSection| [1, 2, 3, 5, 6].map(|step| section.rate(step, 6));
        let near = |found: [f64; 5], expected: [f64; 5]| {
            let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(apart.into_iter().all(|x| x < 1e-12), "{found:?}");
        };
        near(
            rates(&of(Schedule::Constant, 0.0)),
            [0.5, 1.0, 1.0, 1.0, 1.0],
        );
        near(
            rates(&of(Schedule::Linear, 0.0)),
            [0.5, 1.0, 1.0, 0.5, 0.25],
        );
        near(
            rates(&of(Schedule::Linear, 0.5)),
            [0.5, 1.0, 1.0, 0.75, 0.625],
        );
        let eighth = (1.0 - 0.5_f64.sqrt()) / 2.0;
        near(
            rates(&of(Schedule::Cosine, 0.0)),
            [0.5, 1.0, 1.0, 0.5, eighth],
        );
        // A step beyond the last, and no step after the warm-up.
        assert!(of(Schedule::Linear, 0.0).rate(9, 6).abs() < 1e-12);
        assert!((of(Schedule::Cosine, 0.0).rate(2, 1) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_filter_that_another_advantage_has_by_default_does_not_stick() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        let filters = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|&setting| setting.into()).collect();
            let config = TrainConfig::load(Some(&file), &settings).unwrap();
            config.rollout.filter_groups
        };
        std::fs::write(
            &file,
            TrainConfig::load(None, &[]).unwrap().to_toml().unwrap(),
        )
        .unwrap();
        assert_eq!(filters(&[]), Some(true));
        assert_eq!(filters(&["advantage.type=gae"]), Some(false));
        assert_eq!(filters(&["advantage.type=rloo"]), Some(true));
        std::fs::write(
            &file,
            "[rollout]\nfilter_groups = false\n[advantage]\ntype = \"grpo\"",
        )
        .unwrap();
        assert_eq!(filters(&["advantage.type=rloo"]), Some(false));
    }

    #[test]
    fn an_unknown_key_is_told_of_the_one_that_was_meant() {
        let known = known_keys().unwrap();
        for (key, meant) in [
            ("learning_rate", "optimizer.learning_rate"),
            ("optimizer.lr", "optimizer.learning_rate"),
            ("group_size", "rollout.group_size"),
            ("rollout.n", "rollout.group_size"),
            ("data.val", "data.validation"),
            ("loss.clip_hihg", "loss.clip_high"),
            ("rolout.top_k", "rollout.top_k"),
            ("validation.evry", "validation.every"),
            ("critc.learning_rate", "critic.learning_rate"),
            ("critic.lr", "critic.learning_rate"),
            ("entropy.kl_cv.kl_coef", "entropy.kl_cov.kl_coef"),
            ("actor.optim.lr", "optimizer.learning_rate"),
            ("lora.r", "lora.rank"),
            ("model.lora_rank", "lora.rank"),
            ("lora.alpha_scale", "lora.alpha"),
        ] {
            assert_eq!(nearest_key(key, &known), meant, "{key}");
        }
    }

    #[test]
    fn a_setting_of_another_type_is_told_of_without_rusts_names() {
        let refused = |setting: &str| {
            let error = TrainConfig::load(None, &[setting.to_owned()]).unwrap_err();
            error.to_string()
        };
        for setting in [
            "steps=-5",
            "rollout=5",
            "loss.reference_kl=0.1",
            "checkpoint.keep=-1",
        ] {
            let said = refused(setting);
            let key = setting.split('=').next().unwrap_or_default();
            let last = key.rsplit('.').next().unwrap_or_default();
            assert!(said.contains(last), "{said}");
            for name in ["struct", "u64", "usize"] {
                assert!(!said.contains(name), "{said}");
            }
        }
    }
}
