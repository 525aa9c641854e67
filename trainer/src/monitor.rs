//! Watches entropy and the law while a run goes, and says when something is wrong or nothing is left to gain.

use entropy::{LawFit, LawPoint, fit_law};
use serde::{Deserialize, Serialize};

use crate::{StepMetrics, TrainerError, config::check};

/// When a run is warned of, or ended before its last step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorSection {
    /// Entropy has collapsed below this share of the run's first; 0 never.
    pub collapse_fraction: f64,
    /// Entropy has exploded above this multiple of the run's first; 0 never.
    pub explosion_factor: f64,
    /// Whether a collapse or an explosion ends the run.
    pub stop_on_alarm: bool,
    /// The run ends when the law holds and says, at the upper end of its 95 % interval, that less than this much reward
    /// is left to gain; 0 never.
    pub stop_below_gain: f64,
    /// Steps before the law may end a run.
    pub least_steps: u64,
}

impl Default for MonitorSection {
    fn default() -> Self {
        Self {
            collapse_fraction: 0.1,
            explosion_factor: 3.0,
            stop_on_alarm: false,
            stop_below_gain: 0.0,
            least_steps: 20,
        }
    }
}

/// Entropies are averaged over so many steps before an alarm: one rollout's problems move it too.
const SMOOTHED_STEPS: usize = 3;

/// What a step's figures call for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// What the user should know.
    pub(crate) text: String,
    /// Whether the run ends.
    pub(crate) ends_run: bool,
}

impl MonitorSection {
    pub(crate) fn validate(&self) -> Result<(), TrainerError> {
        let collapse = self.collapse_fraction;
        check(
            "monitor.collapse_fraction",
            (0.0..1.0).contains(&collapse),
            "in [0, 1)",
            collapse,
        )?;
        let explosion = self.explosion_factor;
        check(
            "monitor.explosion_factor",
            explosion == 0.0 || (explosion > 1.0 && explosion.is_finite()),
            "0, or above 1",
            explosion,
        )?;
        let gain = self.stop_below_gain;
        check(
            "monitor.stop_below_gain",
            gain >= 0.0 && gain.is_finite(),
            "0 or more",
            gain,
        )
    }

    /// Judges a run by its points so far, the newest last, and by the entropy that it is held at, if it is.
    pub(crate) fn judge(&self, points: &[LawPoint], target_nats: Option<f64>) -> Option<Verdict> {
        let alarm = self.alarm(points, target_nats.unwrap_or_default());
        alarm.or_else(|| self.saturation(points))
    }

    /// A collapse or an explosion that the newest step brought.
    fn alarm(&self, points: &[LawPoint], target_nats: f64) -> Option<Verdict> {
        let first = recent(points.get(..SMOOTHED_STEPS)?)?;
        let (_, before) = points.split_last()?;
        let low = self.collapse_fraction * first;
        let high = self.explosion_factor * first.max(target_nats);
        let collapsed = |points: &[LawPoint]| recent(points).is_some_and(|h| h < low);
        let exploded = |points: &[LawPoint]| high > 0.0 && recent(points).is_some_and(|h| h > high);
        let (what, how, advice) = if collapsed(points) && !collapsed(before) {
            (
                "collapsed",
                "below",
                "a controller (loss.type=kl_cov) or entropy.budget holds it up",
            )
        } else if exploded(points) && !exploded(before) {
            (
                "exploded",
                "above",
                "weaken the controller or the bonus that raises it",
            )
        } else {
            return None;
        };
        let now = recent(points)?;
        let limit = if now < first { low } else { high };
        Some(Verdict {
            text: format!(
                "entropy has {what}: {now:.4} nats, {how} {limit:.4}, from {first:.4} at first; {advice}"
            ),
            ends_run: self.stop_on_alarm,
        })
    }

    /// Whether the law leaves too little to gain to go on.
    fn saturation(&self, points: &[LawPoint]) -> Option<Verdict> {
        if self.stop_below_gain == 0.0 || (points.len() as u64) < self.least_steps {
            return None;
        }
        let fit = fit_law(points).ok().filter(|fit| fit.doubt().is_none())?;
        let entropy = recent(points)?;
        let most = most_to_gain(&fit, entropy);
        let limit = self.stop_below_gain;
        (most < limit).then(|| Verdict {
            text: format!(
                "the law leaves at most {most:.4} reward to gain, less than monitor.stop_below_gain = {limit}: \
                 ceiling {:.3}, entropy {entropy:.4} nats",
                fit.ceiling
            ),
            ends_run: true,
        })
    }
}

