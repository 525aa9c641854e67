//! The entropy bonus.

use serde::{Deserialize, Serialize};

use crate::{LossError, error::check_range};

/// `l - c·H_t`, with H the exact entropy of the softmax at temperature 1 and its gradient.
///
/// # References
/// A3C, arXiv 1602.01783. arXiv 2505.22617, Section 4, finds it sensitive: too small
/// has no effect, too large blows entropy up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntropyBonus {
    /// c, the factor of the bonus.
    pub coef: f64,
}

impl Default for EntropyBonus {
    fn default() -> Self {
        Self { coef: 1e-3 }
    }
}

impl EntropyBonus {
    /// Checks every setting.
    ///
    /// # Errors
    /// A coefficient that is not finite. A negative one is a penalty.
    pub fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must be finite";
        check_range("entropy.bonus.coef", self.coef, requirement, f64::is_finite)
    }
}
