//! What a run came to, in a few lines that a person can read.

use std::{fmt::Write, path::Path};

use entropy::{LawFit, LawPoint, fit_law};
use trainer::StepMetrics;

/// The steps so far.
#[derive(Debug)]
pub(crate) struct Summary {
    steps: Vec<StepMetrics>,
    validations: Vec<(u64, f64)>,
    /// Groups that a step should train on.
    wanted_groups: usize,
}

/// Steps before the law is fitted live: two coefficients want more than a few points.
const LEAST_POINTS: usize = 8;

impl Summary {
    pub(crate) fn new(wanted_groups: usize) -> Self {
        Self {
            steps: Vec::new(),
            validations: Vec::new(),
            wanted_groups,
        }
    }

    pub(crate) fn add(&mut self, metrics: &StepMetrics) {
        if let Some(accuracy) = metrics.validation_accuracy {
            self.validations.push((metrics.step, accuracy));
        }
        if metrics.step > 0 {
            self.steps.push(metrics.clone());
        }
    }

    /// Reward, entropy, the law and speed, for the progress line.
    pub(crate) fn line(&self, metrics: &StepMetrics) -> String {
        let speed = metrics.tokens_generated as f64 / metrics.step_seconds;
        let law = self.law().map_or(String::new(), |fit| {
            format!("  law: ceiling {:.2}, R² {:.2}", fit.ceiling, fit.r_squared)
        });
        format!(
            "reward {:.3}  entropy {:.3}{law}  {speed:.0} tokens/s",
            metrics.reward_mean, metrics.entropy_token_mean
        )
    }

    /// R = -a·e^H + b over all steps so far.
    fn law(&self) -> Option<LawFit> {
        if self.steps.len() < LEAST_POINTS {
            return None;
        }
        let point = |metrics: &StepMetrics| LawPoint {
            entropy: metrics.entropy_token_mean,
            reward: metrics.accuracy_mean,
        };
        let measured = self
            .steps
            .iter()
            .filter(|step| step.entropy_token_mean.is_finite() && step.accuracy_mean.is_finite());
        fit_law(&measured.map(point).collect::<Vec<_>>()).ok()
    }

    /// The closing lines.
    pub(crate) fn closing(&self, folder: &Path) -> String {
        let mut text = String::new();
        let mut add = |line: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{line}");
        };
        if let (Some((_, start)), Some((_, end))) =
            (self.validations.first(), self.validations.last())
        {
            add(format!(
                "held-out accuracy  {:.1} % → {:.1} %",
                100.0 * start,
                100.0 * end
            ));
        }
        // A step that kept no group measured no entropy.
        let mut measured = self
            .steps
            .iter()
            .filter(|step| step.entropy_token_mean.is_finite());
        let first = measured.next();
        if let (Some(first), Some(last)) = (first, measured.next_back().or(first)) {
            add(format!(
                "sampled accuracy   {:.1} % → {:.1} %",
                100.0 * first.accuracy_mean,
                100.0 * last.accuracy_mean
            ));
            let kept = 100.0 * last.entropy_token_mean / first.entropy_token_mean;
            add(format!(
                "entropy            {:.3} → {:.3} nats ({kept:.0} % left)",
                first.entropy_token_mean, last.entropy_token_mean
            ));
        }
        if !self.steps.is_empty() {
            let seconds: f64 = self.steps.iter().map(|step| step.step_seconds).sum();
            let tokens: u64 = self.steps.iter().map(|step| step.tokens_generated).sum();
            let rate = tokens as f64 / seconds;
            add(format!(
                "time               {seconds:.0} s, {tokens} tokens, {rate:.0} tokens/s"
            ));
        }
        if let Some(fit) = self.law() {
            add(format!(
                "law R = -a·e^H + b a {:.3}, b {:.3}, ceiling {:.3}, R² {:.3}",
                fit.a, fit.b, fit.ceiling, fit.r_squared
            ));
        }
        let wanted = self.wanted_groups as u64;
        let short = self.steps.iter().map(|step| step.groups_kept);
        let short: Vec<u64> = short.filter(|kept| *kept < wanted).collect();
        if let Some(fewest) = short.iter().min() {
            add(format!(
                "note: in {} steps, filtering left fewer than {wanted} groups to train on (at least {fewest})",
                short.len()
            ));
        }
        let skipped: u64 = self.steps.iter().map(|step| step.skipped_updates).sum();
        if skipped > 0 {
            add(format!(
                "note: {skipped} updates were skipped, their gradient not being finite"
            ));
        }
        add(format!("run folder         {}", folder.display()));
        text.trim_end().to_owned()
    }
}