/// The upper end of the 95 % interval of `R(0) - R(H) = a·(e^H - 1)`.
fn most_to_gain(fit: &LawFit, entropy_nats: f64) -> f64 {
    fit.a_ci95[1] * (entropy_nats.exp() - 1.0)
}

/// Mean entropy of the newest steps; `None` before there are enough.
fn recent(points: &[LawPoint]) -> Option<f64> {
    let start = points.len().checked_sub(SMOOTHED_STEPS)?;
    let sum: f64 = points[start..].iter().map(|point| point.entropy).sum();
    Some(sum / SMOOTHED_STEPS as f64)
}

impl StepMetrics {
    /// The step's point on the law, R the mean reward and H the token mean of entropy; `None` where either was not
    /// measured.
    pub fn law_point(&self) -> Option<LawPoint> {
        let (entropy, reward) = (self.entropy_token_mean, self.reward_mean);
        (entropy.is_finite() && reward.is_finite()).then_some(LawPoint { entropy, reward })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(entropies: &[f64]) -> Vec<LawPoint> {
        let point = |&entropy: &f64| LawPoint {
            entropy,
            reward: 0.9 - 0.3 * entropy.exp(),
        };
        entropies.iter().map(point).collect()
    }

    #[test]
    fn a_collapse_is_told_of_once() {
        let monitor = MonitorSection::default();
        let points = run(&[1.0, 1.0, 1.0, 0.09, 0.08, 0.08, 0.07]);
        let told: Vec<bool> = (1..=points.len())
            .map(|n| monitor.judge(&points[..n], None).is_some())
            .collect();
        // The mean of three falls below 0.1 at the sixth.
        assert_eq!(told, [false, false, false, false, false, true, false]);
        let verdict = monitor.judge(&points[..6], None).unwrap();
        assert!(verdict.text.contains("collapsed") && !verdict.ends_run);
    }

    #[test]
    fn an_explosion_may_end_the_run() {
        let monitor = MonitorSection {
            stop_on_alarm: true,
            ..MonitorSection::default()
        };
        let verdict = monitor
            .judge(&run(&[0.5, 0.5, 0.5, 1.7, 1.7, 1.7]), None)
            .unwrap();
        assert!(verdict.text.contains("exploded") && verdict.ends_run);
        let off = MonitorSection {
            explosion_factor: 0.0,
            ..monitor
        };
        let held = MonitorSection::default();
        assert_eq!(
            held.judge(&run(&[0.5, 0.5, 0.5, 1.7, 1.7, 1.7]), Some(1.7)),
            None
        );
        assert_eq!(off.judge(&run(&[0.5, 0.5, 0.5, 1.7, 1.7, 1.7]), None), None);
    }

    #[test]
    fn a_run_ends_when_the_law_leaves_nothing_to_gain() {
        let falling: Vec<f64> = (0..30).map(|step| 0.9_f64.powi(step)).collect();
        let monitor = |stop_below_gain| MonitorSection {
            stop_below_gain,
            collapse_fraction: 0.0,
            ..MonitorSection::default()
        };
        // a = 0.3, and e^H - 1 is 0.052 by the mean of the last three: 0.0157 are left.
        assert_eq!(monitor(0.01).judge(&run(&falling), None), None);
        assert!(monitor(0.02).judge(&run(&falling), None).unwrap().ends_run);
        assert_eq!(monitor(0.02).judge(&run(&falling[..10]), None), None);
        assert_eq!(monitor(0.0).judge(&run(&falling), None), None);
    }

    #[test]
    fn a_law_that_does_not_hold_ends_nothing() {
        let mut points = run(&(0..30).map(|step| 0.9_f64.powi(step)).collect::<Vec<_>>());
        for point in &mut points {
            point.reward = -point.reward;
        }
        let monitor = MonitorSection {
            stop_below_gain: 10.0,
            ..MonitorSection::default()
        };
        assert!(
            monitor
                .judge(&points, None)
                .is_none_or(|verdict| !verdict.ends_run)
        );
    }
}
