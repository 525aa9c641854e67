//! Checks that tasks' settings share.

use std::fmt::Display;

use crate::RewardError;

/// Names the settings of one task in errors.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    /// The task's name.
    pub(super) task: &'static str,
}

impl Settings {
    /// An error unless `holds`; `requirement` ends a sentence such as "`digits` = 0 …".
    pub(super) fn require(
        self,
        holds: bool,
        setting: &'static str,
        value: &dyn Display,
        requirement: &'static str,
    ) -> Result<(), RewardError> {
        if holds {
            return Ok(());
        }
        let value = value.to_string();
        Err(RewardError::InvalidSetting {
            task: self.task,
            setting,
            value,
            requirement,
        })
    }

    /// An error unless the weights of `styles` are usable as proportions.
    pub(super) fn require_weights(self, weights: &[f64]) -> Result<(), RewardError> {
        let usable = weights
            .iter()
            .all(|weight| weight.is_finite() && *weight >= 0.0);
        let some = weights.iter().sum::<f64>() > 0.0;
        let requirement = "must hold weights of 0 or more, at least one of them above 0";
        self.require(
            usable && some,
            "styles",
            &format!("{weights:?}"),
            requirement,
        )
    }
}
