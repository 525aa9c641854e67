//! The loop that joins the stages: problems → rollouts → scores → groups → loss inputs → step.
//!
//! [`Trainer::step`] is one step and reads as its outline; [`Trainer::run`] is the loop around it. The trainer does
//! not know which algorithm it runs: [`losses::PolicyObjective`] does.

mod answer;
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
mod step;
mod stop;
#[cfg(test)]
mod tiny;
mod update;

pub use answer::{AnswerKey, Answerer};
pub use base::{bundled_base, bundled_tokenizer, load_policy};
pub use batch::{Collated, Sequence, TokenBudget, micro_batches};
pub use checkpoint::{changed_settings, list_checkpoints, newest_checkpoint, remove_surplus};
pub use config::{
    CheckpointSection, DataSection, Dtype, FilterBy, MeasurementSection, Memory, ModelSection,
    OptimizerSection, PromptStyle, RolloutDtype, RolloutSection, TrainConfig, UpdateSection,
    ValidationSection,
};
pub use critic::{CriticSection, CriticTrunk};
pub use error::TrainerError;
pub use evaluation::{Figure, accuracies, majority, pass_at};
pub use figures::ResponseFigures;
pub use folder::{GroupState, RolloutLine, RunFolder, RunLock};
pub use group::{Group, Scored};
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
pub use step::StepOutcome;
