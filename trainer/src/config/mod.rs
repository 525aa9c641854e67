//! A run's configuration: defaults < TOML file < `key=value` on the command line.

mod keys;
mod layers;
mod sections;

use std::path::Path;

use burn::tensor::{DType, Device};
use losses::{AdvantageConfig, EntropyControl, Estimator, ObjectiveConfig, PolicyLoss};
use policy::LoraConfig;
use reward::{RewardConfig, TaskConfig};
use rollout::SamplingParams;
use serde::{Deserialize, Serialize};
use toml::Table;

pub(crate) use keys::known_sft_keys;
pub(crate) use layers::load_layers;
pub(crate) use sections::is_default;
pub use sections::{
    CheckpointSection, DataSection, Dtype, FilterBy, MeasurementSection, Memory, ModelSection,
    OptimizerSection, PromptStyle, RolloutDtype, RolloutSection, Schedule, UpdateSection,
    ValidationSection,
};

use crate::{CriticSection, MonitorSection, TrainerError, base::base_settings, lora};
use keys::known_keys;

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
        self.validate_for(self.loss.loss.policy_loss(), &self.advantage)
    }

    /// The same with a loss and an estimator that may be others than it names.
    pub(crate) fn validate_for(
        &self,
        loss: &dyn PolicyLoss,
        estimator: &dyn Estimator,
    ) -> Result<(), TrainerError> {
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
        self.data.validate()?;
        let minutes = self.checkpoint.minutes;
        let is_time = minutes.is_finite() && minutes >= 0.0;
        check("checkpoint.minutes", is_time, "0 or more", minutes)?;
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
        self.check_groups(estimator)?;
        lora::validate(self.lora.as_ref())?;
        self.optimizer.validate()?;
        estimator.validate()?;
        self.loss.validate_for(loss)?;
        self.entropy.validate(loss)?;
        self.critic.validate()?;
        self.task.validate()?;
        self.reward.validate()?;
        self.monitor.validate()
    }

    /// Refuses a type, which `setting` asks for, that the model's device does not compute in.
    pub(crate) fn check_dtype(
        setting: &str,
        device: &Device,
        dtype: DType,
    ) -> Result<(), TrainerError> {
        let is_cpu = device.clone().inner() == Device::flex();
        let message = if is_cpu && dtype == DType::F16 {
            format!("{setting}: f16 is for GPUs without bf16; on the CPU use bf16 or f32")
        } else if !device.supports_dtype(dtype) {
            let name = dtype.name();
            format!(
                "{setting}: the device does not compute in {name}; `anneal devices` lists its types"
            )
        } else {
            return Ok(());
        };
        Err(TrainerError::Config { message })
    }

    /// Refuses a type to generate in, which `setting` asks for, where the CPU's own loops do not compute the model: nothing else rounds
    /// for generation alone.
    pub(crate) fn check_rollout_dtype(
        setting: &str,
        dtype: Option<RolloutDtype>,
        is_fused: bool,
    ) -> Result<(), TrainerError> {
        let rounds = dtype.filter(|&dtype| dtype != RolloutDtype::F32);
        let (Some(dtype), false) = (rounds, is_fused) else {
            return Ok(());
        };
        Err(TrainerError::Config {
            message: format!(
                "{setting}: {} for generation alone is for `--device flex` on a CPU with vector instructions; elsewhere take bf16 as \
                 the model's own type",
                dtype.name()
            ),
        })
    }

    /// Groups must be large enough for rewards to differ in, and for the estimator to compare.
    fn check_groups(&self, estimator: &dyn Estimator) -> Result<(), TrainerError> {
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
        let (least, size) = (estimator.least_group_size(), rollout.group_size);
        let expected = format!(
            "at least {least} for this estimator of advantages, which compares the responses of a group"
        );
        check("rollout.group_size", size >= least, &expected, size)?;
        if rollout.group_size == 1 && self.filters_groups_of(estimator) {
            let message = "rollout.group_size = 1 with rollout.filter_groups = true leaves nothing to train on: the \
                           rewards of a single response cannot differ; set rollout.filter_groups = false"
                .into();
            return Err(TrainerError::Config { message });
        }
        Ok(())
    }

    /// The same with the defaults of a loss and an estimator in the place of those that it names: what is the named one's default was not
    /// chosen.
    pub(crate) fn with_defaults_of(
        mut self,
        loss: Option<&dyn PolicyLoss>,
        estimator: Option<&dyn Estimator>,
    ) -> Self {
        let named = self.loss.loss.policy_loss().default_aggregation();
        if let Some(loss) = loss.filter(|_| self.loss.aggregation.is_none_or(|set| set == named)) {
            self.loss.aggregation = Some(loss.default_aggregation());
        }
        let named = self.advantage.compares_groups();
        let is_default = self.rollout.filter_groups.is_none_or(|set| set == named);
        if let Some(estimator) = estimator.filter(|_| is_default) {
            self.rollout.filter_groups = Some(estimator.compares_groups());
        }
        self
    }

    /// Whether groups without a difference are dropped.
    pub fn filters_groups(&self) -> bool {
        self.filters_groups_of(&self.advantage)
    }

    fn filters_groups_of(&self, estimator: &dyn Estimator) -> bool {
        let filters = self.rollout.filter_groups;
        filters.unwrap_or_else(|| estimator.compares_groups())
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
