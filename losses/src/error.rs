//! What can be wrong with a configuration, with rewards, or with a batch's numbers.

/// Why a loss, an advantage or a selection was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LossError {
    /// A setting lies outside its range.
    #[error("{setting} = {value} is out of range: {requirement}")]
    OutOfRange {
        /// The setting, as in the configuration file, such as `loss.clip_low`.
        setting: String,
        /// What it was set to.
        value: f64,
        /// What it must be.
        requirement: &'static str,
    },
    /// A band whose lower end does not lie below its upper end.
    #[error("{table}.cov_low = {low} must be below {table}.cov_high = {high}")]
    EmptyBand {
        /// The table of both, as in the configuration file.
        table: String,
        /// The lower end.
        low: f64,
        /// The upper end.
        high: f64,
    },
    /// An aggregation that divides by a constant length was given none.
    #[error(
        "loss.aggregation = \"seq_mean_token_sum_norm\" divides by a constant length: \
         set loss.constant_length_tokens, for example to the longest response allowed"
    )]
    MissingConstantLength,
    /// Two parts of an objective that cannot work together.
    #[error("{first} does not go with {second}: {reason}")]
    Combination {
        /// One of them, as in the configuration file.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// An estimator that compares the responses of a group was given a single one.
    #[error(
        "group {group} has a single response; advantage.type = \"{estimator}\" compares at least two"
    )]
    GroupOfOne {
        /// The group's number, as given.
        group: u64,
        /// The estimator.
        estimator: &'static str,
    },
    /// An estimator needs an input that it was not given.
    #[error("advantage.type = \"{estimator}\" needs {input}")]
    MissingInput {
        /// The estimator.
        estimator: &'static str,
        /// What is missing.
        input: &'static str,
    },
    /// A reward, or another figure that advantages are made of, is NaN or infinite.
    #[error("{quantity} of response {row} is {value}, which is not finite")]
    NonFiniteReward {
        /// Which of the inputs.
        quantity: &'static str,
        /// The response's row, from 0.
        row: usize,
        /// The value.
        value: f64,
    },
    /// A trained token's log-probability or advantage is NaN or infinite.
    #[error("{quantity} of row {row}, token {token} is {value}, which is not finite")]
    NonFiniteToken {
        /// Which of the inputs.
        quantity: &'static str,
        /// Row of the batch, from 0.
        row: usize,
        /// Position in the response, from 0.
        token: usize,
        /// The value.
        value: f32,
    },
}

/// An error that names the setting, unless its value passes.
pub(crate) fn check_range(
    setting: impl Into<String>,
    value: f64,
    requirement: &'static str,
    passes: impl Fn(f64) -> bool,
) -> Result<(), LossError> {
    if passes(value) {
        return Ok(());
    }
    Err(LossError::OutOfRange {
        setting: setting.into(),
        value,
        requirement,
    })
}
