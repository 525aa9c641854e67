//! What a run came to, in a few lines that a person can read.

use std::{fmt::Write, path::Path};

use entropy::{Agreement, LawFit, LawPoint, fit_law, forecast};
use trainer::StepMetrics;

use crate::report::{EARLY_FRACTION, LEAST_POINTS, WINDOW_STEPS};

/// What of the law these points cannot tell, if so.
pub(crate) fn shape_note(fit: &LawFit) -> Option<String> {
    let is_believed = fit.doubt().is_none();
    let what = if fit.is_straight() {
        "it fits better than the law, whose shape is not there"
    } else {
        "over this range of entropy the law is not told from it"
    };
    (is_believed && !fit.shows_its_shape())
        .then(|| format!("a line in H has R² {:.3}: {what}", fit.linear_r_squared))
}

/// The steps so far.
#[derive(Debug)]
pub(crate) struct Summary {
    steps: Vec<Step>,
    validations: Vec<(u64, f64)>,
    /// Groups that a step should train on.
    wanted_groups: usize,
}

/// What the closing lines need of a step: a run may have many thousands.
#[derive(Debug)]
struct Step {
    law: Option<LawPoint>,
    accuracy: f64,
    entropy: f64,
    /// The change of entropy, expected and measured.
    changes: (f64, f64),
    seconds: f64,
    tokens: u64,
    groups_kept: u64,
    skipped_updates: u64,
}

impl Step {
    fn of(metrics: &StepMetrics) -> Self {
        Self {
            law: metrics.law_point(),
            accuracy: metrics.accuracy_mean,
            entropy: metrics.entropy_token_mean,
            changes: (metrics.entropy_change_lemma, metrics.entropy_change),
            seconds: metrics.step_seconds,
            tokens: metrics.tokens_generated,
            groups_kept: metrics.groups_kept,
            skipped_updates: metrics.skipped_updates,
        }
    }
}

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
            self.steps.push(Step::of(metrics));
        }
    }

    /// Reward, entropy, the law's forecast and speed, for the progress line.
    pub(crate) fn line(&self, metrics: &StepMetrics) -> String {
        let speed = metrics.tokens_generated as f64 / metrics.step_seconds;
        let law = self
            .forecast_line()
            .map_or(String::new(), |line| format!("  {line}"));
        format!(
            "reward {:.3}  entropy {:.3}{law}  {speed:.0} tokens/s",
            metrics.reward_mean, metrics.entropy_token_mean
        )
    }

    /// `ceiling 0.71 ± 0.02; 83 % of it reached; entropy left 0.12 nats`, or why there is none.
    fn forecast_line(&self) -> Option<String> {
        let points = self.points();
        let fit = self.law()?;
        if fit.doubt().is_some() {
            return Some("law: does not hold so far".to_owned());
        }
        let last = points.last()?;
        let half = (fit.ceiling_ci95[1] - fit.ceiling_ci95[0]) / 2.0;
        // Of a ceiling below 0, as rewards may have, there is no share.
        let reached = fit.predict(last.entropy) / fit.ceiling;
        let reached = if fit.ceiling > 0.0 && reached >= 0.0 {
            format!("{:.0} % of it reached; ", 100.0 * reached)
        } else {
            String::new()
        };
        Some(format!(
            "ceiling {:.2} ± {half:.2}; {reached}entropy left {:.3} nats",
            fit.ceiling, last.entropy
        ))
    }

    fn points(&self) -> Vec<LawPoint> {
        self.steps.iter().filter_map(|step| step.law).collect()
    }

    /// R = -a·e^H + b over all steps so far.
    fn law(&self) -> Option<LawFit> {
        let points = self.points();
        if points.len() < LEAST_POINTS {
            return None;
        }
        fit_law(&points).ok()
    }

    /// The law, its early forecast and what theory expected of the updates.
    fn theory(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(fit) = self.law() else {
            return lines;
        };
        let half = (fit.ceiling_ci95[1] - fit.ceiling_ci95[0]) / 2.0;
        lines.push(format!(
            "law R = -a·e^H + b a {:.3}, b {:.3}, ceiling {:.3} ± {half:.3}, R² {:.3}",
            fit.a, fit.b, fit.ceiling, fit.r_squared
        ));
        lines.extend(shape_note(&fit).map(|note| format!("note: {note}")));
        if let Some(doubt) = fit.doubt() {
            lines.push(format!("warning: the law does not hold here: {doubt}"));
        }
        if let Ok(forecast) = forecast(&self.points(), EARLY_FRACTION) {
            lines.push(format!(
                "early forecast     from {} steps: RMSE {:.3} over the rest, {:.3} off at the end",
                forecast.early_points, forecast.early_prediction_rmse, forecast.final_error
            ));
        }
        let pairs: Vec<(f64, f64)> = self.steps.iter().map(|step| step.changes).collect();
        if let Some(agreement) = Agreement::of(&pairs) {
            let windows = Agreement::of_windows(&pairs, WINDOW_STEPS);
            let windows = windows.map_or(String::new(), |windows| {
                let Agreement {
                    correlation, slope, ..
                } = windows;
                format!("; in windows of {WINDOW_STEPS} steps {correlation:.3}, slope {slope:.2}")
            });
            lines.push(format!(
                "change of entropy  expected and measured, step by step: correlation {:.3}, slope {:.2}{windows}",
                agreement.correlation, agreement.slope
            ));
        }
        lines
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
        let mut measured = self.steps.iter().filter(|step| step.entropy.is_finite());
        let first = measured.next();
        if let (Some(first), Some(last)) = (first, measured.next_back().or(first)) {
            add(format!(
                "sampled accuracy   {:.1} % → {:.1} %",
                100.0 * first.accuracy,
                100.0 * last.accuracy
            ));
            let kept = 100.0 * last.entropy / first.entropy;
            add(format!(
                "entropy            {:.3} → {:.3} nats ({kept:.0} % left)",
                first.entropy, last.entropy
            ));
        }
        if !self.steps.is_empty() {
            let seconds: f64 = self.steps.iter().map(|step| step.seconds).sum();
            let tokens: u64 = self.steps.iter().map(|step| step.tokens).sum();
            let rate = tokens as f64 / seconds;
            add(format!(
                "time               {seconds:.0} s, {tokens} tokens, {rate:.0} tokens/s"
            ));
        }
        self.theory().into_iter().for_each(&mut add);
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
