//! An entropy budget: a controller that is steered to hold a target.

use serde::{Deserialize, Serialize};

use crate::{LossError, error::check_range};

/// What a budget steers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetLever {
    /// An entropy bonus of its own, `bonus_coef` times the strength.
    #[default]
    Bonus,
    /// KL-Cov's coefficient, times the strength.
    KlCoef,
    /// The share of tokens that Clip-Cov or KL-Cov selects, times the strength; 1 at most.
    Fraction,
}

/// Holds the step's entropy at a target by the strength s of a controller.
///
/// ```text
/// e = (H* - H) / H*, in -1..1        how much entropy is missing
/// log I ← log I + integral_gain·e    unchanged while e < -1/4 and H falls
/// log s = log I + proportional_gain·e
/// ```
///
/// both in ±log `max_strength`. A run starts far above its target and falls to it: what that adds up to says nothing
/// about the strength that holds the target, so the lasting part rests while entropy falls from far above.
///
/// H is the step's `entropy_token_mean`, before its updates; H* the target of the step, which may move linearly from
/// `target_nats` to `final_target_nats` over `over_steps`.
///
/// KL-Cov and Clip-Cov slow the fall of entropy; a bonus raises it too. A target above what those two hold is reached
/// with the bonus alone.
///
/// Steering in the logarithm keeps the strength positive, and one pair of gains fits coefficients of any size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntropyBudget {
    /// H* of the first step, in nats.
    pub target_nats: f64,
    /// H* after `over_steps` steps; unset, the target stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_target_nats: Option<f64>,
    /// Steps over which the target moves; set together with `final_target_nats`, or 0.
    pub over_steps: u64,
    /// What is steered.
    pub lever: BudgetLever,
    /// The bonus's factor at strength 1.
    pub bonus_coef: f64,
    /// How fast the strength follows a lasting error.
    pub integral_gain: f64,
    /// How much it answers to the error of the moment.
    pub proportional_gain: f64,
    /// The largest strength; its inverse is the least.
    pub max_strength: f64,
}

/// Entropy that exceeds its target by this share of it is near.
const NEAR: f64 = 0.25;

impl Default for EntropyBudget {
    fn default() -> Self {
        Self {
            target_nats: 0.2,
            final_target_nats: None,
            over_steps: 0,
            lever: BudgetLever::Bonus,
            bonus_coef: 0.01,
            integral_gain: 0.5,
            proportional_gain: 3.0,
            max_strength: 8.0,
        }
    }
}

