//! The four operations, on positive integers and on rationals.

use num_rational::Ratio;
use num_traits::{CheckedAdd, CheckedDiv, CheckedMul, CheckedSub};
use serde::{Deserialize, Serialize};

/// What may join two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// Addition.
    #[serde(rename = "+")]
    Add,
    /// Subtraction.
    #[serde(rename = "-")]
    Subtract,
    /// Multiplication.
    #[serde(rename = "*")]
    Multiply,
    /// Division.
    #[serde(rename = "/")]
    Divide,
}

impl Operation {
    pub(super) fn from_symbol(symbol: char) -> Option<Self> {
        match symbol {
            '+' => Some(Self::Add),
            '-' => Some(Self::Subtract),
            '*' => Some(Self::Multiply),
            '/' => Some(Self::Divide),
            _ => None,
        }
    }

    pub(super) fn symbol(self) -> char {
        match self {
            Self::Add => '+',
            Self::Subtract => '-',
            Self::Multiply => '*',
            Self::Divide => '/',
        }
    }

    /// Products bind more tightly than sums.
    pub(super) fn precedence(self) -> u8 {
        match self {
            Self::Add | Self::Subtract => 1,
            Self::Multiply | Self::Divide => 2,
        }
    }

    pub(super) fn commutes(self) -> bool {
        matches!(self, Self::Add | Self::Multiply)
    }

    /// The result, where it is a positive integer and within i64.
    pub(super) fn apply_positive(self, left: i64, right: i64) -> Option<i64> {
        let result = match self {
            Self::Add => left.checked_add(right),
            Self::Subtract => left.checked_sub(right),
            Self::Multiply => left.checked_mul(right),
            Self::Divide => left
                .checked_rem(right)
                .filter(|rest| *rest == 0)
                .map(|_| left / right),
        };
        result.filter(|result| *result > 0)
    }

    /// The exact result; `None` for a division by zero or beyond 128 bits.
    pub(super) fn apply_exact(
        self,
        left: &Ratio<i128>,
        right: &Ratio<i128>,
    ) -> Option<Ratio<i128>> {
        match self {
            Self::Add => left.checked_add(right),
            Self::Subtract => left.checked_sub(right),
            Self::Multiply => left.checked_mul(right),
            Self::Divide => left.checked_div(right),
        }
    }
}
