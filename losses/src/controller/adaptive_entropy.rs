//! An entropy bonus whose coefficient follows a target.

use serde::{Deserialize, Serialize};

use crate::{LossError, error::check_range};

/// A bonus `l - c·H_t` with a coefficient c that is moved once a step:
///
/// ```text
/// H < H*: c ← min(c + δ, c_max)     else: c ← max(c - δ, 0)
/// active only while H < H*
/// ```
///
/// H is the step's `entropy_token_mean`, measured before its updates.
///
/// # References
/// Skywork-OR1, arXiv 2505.22312: δ = 1e-4, H* = 0.2, at most 0.005.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveEntropy {
    /// H*, the entropy to hold, in nats.
    pub target_nats: f64,
    /// δ, by which the coefficient moves in a step.
    pub delta: f64,
    /// The largest coefficient.
    pub max_coef: f64,
}

impl Default for AdaptiveEntropy {
    fn default() -> Self {
        Self {
            target_nats: 0.2,
            delta: 1e-4,
            max_coef: 5e-3,
        }
    }
}

impl AdaptiveEntropy {
    /// Checks every setting.
    ///
    /// # Errors
    /// A setting that is negative or not finite.
    pub fn validate(&self) -> Result<(), LossError> {
        let requirement = "it must be finite and at least 0";
        let passes = |v: f64| v.is_finite() && v >= 0.0;
        check_range(
            "entropy.adaptive.target_nats",
            self.target_nats,
            requirement,
            passes,
        )?;
        check_range("entropy.adaptive.delta", self.delta, requirement, passes)?;
        check_range(
            "entropy.adaptive.max_coef",
            self.max_coef,
            requirement,
            passes,
        )
    }

    /// The coefficient of a step, from that of the step before (0 at first) and the step's entropy.
    pub fn next_coef(&self, coef: f64, entropy_nats: f64) -> f64 {
        let moved = if entropy_nats < self.target_nats {
            coef + self.delta
        } else {
            coef - self.delta
        };
        moved.clamp(0.0, self.max_coef)
    }

    /// The factor that a step's bonus has: the coefficient while entropy is below the target.
    pub fn active_coef(&self, coef: f64, entropy_nats: f64) -> f64 {
        if entropy_nats < self.target_nats {
            coef
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coefficient_climbs_below_the_target_and_rests_above_it() {
        let control = AdaptiveEntropy {
            target_nats: 0.3,
            delta: 0.002,
            max_coef: 0.005,
        };
        let entropies = [0.2, 0.1, 0.1, 0.4, 0.4, 0.4, 0.4, 0.2];
        let mut coef = 0.0;
        let found = entropies.map(|entropy| {
            coef = control.next_coef(coef, entropy);
            (coef, control.active_coef(coef, entropy))
        });
        let expected = [
            (0.002, 0.002),
            (0.004, 0.004),
            (0.005, 0.005),
            (0.003, 0.0),
            (0.001, 0.0),
            (0.0, 0.0),
            (0.0, 0.0),
            (0.002, 0.002),
        ];
        for (f, e) in found.iter().zip(expected) {
            assert!(
                (f.0 - e.0).abs() < 1e-12 && (f.1 - e.1).abs() < 1e-12,
                "{found:?}"
            );
        }
    }
}
