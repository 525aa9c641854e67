//! Settings of the countdown task.

use serde::{Deserialize, Serialize};

use super::task::NAME;
use super::{CountdownTask, Operation};
use crate::task::setting::Settings;
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
        let settings = Settings { task: NAME };
        let few = (2..=8).contains(&self.numbers);
        settings.require(few, "numbers", &self.numbers, "must lie between 2 and 8")?;
        let small = (2..=10_000).contains(&self.max_number);
        settings.require(
            small,
            "max_number",
            &self.max_number,
            "must lie between 2 and 10000",
        )?;
        let near = (2..=1_000_000).contains(&self.max_target);
        settings.require(
            near,
            "max_target",
            &self.max_target,
            "must lie between 2 and 1000000",
        )?;
        let some = !self.operations.is_empty();
        let requirement = "must name at least one of \"+\", \"-\", \"*\" and \"/\"";
        settings.require(some, "operations", &"[]", requirement)?;
        settings.require_weights(&[self.styles.steps, self.styles.direct])
    }
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
