//! Settings of the countdown task.

use serde::{Deserialize, Serialize};

use super::task::NAME;
use super::{CountdownTask, Operation};
use crate::{RewardError, Split};

/// How often each style of a worked solution is chosen, in proportion to the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CountdownStyles {
    /// A line for each operation, then the expression.
    pub steps: f64,
    /// The expression without a step.
    pub direct: f64,
}

impl Default for CountdownStyles {
    fn default() -> Self {
        Self {
            steps: 0.9,
            direct: 0.1,
        }
    }
}

/// Settings of the countdown task: `3 7 25 50 -> 178`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CountdownConfig {
    /// Numbers given, from 2 to 8.
    pub numbers: usize,
    /// The largest number given, from 2 to 10,000; the smallest is 1.
    pub max_number: i64,
    /// The largest target, from 2 to 1,000,000.
    pub max_target: i64,
    /// Whether every number must be used, rather than each at most once.
    pub use_all: bool,
    /// The operations that solutions use. Responses may use all four.
    pub operations: Vec<Operation>,
    /// How often each style of a worked solution is chosen.
    pub styles: CountdownStyles,
}

impl Default for CountdownConfig {
    fn default() -> Self {
        Self {
            numbers: 4,
            max_number: 50,
            max_target: 200,
            use_all: false,
            operations: vec![Operation::Add, Operation::Subtract, Operation::Multiply],
            styles: CountdownStyles::default(),
        }
    }
}

impl CountdownConfig {
    /// Checks every setting, and that problems can be drawn with them.
    ///
    /// # Errors
    /// If one is out of range, or together they leave too few problems.
    pub fn validate(&self) -> Result<(), RewardError> {
        self.clone().build().map(drop)
    }

    /// The task with these settings.
    ///
    /// # Errors
    /// As [`CountdownConfig::validate`].
    pub fn build(self) -> Result<CountdownTask, RewardError> {
        self.validate_ranges()?;
        let task = CountdownTask::new(self);
        if task.can_draw(Split::Train) && task.can_draw(Split::HeldOut) {
            return Ok(task);
        }
        Err(RewardError::TooFewProblems { task: NAME })
    }

    fn validate_ranges(&self) -> Result<(), RewardError> {
        let numbers = self.numbers;
        require(
            (2..=8).contains(&numbers),
            "numbers",
            numbers,
            "must lie between 2 and 8",
        )?;
        let number = self.max_number;
        let requirement = "must lie between 2 and 10000";
        require(
            (2..=10_000).contains(&number),
            "max_number",
            number,
            requirement,
        )?;
        let target = self.max_target;
        let requirement = "must lie between 2 and 1000000";
        require(
            (2..=1_000_000).contains(&target),
            "max_target",
            target,
            requirement,
        )?;
        let operations = &self.operations;
        let requirement = "must name at least one of \"+\", \"-\", \"*\" and \"/\"";
        require(!operations.is_empty(), "operations", "[]", requirement)?;
        self.styles.validate()
    }
}

impl CountdownStyles {
    fn validate(self) -> Result<(), RewardError> {
        let weights = [self.steps, self.direct];
        let usable = weights
            .iter()
            .all(|weight| weight.is_finite() && *weight >= 0.0);
        let some = weights.iter().sum::<f64>() > 0.0;
        let requirement = "must hold weights of 0 or more, at least one of them above 0";
        require(
            usable && some,
            "styles",
            format!("{weights:?}"),
            requirement,
        )
    }
}

fn require(
    holds: bool,
    setting: &'static str,
    value: impl ToString,
    requirement: &'static str,
) -> Result<(), RewardError> {
    if holds {
        return Ok(());
    }
    Err(RewardError::InvalidSetting {
        task: NAME,
        setting,
        value: value.to_string(),
        requirement,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let default = CountdownConfig::default;
        let no_style = CountdownStyles {
            steps: 0.0,
            direct: 0.0,
        };
        for (config, name) in [
            (
                CountdownConfig {
                    numbers: 1,
                    ..default()
                },
                "numbers",
            ),
            (
                CountdownConfig {
                    numbers: 9,
                    ..default()
                },
                "numbers",
            ),
            (
                CountdownConfig {
                    max_number: 1,
                    ..default()
                },
                "max_number",
            ),
            (
                CountdownConfig {
                    max_target: 1,
                    ..default()
                },
                "max_target",
            ),
            (
                CountdownConfig {
                    operations: vec![],
                    ..default()
                },
                "operations",
            ),
            (
                CountdownConfig {
                    styles: no_style,
                    ..default()
                },
                "styles",
            ),
        ] {
            let error = config.validate().unwrap_err();
            assert!(
                matches!(&error, RewardError::InvalidSetting { setting, .. } if *setting == name)
            );
        }
        assert!(default().validate().is_ok());
    }

    #[test]
    fn settings_without_problems_are_refused() {
        let products = CountdownConfig {
            numbers: 8,
            max_number: 10_000,
            max_target: 2,
            use_all: true,
            operations: vec![Operation::Multiply],
            ..CountdownConfig::default()
        };
        assert!(matches!(
            products.validate(),
            Err(RewardError::TooFewProblems { .. })
        ));
    }
}
