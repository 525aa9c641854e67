//! The tables of a run's configuration that are the trainer's own.

use std::path::PathBuf;

use policy::Packing;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::check;
use crate::TrainerError;

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

/// Whether a value goes without saying: what is written then leaves it out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
    /// A system message before each problem of a file that has none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Whether problems that leave no room for their responses are left out, rather than refused.
    #[serde(skip_serializing_if = "is_default")]
    pub drop_overlong: bool,
    /// Whether a file's problems are reordered, anew for each epoch.
    pub shuffle: bool,
    /// What the chat template takes beside the messages, such as `enable_thinking`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub template_arguments: Map<String, Value>,
}

impl DataSection {
    /// Refuses what no chat template can be given.
    pub(crate) fn validate(&self) -> Result<(), TrainerError> {
        const RESERVED: [&str; 2] = ["messages", "add_generation_prompt"];
        let wrong = self
            .template_arguments
            .iter()
            .find(|(name, value)| value.is_null() || RESERVED.contains(&name.as_str()));
        match wrong {
            None => Ok(()),
            Some((name, value)) => check(
                &format!("data.template_arguments.{name}"),
                false,
                "a value that is no NaN, under a name that the prompt does not fill itself",
                value,
            ),
        }
    }
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            train: None,
            validation: None,
            prompt: PromptStyle::Auto,
            instruction:
                "\nPlease reason step by step, and put your final answer within \\boxed{}.".into(),
            system: None,
            drop_overlong: false,
            shuffle: true,
            template_arguments: Map::new(),
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
    #[serde(skip_serializing_if = "is_default")]
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
    #[serde(skip_serializing_if = "is_default")]
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
    /// Minutes after which a step's end is saved in any case, so that no more is lost where steps are long; 0 for never.
    pub minutes: f64,
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
            minutes: 15.0,
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
