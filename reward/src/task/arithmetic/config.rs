//! Settings of the arithmetic task.

use serde::{Deserialize, Serialize};

use super::ArithmeticTask;
use super::task::NAME;
use crate::RewardError;
use crate::task::setting::Settings;

/// Sums of so many terms stay readable.
pub(super) const MAX_OPERANDS: usize = 64;
/// Sums of [`MAX_OPERANDS`] terms of so many digits fit into 64 bits with room for mistakes.
pub(super) const MAX_DIGITS: u32 = 15;

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
        let settings = Settings { task: NAME };
        let few = (2..=MAX_OPERANDS).contains(&self.operands);
        settings.require(few, "operands", &self.operands, "must lie between 2 and 64")?;
        let short = (1..=MAX_DIGITS).contains(&self.digits);
        settings.require(short, "digits", &self.digits, "must lie between 1 and 15")?;
        let some = !self.operations.is_empty();
        settings.require(some, "operations", &"[]", "must name \"+\", \"-\" or both")?;
        settings.require_weights(&self.styles.as_array())
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