impl EntropyBudget {
    /// Checks every setting.
    ///
    /// # Errors
    /// A setting out of its range, or one half of a schedule.
    pub fn validate(&self) -> Result<(), LossError> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let at_least_0 = |v: f64| v.is_finite() && v >= 0.0;
        let above = "it must be finite and above 0";
        let key = |name| format!("entropy.budget.{name}");
        check_range(key("target_nats"), self.target_nats, above, positive)?;
        let last = self.final_target_nats.unwrap_or(self.target_nats);
        check_range(key("final_target_nats"), last, above, positive)?;
        self.check_schedule()?;
        check_range(key("bonus_coef"), self.bonus_coef, above, positive)?;
        let gain = "it must be finite and at least 0";
        check_range(key("integral_gain"), self.integral_gain, gain, at_least_0)?;
        check_range(
            key("proportional_gain"),
            self.proportional_gain,
            gain,
            at_least_0,
        )?;
        check_range(
            key("max_strength"),
            self.max_strength,
            "it must lie in 1..=1e6",
            |v| (1.0..=1e6).contains(&v),
        )
    }

    /// A moving target has an end and steps to it.
    fn check_schedule(&self) -> Result<(), LossError> {
        let moves = self.final_target_nats.is_some();
        let requirement = if moves {
            "the target moves to entropy.budget.final_target_nats over this many steps: it must be at least 1"
        } else {
            "the target does not move without entropy.budget.final_target_nats: set that too, or leave this at 0"
        };
        let steps = self.over_steps as f64;
        check_range("entropy.budget.over_steps", steps, requirement, |steps| {
            moves == (steps > 0.0)
        })
    }

    /// H* of a step, counted from 1.
    pub fn target(&self, step: u64) -> f64 {
        let last = self.final_target_nats.unwrap_or(self.target_nats);
        let moved = step.saturating_sub(1) as f64 / self.over_steps.max(1) as f64;
        self.target_nats + moved.min(1.0) * (last - self.target_nats)
    }

    /// log I after a step's measurement, from that of the step before (0 at first), and the step's strength s;
    /// `recent_nats` is the mean entropy of some steps before, by which a fall is told.
    pub fn steer(
        &self,
        log_integral: f64,
        entropy_nats: f64,
        recent_nats: Option<f64>,
        step: u64,
    ) -> (f64, f64) {
        let target = self.target(step);
        let missing = ((target - entropy_nats) / target).clamp(-1.0, 1.0);
        let limit = self.max_strength.ln();
        let falls = recent_nats.is_none_or(|recent| entropy_nats < recent);
        let lasting = if missing < -NEAR && falls {
            0.0
        } else {
            missing
        };
        let log_integral = (log_integral + self.integral_gain * lasting).clamp(-limit, limit);
        let log_strength = log_integral + self.proportional_gain * missing;
        (log_integral, log_strength.clamp(-limit, limit).exp())
    }

    /// Whether the strength is the largest that there is, and entropy is missing all the same.
    pub fn is_exhausted(&self, strength: f64, entropy_nats: f64, step: u64) -> bool {
        let is_largest = strength >= self.max_strength * (1.0 - f64::EPSILON);
        is_largest && entropy_nats < (1.0 - NEAR / 2.0) * self.target(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> EntropyBudget {
        EntropyBudget {
            target_nats: 0.5,
            ..EntropyBudget::default()
        }
    }

    #[test]
    fn the_target_moves_linearly_and_then_stays() {
        let moving = EntropyBudget {
            final_target_nats: Some(0.1),
            over_steps: 4,
            ..budget()
        };
        for (step, target) in [(1, 0.5), (3, 0.3), (5, 0.1), (50, 0.1)] {
            assert!((moving.target(step) - target).abs() < 1e-12, "{step}");
        }
        assert!((budget().target(7) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn half_a_schedule_is_refused() {
        let schedule = |final_target_nats, over_steps| EntropyBudget {
            final_target_nats,
            over_steps,
            ..budget()
        };
        for half in [schedule(Some(0.1), 0), schedule(None, 10)] {
            let error = half.validate().unwrap_err().to_string();
            assert!(
                error.contains("over_steps") && error.contains("final_target_nats"),
                "{error}"
            );
        }
        schedule(Some(0.1), 10).validate().unwrap();
        schedule(None, 0).validate().unwrap();
    }

    #[test]
    fn strength_worked_by_hand() {
        // A quarter of the entropy is missing: log I = 0.5·0.25, log s = 0.125 + 3·0.25.
        let (log_integral, strength) = budget().steer(0.0, 0.375, None, 1);
        assert!((log_integral - 0.125).abs() < 1e-12);
        assert!((strength - 0.875_f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn the_strength_stays_within_its_limit() {
        let (mut log_integral, mut strength) = (0.0, 0.0);
        for _ in 0..1000 {
            (log_integral, strength) = budget().steer(log_integral, 1e-6, Some(1e-6), 1);
        }
        assert!((log_integral - 8.0_f64.ln()).abs() < 1e-9 && (strength - 8.0).abs() < 1e-9);
        assert!(budget().is_exhausted(strength, 1e-6, 1));
        assert!(!budget().is_exhausted(strength, 0.49, 1) && !budget().is_exhausted(7.0, 0.1, 1));
        for _ in 0..1000 {
            (log_integral, strength) = budget().steer(log_integral, 2.0, Some(2.0), 1);
        }
        assert!((log_integral + 8.0_f64.ln()).abs() < 1e-9 && (strength - 0.125).abs() < 1e-9);
    }

    #[test]
    fn a_fall_from_far_above_leaves_no_trace_in_the_lasting_part() {
        let (log_integral, strength) = budget().steer(0.0, 0.9, Some(1.0), 1);
        assert!(log_integral.abs() < f64::EPSILON && strength < 0.2);
        let (log_integral, _) = budget().steer(0.0, 0.9, Some(0.9), 1);
        assert!(log_integral < -0.05, "what does not fall is brought down");
        let (log_integral, _) = budget().steer(0.0, 0.6, Some(1.0), 1);
        assert!(log_integral < -0.05);
    }

    /// Made-up policies: entropy falls by a tenth a step and rises with the strength, by more or less.
    #[test]
    fn entropy_is_brought_to_the_target_and_held_whatever_the_lever_weighs_and_the_start() {
        for rise in [0.01, 0.02, 0.05, 0.1, 0.2] {
            for start in [0.05, 0.3, 0.5, 1.5] {
                let mut entropies = vec![start];
                let mut log_integral = 0.0;
                for step in 1..=400 {
                    let entropy = entropies[entropies.len() - 1];
                    let recent = &entropies[entropies.len().saturating_sub(6)..entropies.len() - 1];
                    let recent = (!recent.is_empty())
                        .then(|| recent.iter().sum::<f64>() / recent.len() as f64);
                    let (next, strength) = budget().steer(log_integral, entropy, recent, step);
                    log_integral = next;
                    entropies.push(0.9 * entropy + rise * strength);
                }
                let last = &entropies[350..];
                let is_held = last.iter().all(|h| (h - 0.5).abs() < 0.02);
                assert!(is_held, "rise {rise}, start {start}: {:?}", &last[45..]);
            }
        }
    }
}
