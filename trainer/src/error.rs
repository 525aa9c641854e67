//! What can go wrong in a run.

use std::{io, path::PathBuf};

/// A configuration, a folder, a stage or a number that a run cannot go on with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainerError {
    /// Another process holds the run's folder.
    #[error("{}: another process is at work in this run; wait for it or stop it", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
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
    /// A gold answer that no response could be compared with.
    #[error(
        "problem '{id}': the answer {answer:?} is no mathematics that the verifier reads; correct it, or score by another reward (reward.parts)"
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
