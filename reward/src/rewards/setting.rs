//! Checks that rewards' settings share.

use std::fmt::Display;

use crate::RewardError;

/// Names the settings of one reward in errors.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    /// The reward's name, as configurations have it.
    pub(super) reward: &'static str,
}

impl Settings {
    /// An error unless `holds`; `requirement` ends a sentence such as "`cache_tokens` = 0 …".
    pub(super) fn require(
        self,
        holds: bool,
        setting: &'static str,
        value: impl Display,
        requirement: &'static str,
    ) -> Result<(), RewardError> {
        if holds {
            return Ok(());
        }
        Err(RewardError::InvalidRewardSetting {
            reward: self.reward,
            setting,
            value: value.to_string(),
            requirement,
        })
    }
}
