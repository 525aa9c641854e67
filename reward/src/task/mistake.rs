//! Mistakes that a learner could make.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::RewardError;

/// The probability that a step goes wrong, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct MistakeRate(f64);

impl MistakeRate {
    /// No step goes wrong.
    pub const NEVER: Self = Self(0.0);
    /// Every step goes wrong.
    pub const ALWAYS: Self = Self(1.0);

    /// A rate from a probability.
    ///
    /// # Errors
    /// If it does not lie between 0 and 1.
    pub fn new(probability: f64) -> Result<Self, RewardError> {
        if (0.0..=1.0).contains(&probability) {
            Ok(Self(probability))
        } else {
            Err(RewardError::InvalidMistakeRate { value: probability })
        }
    }

    /// The probability.
    pub fn get(self) -> f64 {
        self.0
    }

    pub(super) fn strikes(self, rng: &mut ChaCha8Rng) -> bool {
        rng.random_bool(self.0)
    }
}

impl TryFrom<f64> for MistakeRate {
    type Error = RewardError;

    fn try_from(probability: f64) -> Result<Self, RewardError> {
        Self::new(probability)
    }
}

impl From<MistakeRate> for f64 {
    fn from(rate: MistakeRate) -> Self {
        rate.0
    }
}

/// A wrong result near the right one: off by one, off by ten (a carry missed or made twice), or
/// with two neighbouring digits swapped. Results that were not negative stay so.
pub(super) fn wrong_result(right: i64, rng: &mut ChaCha8Rng) -> i64 {
    let wrong = match rng.random_range(0..5) {
        0 => right + 1,
        1 => right - 1,
        2 => right + 10,
        3 => right - 10,
        _ => with_digits_swapped(right, rng),
    };
    let crosses_zero = right >= 0 && wrong < 0;
    if wrong == right || crosses_zero {
        right + 1
    } else {
        wrong
    }
}

/// Swaps two neighbouring digits of the magnitude; the number itself where they are equal.
fn with_digits_swapped(number: i64, rng: &mut ChaCha8Rng) -> i64 {
    let mut digits = number.unsigned_abs().to_string().into_bytes();
    if digits.len() < 2 {
        return number;
    }
    let at = rng.random_range(0..digits.len() - 1);
    digits.swap(at, at + 1);
    let magnitude = digits
        .iter()
        .fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    magnitude * number.signum()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn rates_are_probabilities() {
        assert!(MistakeRate::new(0.08).is_ok());
        for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                MistakeRate::new(value),
                Err(RewardError::InvalidMistakeRate { .. })
            ));
        }
        assert!(serde_json::from_str::<MistakeRate>("1.5").is_err());
        let rate: MistakeRate = serde_json::from_str("0.25").unwrap();
        assert_eq!(serde_json::to_string(&rate).unwrap(), "0.25");
    }

    #[test]
    fn wrong_results_are_wrong_near_and_varied() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            seen.insert(wrong_result(174, &mut rng));
        }
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            [147, 164, 173, 175, 184, 714]
        );
        for right in [-44, 0, 5, 11, 100] {
            for _ in 0..200 {
                let wrong = wrong_result(right, &mut rng);
                assert_ne!(wrong, right);
                assert!(right < 0 || wrong >= 0);
            }
        }
    }
}
