//! The loop that joins the stages: problems → rollouts → scores → groups → loss inputs → step.
//!
//! [`Trainer::step`] is one step and reads as its outline; [`Trainer::run`] is the loop around it. The trainer does
//! not know which algorithm it runs: [`losses::PolicyObjective`] does.
//!
//! Two steps with a reward and a loss of one's own, in a loop of one's own ([`Stages`] has what else can be one's own):
//!
//! ```
//! use burn::tensor::{DType, Device};
//! use losses::{PerToken, PolicyLoss, PolicyTerms};
//! use reward::{Problem, Response, Reward, Score};
//! use trainer::{Event, Stages, TrainConfig, Trainer, TrainerError, bundled_base};
//!
//! /// -A·tanh(Δ): a gradient that fades as the policy moves.
//! #[derive(Debug)]
//! struct Fading;
//!
//! impl PolicyLoss for Fading {
//!     fn per_token(&self, terms: &PolicyTerms) -> PerToken {
//!         let gain = terms.log_ratio.clone().tanh() * terms.advantages.clone();
//!         PerToken { loss: -gain, clipped: None }
//!     }
//! }
//!
//! /// Short answers earn more.
//! struct Short;
//!
//! impl Reward for Short {
//!     fn score(&self, _: &Problem, response: &Response<'_>) -> Score {
//!         Score::of(-(response.tokens as f64), "tokens")
//!     }
//! }
//!
//! // KL-Cov over that loss, with all else that the settings say.
//! let settings = ["entropy.kl_cov={}", "rollout.prompts_per_step=2", "rollout.max_new_tokens=16"];
//! let config = TrainConfig::load(None, &settings.map(str::to_owned))?;
//! let policy = bundled_base(DType::F32, &Device::flex().autodiff())?;
//! let stages = Stages::default().with_reward(Short).with_loss(Fading);
//! let mut trainer = Trainer::compose(config, policy, stages)?;
//! for _ in 0..2 {
//!     let outcome = trainer.step(&mut |_: Event<'_>| ())?;
//!     println!("{}: {:.3} nats", outcome.metrics.step, outcome.metrics.entropy_token_mean);
//! }
//! # Ok::<(), TrainerError>(())
//! ```

mod answer;
mod answering;
mod base;
mod batch;
mod checkpoint;
mod config;
mod critic;
mod describe;
mod durable;
mod error;
mod evaluation;
mod experience;
mod failpoint;
mod figures;
mod folder;
mod forward;
mod group;
mod lora;
mod loss_scale;
mod measure;
mod memory;
mod metrics;
mod monitor;
#[cfg(test)]
mod not_finite;
mod observer;
mod optimizer;
mod parallel;
mod pass;
mod prompt;
mod rehearsal;
mod run;
mod sft;
mod skipped;
mod source;
mod stages;
mod step;
mod stop;
#[cfg(test)]
mod tiny;
mod update;

pub use answer::{AnswerKey, Answerer};
pub use answering::{AnswerDtype, load_to_answer};
pub use base::{bundled_base, bundled_tokenizer, load_policy};
pub use batch::{Collated, Sequence, TokenBudget, micro_batches};
pub use checkpoint::{changed_settings, list_checkpoints, newest_checkpoint, remove_surplus};
pub use config::{
    CheckpointSection, DataSection, Dtype, FilterBy, MeasurementSection, Memory, ModelSection,
    OptimizerSection, PromptStyle, RolloutDtype, RolloutSection, Schedule, TrainConfig,
    UpdateSection, ValidationSection,
};
pub use critic::{CriticSection, CriticTrunk};
pub use error::TrainerError;
pub use evaluation::{Figure, accuracies, majority, pass_at};
pub use figures::ResponseFigures;
pub use folder::{GroupState, RolloutLine, RunFolder, RunLock};
pub use group::{Group, Scored};
pub use lora::resume_policy;
pub use memory::MemoryEstimate;
pub use metrics::{Difficulty, PartMetrics, StepMetrics};
pub use monitor::MonitorSection;
pub use observer::{Event, Observer};
pub use prompt::PromptFormat;
pub use rehearsal::Rehearsal;
pub use run::{Best, DataFile, RunState, Trainer};
pub use sft::{ArchitectureSection, SftConfig, SftProgress, SftReport, train_supervised};
pub use skipped::SkippedBatch;
pub use source::{ProblemSource, check_gold};
pub use stages::Stages;
pub use step::StepOutcome;
