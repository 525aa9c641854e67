//! What can go wrong in a run.

use std::{io, path::PathBuf};

use crate::SkippedBatch;

/// A configuration, a folder, a stage or a number that a run cannot go on with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainerError {
    /// Another process holds the run's folder.
    #[error("{}: {} is at work in this run; wait for it or stop it", path.display(), describe_process(*process))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process's number, where it has left one.
        process: Option<u32>,
    },
    /// The run was asked to stop, and has.
    #[error("the run was stopped; it goes on from step {step}")]
    Stopped {
        /// The last step of which a checkpoint is kept; 0 where there is none.
        step: u64,
    },
    /// A file of problems that is not what it was when the run trained on it.
    #[error(
        "{}: {key} has changed since the run trained on it; put the old file back, or give the new one under another name to go on with it",
        path.display()
    )]
    DataChanged {
        /// The setting that names it.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// The model that a run's adapters are for cannot be had.
    #[error(
        "{}: a run of adapters goes on over the model that it began with, {}: {source}; give its new place by model.path=…, or begin \
         anew from the checkpoint, into which the adapters are merged, by --model {}",
        checkpoint.display(), base_name(model), checkpoint.display()
    )]
    BaseGone {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The model's path.
        model: String,
        /// Why not.
        source: Box<TrainerError>,
    },
    /// A run began with another model than the one that is in its place now, and needs it: its adapters are for it, or its reference is it.
    #[error(
        "{}: the run began with another model than what {} is now; put that one back, or begin anew from the checkpoint, by --model {}",
        checkpoint.display(), base_name(model), checkpoint.display()
    )]
    OtherStart {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The model's path.
        model: String,
    },
    /// A setting that is not valid.
    #[error("{message}")]
    Config {
        /// What is wrong, with the key.
        message: String,
    },
    /// A key that no setting has.
    #[error("{place}: unknown key '{key}'; the nearest known one is '{nearest}'")]
    UnknownKey {
        /// The key.
        key: String,
        /// The file, or the command line.
        place: String,
        /// The known key of the least edit distance.
        nearest: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk, or what the process may write, has no room for a checkpoint.
    #[error(
        "{}: {source}; a checkpoint of this run needs {needed_bytes} bytes of room while it is written",
        path.display()
    )]
    NoRoom {
        /// The file that could not be written.
        path: PathBuf,
        /// What the checkpoint takes at most, beside those that are kept.
        needed_bytes: u64,
        /// The system's error.
        source: io::Error,
    },
    /// A problem whose prompt leaves no room for its response.
    #[error(
        "problem '{id}' makes a prompt of {prompt_tokens} tokens; with max_new_tokens = {max_new_tokens} it does not fit the model's context of {context_tokens}"
    )]
    PromptTooLong {
        /// The problem.
        id: String,
        /// Tokens of its prompt.
        prompt_tokens: usize,
        /// The longest response asked for, in tokens.
        max_new_tokens: usize,
        /// The model's context.
        context_tokens: usize,
    },
    /// All problems of a file are too long.
    #[error(
        "data.drop_overlong leaves no problem to train on: each is too long for the model's context; lower the longest response, or take a model with a longer context"
    )]
    NoneFits,
    /// A gold answer that no response could be compared with.
    #[error(
        "problem '{id}': the answer {answer:?} is no mathematics that the verifier reads; correct it, or score by another reward (a run's reward.parts)"
    )]
    UnreadableGold {
        /// The problem.
        id: String,
        /// Its answer.
        answer: String,
    },
    /// A problem that the tokenizer or the chat template cannot take.
    #[error("problem '{id}': {source}")]
    Prompt {
        /// The problem.
        id: String,
        /// What is wrong.
        source: policy::PolicyError,
    },
    /// An answer that the model could not give.
    #[error("problem '{id}': {source}")]
    Answer {
        /// The problem.
        id: String,
        /// What is wrong.
        source: Box<rollout::RolloutError>,
    },
    /// A worked solution that the model cannot be shown whole.
    #[error(
        "problem '{id}' with its solution has {tokens} tokens; the model's context holds {context_tokens}"
    )]
    LessonTooLong {
        /// The problem.
        id: String,
        /// Tokens of both.
        tokens: usize,
        /// The model's context.
        context_tokens: usize,
    },
    /// Several updates in a row whose gradients were not finite.
    #[error(
        "step {step}: {count} updates in a row had a gradient that is not finite; lower optimizer.learning_rate, or start from another model"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// How many in a row.
        count: usize,
    },
    /// The same, with the batch of the last.
    #[error(
        "step {step}: {count} updates in a row had a loss or gradient that is not finite, {batch}{}; lower optimizer.learning_rate and go on from the last checkpoint, or start from another model",
        file.as_ref().map(|file| format!("; {} holds the batch, for anneal replay", file.display())).unwrap_or_default()
    )]
    DivergedOn {
        /// The step.
        step: u64,
        /// How many in a row.
        count: usize,
        /// The last of their batches.
        batch: Box<SkippedBatch>,
        /// Where it was written.
        file: Option<PathBuf>,
    },
    /// Nothing to learn from, and nothing that it would come from.
    #[error(
        "step {step}: none of {responses} answers has a reward that is a finite number ({reason}{}); see to what scores them, and start again or go on with --resume",
        if *count > 1 { format!(", for {count} steps in a row") } else { String::new() }
    )]
    NoReward {
        /// The step.
        step: u64,
        /// Answers that the step sampled.
        responses: usize,
        /// Why one of them has none, in the words of what scores it.
        reason: String,
        /// How many such steps in a row.
        count: u64,
    },
    /// Weights that a checkpoint must not keep.
    #[error(
        "step {step}: a weight is not finite, and nothing was saved; lower optimizer.learning_rate, and go on from an earlier checkpoint or model"
    )]
    NonFiniteWeights {
        /// The step.
        step: u64,
    },
    /// A run's own file that is damaged.
    #[error("{}: {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A stage's error.
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
    /// A stage's error.
    #[error(transparent)]
    Rollout(#[from] rollout::RolloutError),
    /// A stage's error.
    #[error(transparent)]
    Reward(#[from] reward::RewardError),
    /// A stage's error.
    #[error(transparent)]
    Loss(#[from] losses::LossError),
}

impl TrainerError {
    /// Whether a stage gave up because it was told to.
    pub(crate) fn is_stop(&self) -> bool {
        matches!(
            self,
            Self::Stopped { .. } | Self::Rollout(rollout::RolloutError::Stopped)
        )
    }
}

fn describe_process(process: Option<u32>) -> String {
    process.map_or("another process".into(), |id| format!("process {id}"))
}

/// A model by its path, where it has one.
fn base_name(path: &str) -> &str {
    match path {
        "" => "the bundled base",
        path => path,
    }
}
