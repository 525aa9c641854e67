//! Settings of the arithmetic task.

use serde::{Deserialize, Serialize};

use super::ArithmeticTask;
use super::task::NAME;
use crate::RewardError;

/// What may stand before an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sign {
    /// It is added.
    #[serde(rename = "+")]
    Plus,
    /// It is subtracted.
    #[serde(rename = "-")]
    Minus,
}

/// How often each style of a worked solution is chosen, in proportion to the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StyleWeights {
    /// A running total from left to right.
    pub running: f64,
    /// Sums of neighbours, then of their sums.
    pub pairs: f64,
    /// Hundreds, tens and ones apart.
    pub tens: f64,
    /// A running total from right to left, or from the largest down.
    pub reordered: f64,
    /// The answer without a step.
    pub direct: f64,
}

impl Default for StyleWeights {
    fn default() -> Self {
        Self {
            running: 0.35,
            pairs: 0.2,
            tens: 0.2,
            reordered: 0.2,
            direct: 0.05,
        }
    }
}

/// Settings of the arithmetic task: `47+38+91+26=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArithmeticConfig {
    /// Integers in a sum, from 2 to 64.
    pub operands: usize,
    /// Digits of each, from 1 to 15; the first digit is not zero.
    pub digits: u32,
    /// What may stand before every operand but the first.
    pub operations: Vec<Sign>,
    /// How often each style of a worked solution is chosen.
    pub styles: StyleWeights,
}

impl Default for ArithmeticConfig {
    fn default() -> Self {
        Self {
            operands: 4,
            digits: 2,
            operations: vec![Sign::Plus],
            styles: StyleWeights::default(),
        }
    }
}

impl ArithmeticConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// If one is out of range.
    pub fn validate(&self) -> Result<(), RewardError> {
        let operands = self.operands;
        require(
            (2..=64).contains(&operands),
            "operands",
            operands,
            "must lie between 2 and 64",
        )?;
        let digits = self.digits;
        require(
            (1..=15).contains(&digits),
            "digits",
            digits,
            "must lie between 1 and 15",
        )?;
        let operations = &self.operations;
        require(
            !operations.is_empty(),
            "operations",
            "[]",
            "must name \"+\", \"-\" or both",
        )?;
        self.styles.validate()
    }

    /// The task with these settings.
    ///
    /// # Errors
    /// As [`ArithmeticConfig::validate`].
    pub fn build(self) -> Result<ArithmeticTask, RewardError> {
        self.validate()?;
        Ok(ArithmeticTask::new(self))
    }
}

impl StyleWeights {
    pub(super) fn as_array(self) -> [f64; 5] {
        [
            self.running,
            self.pairs,
            self.tens,
            self.reordered,
            self.direct,
        ]
    }

    fn validate(self) -> Result<(), RewardError> {
        let weights = self.as_array();
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
        let default = ArithmeticConfig::default;
        let no_style = StyleWeights {
            running: 0.0,
            pairs: 0.0,
            tens: 0.0,
            reordered: 0.0,
            direct: 0.0,
        };
        let negative = StyleWeights {
            running: -1.0,
            ..StyleWeights::default()
        };
        for (config, name) in [
            (
                ArithmeticConfig {
                    operands: 1,
                    ..default()
                },
                "operands",
            ),
            (
                ArithmeticConfig {
                    digits: 0,
                    ..default()
                },
                "digits",
            ),
            (
                ArithmeticConfig {
                    digits: 16,
                    ..default()
                },
                "digits",
            ),
            (
                ArithmeticConfig {
                    operations: vec![],
                    ..default()
                },
                "operations",
            ),
            (
                ArithmeticConfig {
                    styles: no_style,
                    ..default()
                },
                "styles",
            ),
            (
                ArithmeticConfig {
                    styles: negative,
                    ..default()
                },
                "styles",
            ),
        ] {
            let error = config.validate().unwrap_err();
            assert!(
                matches!(&error, RewardError::InvalidSetting { setting, .. } if *setting == name)
            );
            assert!(config.build().is_err());
        }
        assert!(default().validate().is_ok());
    }

    #[test]
    fn the_smallest_settings_have_problems_in_both_splits() {
        use crate::{Split, Task};
        for operations in [vec![Sign::Plus], vec![Sign::Minus]] {
            let config = ArithmeticConfig {
                operands: 2,
                digits: 1,
                operations,
                ..Default::default()
            };
            let task = config.build().unwrap();
            assert_eq!(task.problem(Split::HeldOut, 0, 0).source, NAME);
            assert_eq!(task.problem(Split::Train, 0, 0).source, NAME);
        }
    }
}
