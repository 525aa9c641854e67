//! What can go wrong while generating.

/// A request or a model's output that generation cannot go on with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutError {
    /// A sampling parameter out of its range.
    #[error("{name} must be {expected}, not {found}")]
    InvalidParameter {
        /// The parameter's name.
        name: &'static str,
        /// The range that it must lie in.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// A prompt with no tokens.
    #[error("the prompt of row {row} has no tokens")]
    EmptyPrompt {
        /// The request's row.
        row: u64,
    },
    /// A prompt that leaves no room for an answer.
    #[error(
        "the prompt of row {row} has {prompt_tokens} tokens; the model's context holds {context_tokens}"
    )]
    PromptTooLong {
        /// The request's row.
        row: u64,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens that the model was made for.
        context_tokens: usize,
    },
    /// A prompt id that the model has no embedding for.
    #[error("the prompt of row {row} holds token id {id}; the model has {vocab_size}")]
    UnknownToken {
        /// The request's row.
        row: u64,
        /// The id.
        id: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// Logits that are not numbers.
    #[error(
        "the model gave logits that are not finite at token {token} of row {row}; its weights are damaged or the training has diverged"
    )]
    NonFiniteLogits {
        /// The request's row.
        row: u64,
        /// Index of the token that was to be sampled.
        token: usize,
    },
    /// Generation was given up, as it was told to.
    #[error("generation was stopped")]
    Stopped,
    /// The backend failed to give its results back.
    #[error("the device failed while generating: {message}")]
    Device {
        /// The backend's own words.
        message: String,
    },
    /// The tokenizer failed on a stop string's check.
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
}
