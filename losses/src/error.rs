//! What can be wrong with a configuration, with rewards, or with a batch's numbers.

/// Why a loss, an advantage or a selection was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LossError {
    /// A setting lies outside its range.
    #[error("{setting} = {value} is out of range: {requirement}")]
    OutOfRange {
        /// The setting, as in the configuration file, such as `clip_cov.fraction`.
        setting: &'static str,
        /// What it was set to.
        value: f64,
        /// What it must be.
        requirement: &'static str,
    },
    /// A band whose lower end does not lie below its upper end.
    #[error("clip_cov.cov_low = {low} must be below clip_cov.cov_high = {high}")]
    EmptyBand {
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
    /// A group holds no response.
    #[error("group {group} holds no response")]
    EmptyGroup {
        /// Position of the group, from 0.
        group: usize,
    },
    /// A reward is NaN or infinite.
    #[error("the reward of response {response} in group {group} is {reward}, which is not finite")]
    NonFiniteReward {
        /// Position of the group, from 0.
        group: usize,
        /// Position of the response in its group, from 0.
        response: usize,
        /// The reward.
        reward: f64,
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
    setting: &'static str,
    value: f64,
    requirement: &'static str,
    passes: impl Fn(f64) -> bool,
) -> Result<(), LossError> {
    if passes(value) {
        return Ok(());
    }
    Err(LossError::OutOfRange {
        setting,
        value,
        requirement,
    })
}
