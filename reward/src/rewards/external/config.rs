//! Settings of an external reward.

use serde::{Deserialize, Serialize};

use super::ExternalReward;
use crate::RewardError;
use crate::rewards::setting::Settings;

/// Nobody waits for a response's reward for longer than a day.
const MAX_TIMEOUT_SECONDS: f64 = 86_400.0;
const MAX_PROCESSES: usize = 1_024;

/// Settings of an [`ExternalReward`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExternalConfig {
    /// The program and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// How long a response's reward may take, above 0. The first one of a process takes its start
    /// as well.
    pub timeout_seconds: f64,
    /// How many processes answer side by side, from 1 to 1,024.
    pub processes: usize,
    /// How often a process is started again without an answer in between.
    pub max_restarts: u32,
}

impl Default for ExternalConfig {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            timeout_seconds: 30.0,
            processes: 1,
            max_restarts: 3,
        }
    }
}

impl ExternalConfig {
    /// Checks every setting. It does not look whether the program exists.
    ///
    /// # Errors
    /// If one is out of range.
    pub fn validate(&self) -> Result<(), RewardError> {
        let settings = Settings { reward: "external" };
        let program = self.command.first().map_or("", String::as_str);
        settings.require(
            !program.is_empty(),
            "command",
            format!("{:?}", self.command),
            "must be a list of a program and its arguments",
        )?;
        settings.require(
            self.timeout_seconds > 0.0 && self.timeout_seconds <= MAX_TIMEOUT_SECONDS,
            "timeout_seconds",
            self.timeout_seconds,
            "must be above 0, and 86400 at most",
        )?;
        settings.require(
            (1..=MAX_PROCESSES).contains(&self.processes),
            "processes",
            self.processes,
            "must lie between 1 and 1024",
        )
    }

    /// The reward, with its processes started.
    ///
    /// # Errors
    /// As [`ExternalConfig::validate`], or if the program cannot be started.
    pub fn build(&self) -> Result<ExternalReward, RewardError> {
        self.validate()?;
        ExternalReward::start(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        for (text, name) in [
            ("", "command"),
            ("command = []", "command"),
            ("command = ['']", "command"),
            ("command = ['a']\ntimeout_seconds = 0", "timeout_seconds"),
            ("command = ['a']\ntimeout_seconds = -1.0", "timeout_seconds"),
            ("command = ['a']\ntimeout_seconds = nan", "timeout_seconds"),
            ("command = ['a']\ntimeout_seconds = inf", "timeout_seconds"),
            ("command = ['a']\nprocesses = 0", "processes"),
            ("command = ['a']\nprocesses = 1025", "processes"),
        ] {
            let config: ExternalConfig = toml::from_str(text).unwrap();
            let error = config.validate().unwrap_err();
            assert!(
                matches!(&error, RewardError::InvalidRewardSetting { setting, .. } if *setting == name),
                "{text}: {error}"
            );
        }
        let config: ExternalConfig = toml::from_str("command = ['a', 'b']").unwrap();
        assert!(config.validate().is_ok());
        assert!(toml::from_str::<ExternalConfig>("shell = true").is_err());
    }
}
