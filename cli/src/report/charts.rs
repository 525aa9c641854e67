//! Which charts there are, and what each shows.

use super::{
    chart::{Axis, Chart, Kind, Series, Style},
    run::Run,
};

/// The headings, in their order on the page.
const LEARNING: &str = "Learning";
const LAW: &str = "The law";
const MECHANISM: &str = "The mechanism";
const UPDATES: &str = "Updates";
const COST: &str = "Responses and cost";

/// Places at which a formula is drawn.
const CURVE_POINTS: usize = 80;

/// The charts that these runs have figures for.
pub(super) fn charts(runs: &[Run]) -> Vec<Chart> {
    let mut charts = vec![
        reward(runs),
        entropy(runs),
        law(runs),
        forecast(runs),
        covariance(runs),
        covariance_by_difficulty(runs),
        change(runs),
        change_agreement(runs),
        theorems(runs),
        difficulty(runs),
        selected(runs),
        divergence(runs),
        lines(
            runs,
            &Spec::new(
                "gradient",
                "Gradient norm",
                UPDATES,
                "norm",
                &[("grad_norm", "gradient norm")],
            )
            .caption("Mean over the step's updates, before the norm is clipped."),
        ),
        lengths(runs),
        times(runs),
    ];
    if runs.iter().any(|run| run.has("entropy_strength")) {
        charts.insert(2, strength(runs));
    }
    charts.retain(|chart| !chart.is_empty());
    charts
}

/// A chart of some keys by step.
struct Spec<'a> {
    id: &'static str,
    title: &'static str,
    group: &'static str,
    y: Axis,
    keys: &'a [(&'a str, &'a str)],
    caption: &'a str,
}

impl<'a> Spec<'a> {
    fn new(
        id: &'static str,
        title: &'static str,
        group: &'static str,
        label: &'static str,
        keys: &'a [(&'a str, &'a str)],
    ) -> Self {
        let y = Axis {
            label,
            ..Axis::default()
        };
        Self {
            id,
            title,
            group,
            y,
            keys,
            caption: "",
        }
    }

    fn caption(self, caption: &'a str) -> Self {
        Self { caption, ..self }
    }

    fn percent(mut self) -> Self {
        self.y.percent = true;
        self
    }

    fn log(mut self) -> Self {
        self.y.log = true;
        self
    }
}

/// One line for each key that a run has; the first key's solid, the others' dashed, as runs share a colour.
fn lines(runs: &[Run], spec: &Spec<'_>) -> Chart {
    let mut series = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let keys = spec.keys.iter().filter(|(key, _)| run.has(key));
        for (place, (key, name)) in keys.enumerate() {
            let style = if place == 0 || runs.len() == 1 {
                Style::Solid
            } else {
                Style::Dashed
            };
            let line = Series::new(*name, index, Kind::Line, &run.series(key));
            let joined = *key == "validation_accuracy";
            series.push(line.style(style).joined(joined));
        }
    }
    Chart {
        id: spec.id,
        title: spec.title,
        caption: spec.caption.to_owned(),
        group: spec.group,
        x: step_axis(),
        y: spec.y.clone(),
        series,
    }
}

fn step_axis() -> Axis {
    Axis {
        label: "step",
        whole: true,
        ..Axis::default()
    }
}

/// A caption, and which columns of other frameworks' logs stand for this figure (0 entropy, 1 reward).
fn with_columns(caption: &str, runs: &[Run], figure: usize) -> String {
    let of_run = |run: &Run| {
        let column = run.foreign[figure].as_ref()?;
        Some(match runs {
            [_] => format!("'{column}', as the log has it."),
            _ => format!(" {}: '{column}', as its log has it.", run.name),
        })
    };
    let foreign: Vec<String> = runs.iter().filter_map(of_run).collect();
    let own = if foreign.len() < runs.len() {
        caption
    } else {
        ""
    };
    let whole = [&[own.to_owned()], &foreign[..]].concat().concat();
    whole.trim().to_owned()
}

fn reward(runs: &[Run]) -> Chart {
    let keys = [
        ("reward_mean", "reward"),
        ("validation_accuracy", "held-out accuracy"),
        ("accuracy_mean", "accuracy"),
    ];
    // Where the reward is 1 for a right answer and 0 for any other, accuracy is the same line twice.
    let is_same = |run: &Run| {
        !run.has("accuracy_mean") || run.series("reward_mean") == run.series("accuracy_mean")
    };
    let shown = if runs.iter().all(is_same) { 2 } else { 3 };
    let spec = Spec::new("reward", "Reward and accuracy", LEARNING, "reward, accuracy", &keys[..shown])
        .caption("Reward and accuracy of sampled responses before the step's updates; held-out accuracy after them.");
    Chart {
        caption: with_columns(spec.caption, runs, 1),
        ..lines(runs, &spec)
    }
}

fn entropy(runs: &[Run]) -> Chart {
    // Whose mean another framework's figure is, its log does not say.
    let is_foreign = runs.iter().any(|run| run.foreign[0].is_some());
    let name = if is_foreign { "entropy" } else { "token mean" };
    let keys = [
        ("entropy_token_mean", name),
        ("entropy_target", "target"),
        ("entropy_response_mean", "response mean"),
        ("entropy_sampled", "sampled"),
        ("entropy_rollout_temperature", "at the rollout temperature"),
    ];
    // At temperature 1 the last is the first again.
    let is_same =
        |run: &Run| run.series("entropy_rollout_temperature") == run.series("entropy_token_mean");
    let shown = match runs {
        [one] => keys.len() - usize::from(is_same(one)),
        _ => 2,
    };
    let spec = Spec::new("entropy", "Policy entropy", LEARNING, "nats", &keys[..shown])
        .caption("Exact entropy of the kept groups' tokens before the step's updates, in the conventions in use.");
    Chart {
        caption: with_columns(spec.caption, runs, 0),
        ..lines(runs, &spec)
    }
}

fn strength(runs: &[Run]) -> Chart {
    let keys = [("entropy_strength", "strength")];
    let spec = Spec::new(
        "strength",
        "Strength of the entropy budget",
        LEARNING,
        "factor",
        &keys,
    )
    .log()
    .caption("What the budget multiplies its lever by to hold the target.");
    lines(runs, &spec)
}

/// Reward against entropy, with the fitted law.
fn law(runs: &[Run]) -> Chart {
    let mut series = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let points: Vec<(f64, Option<f64>)> = run
            .points
            .iter()
            .map(|(_, p)| (p.entropy, Some(p.reward)))
            .collect();
        let largest = run
            .points
            .iter()
            .map(|(_, p)| p.entropy)
            .fold(0.0, f64::max);
        let places: Vec<f64> = (0..=CURVE_POINTS)
            .map(|i| largest * i as f64 / CURVE_POINTS as f64)
            .collect();
        if let Some(fit) = run.law {
            let band: Vec<(f64, [f64; 2])> =
                places.iter().map(|&h| (h, fit.line_ci95(h))).collect();
            series.push(Series::band("95 % interval", index, &band));
            let curve: Vec<(f64, Option<f64>)> =
                places.iter().map(|&h| (h, Some(fit.predict(h)))).collect();
            series.push(Series::new("the law", index, Kind::Curve, &curve));
        }
        if let Some(forecast) = run.forecast {
            let name = format!("fitted to the first {} steps", forecast.early_points);
            let curve: Vec<(f64, Option<f64>)> = places
                .iter()
                .map(|&h| (h, Some(forecast.early.predict(h))))
                .collect();
            series.push(Series::new(name, index, Kind::Curve, &curve).style(Style::Dashed));
        }
        series.push(Series::new("a step", index, Kind::Points, &points));
    }
    Chart {
        id: "law",
        title: "R = -a·e^H + b",
        caption: law_caption(runs),
        group: LAW,
        x: Axis {
            label: "entropy H, nats",
            ..Axis::default()
        },
        y: Axis {
            label: "reward R",
            ..Axis::default()
        },
        series,
    }
}

fn law_caption(runs: &[Run]) -> String {
    let points = "Each step's reward against its entropy.";
    if runs.iter().all(|run| run.law.is_none()) {
        return points.to_owned();
    }
    format!("{points} Where the curve meets zero entropy is the ceiling, -a + b.")
}

/// Reward by step beside what the run's first part forecasts from entropy.
fn forecast(runs: &[Run]) -> Chart {
    let mut series = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        if let Some(forecast) = run.forecast {
            let unseen = &run.points[forecast.early_points..];
            let band: Vec<(f64, [f64; 2])> = unseen
                .iter()
                .map(|(step, p)| (*step, forecast.early.prediction_ci95(p.entropy)))
                .collect();
            series.push(Series::band("95 % of the forecast", index, &band));
            let curve: Vec<(f64, Option<f64>)> = run
                .points
                .iter()
                .map(|(step, p)| (*step, Some(forecast.early.predict(p.entropy))))
                .collect();
            series.push(Series::new("forecast", index, Kind::Curve, &curve).style(Style::Dashed));
        }
        if let Some(fit) = run.law {
            let curve: Vec<(f64, Option<f64>)> = run
                .points
                .iter()
                .map(|(step, p)| (*step, Some(fit.predict(p.entropy))))
                .collect();
            series.push(
                Series::new("the law, all steps", index, Kind::Curve, &curve).style(Style::Faint),
            );
        }
        let rewards: Vec<(f64, Option<f64>)> = run
            .points
            .iter()
            .map(|(step, p)| (*step, Some(p.reward)))
            .collect();
        series.push(Series::new("reward", index, Kind::Line, &rewards));
    }
    let (title, caption) = forecast_words(runs);
    Chart {
        id: "forecast",
        title,
        caption: caption.to_owned(),
        group: LAW,
        x: step_axis(),
        y: Axis {
            label: "reward",
            ..Axis::default()
        },
        series,
    }
}

/// The chart's title and caption: a short run has no early fit.
fn forecast_words(runs: &[Run]) -> (&'static str, &'static str) {
    if runs.iter().any(|run| run.forecast.is_some()) {
        return (
            "The early forecast",
            if runs.iter().all(|run| run.forecast.is_some()) {
                "Reward as the law, fitted to the first 15 % of the steps, expects it of each later step's entropy."
            } else {
                "Reward as the law, fitted to the first 15 % of the steps, expects it of each later step's entropy. \
                 A run of fewer than 20 steps has no early fit."
            },
        );
    }
    (
        "Reward, step by step",
        "Reward, and what the law expects of each step's entropy where it is fitted. \
         The first 15 % of these steps are too few for an early forecast, which takes 20 steps.",
    )
}

fn covariance(runs: &[Run]) -> Chart {
    let ranks = [
        ("covariance_quantiles.top_0_02_percent", "top 0.02 %"),
        ("covariance_quantiles.top_0_2_percent", "top 0.2 %"),
        ("covariance_quantiles.top_2_percent", "top 2 %"),
        ("covariance_quantiles.top_20_percent", "top 20 %"),
        ("covariance_quantiles.top_50_percent", "top 50 %"),
        ("covariance_quantiles.all", "all tokens"),
    ];
    let several = [ranks[1], ranks[5]];
    let keys = if runs.len() == 1 {
        &ranks[..]
    } else {
        &several[..]
    };
    let spec = Spec::new(
        "covariance",
        "Covariance by rank",
        MECHANISM,
        "nats × advantage",
        keys,
    )
    .log()
    .caption(
        "Mean covariance of log-probability and advantage over the tokens with the largest ones.",
    );
    lines(runs, &spec)
}

fn covariance_by_difficulty(runs: &[Run]) -> Chart {
    let parts = [
        ("covariance_mean", "all problems"),
        ("by_difficulty.hard.covariance_mean", "hard"),
        ("by_difficulty.medium.covariance_mean", "medium"),
        ("by_difficulty.easy.covariance_mean", "easy"),
    ];
    let keys = if runs.len() == 1 {
        &parts[..]
    } else {
        &parts[..1]
    };
    let spec = Spec::new(
        "covariance-difficulty",
        "Mean covariance",
        MECHANISM,
        "nats × advantage",
        keys,
    )
    .caption(
        "By how many of a problem's responses are right: hard under a third, easy over two thirds.",
    );
    lines(runs, &spec)
}

fn change(runs: &[Run]) -> Chart {
    let keys = [
        ("entropy_change", "measured"),
        ("entropy_change_lemma", "expected to first order"),
    ];
    let spec = Spec::new("change", "Change of entropy in a step", MECHANISM, "nats", &keys)
        .caption("Measured on the tokens' own distributions within the step, and as the moved log-probabilities of the sampled tokens imply.");
    lines(runs, &spec)
}

fn change_agreement(runs: &[Run]) -> Chart {
    let mut series = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let points = pairs(run, "entropy_change_lemma");
        series.push(Series::new("a step", index, Kind::Points, &points));
    }
    let all = runs
        .iter()
        .flat_map(|run| pairs(run, "entropy_change_lemma"));
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (x, y)| {
        let y = y.unwrap_or(x);
        (low.min(x).min(y), high.max(x).max(y))
    });
    if low < high {
        let line = [(low, Some(low)), (high, Some(high))];
        series.push(Series::new("equal", 0, Kind::Curve, &line).style(Style::Faint));
    }
    Chart {
        id: "change-agreement",
        title: "Expected against measured change",
        caption:
            "Each step once: what first-order theory expects of its updates, and what they did."
                .into(),
        group: MECHANISM,
        x: Axis {
            label: "expected ΔH, nats",
            ..Axis::default()
        },
        y: Axis {
            label: "measured ΔH, nats",
            ..Axis::default()
        },
        series,
    }
}

/// A prediction with what was measured, where both were.
pub(super) fn pairs(run: &Run, key: &str) -> Vec<(f64, Option<f64>)> {
    let predicted = run.records.column(key).into_iter();
    let measured = run.records.column("entropy_change");
    predicted
        .zip(measured)
        .filter_map(|(predicted, measured)| Some((predicted?, Some(measured?))))
        .collect()
}

/// The theorems' terms, which know the course of entropy and not its size, scaled to the measured change.
fn theorems(runs: &[Run]) -> Chart {
    let keys = [
        (
            "entropy_change_theorem_1",
            "theorem 1, scaled",
            Style::Solid,
        ),
        (
            "entropy_change_theorem_2",
            "theorem 2, scaled",
            Style::Dashed,
        ),
    ];
    let mut series = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let measured = run.series("entropy_change");
        if runs.len() == 1 {
            series.push(Series::new("measured", index, Kind::Line, &measured).style(Style::Faint));
        }
        for (key, name, style) in keys {
            let factor = factor(&pairs(run, key));
            let scaled: Vec<(f64, Option<f64>)> = run
                .series(key)
                .into_iter()
                .map(|(step, value)| (step, value.map(|value| factor * value)))
                .collect();
            series.push(Series::new(name, index, Kind::Line, &scaled).style(style));
        }
    }
    Chart {
        id: "theorems",
        title: "Theorems 1 and 2",
        caption: "The covariances of the policy gradient (1) and the natural one (2), each times the one factor that gives it the measured size over the run: \
                  the theorems are of tabular policies, and the size of a network's steps is its optimizer's.".into(),
        group: MECHANISM,
        x: step_axis(),
        y: Axis { label: "ΔH, nats", ..Axis::default() },
        series,
    }
}

/// The factor that gives predictions the size of what was measured, and leaves them their sign.
fn factor(pairs: &[(f64, Option<f64>)]) -> f64 {
    let measured: f64 = pairs.iter().map(|(_, y)| y.unwrap_or(0.0).powi(2)).sum();
    let predicted: f64 = pairs.iter().map(|(x, _)| x * x).sum();
    if predicted > 0.0 {
        (measured / predicted).sqrt()
    } else {
        1.0
    }
}

fn difficulty(runs: &[Run]) -> Chart {
    let keys = [
        ("by_difficulty.hard.entropy_token_mean", "hard"),
        ("by_difficulty.medium.entropy_token_mean", "medium"),
        ("by_difficulty.easy.entropy_token_mean", "easy"),
    ];
    let spec = Spec::new(
        "difficulty",
        "Entropy by difficulty",
        MECHANISM,
        "nats",
        &keys,
    )
    .caption("Token mean over the problems of each kind.");
    lines(runs, &spec)
}

fn selected(runs: &[Run]) -> Chart {
    let keys = [
        ("selected_fraction", "selected by the controller"),
        ("clip_fraction", "clipped by PPO"),
        ("held_fraction", "held by ratio clipping"),
    ];
    let spec = Spec::new(
        "selected",
        "Tokens held back",
        UPDATES,
        "share of tokens",
        &keys,
    )
    .percent()
    .caption("Of all updates' tokens.");
    lines(runs, &spec)
}

fn divergence(runs: &[Run]) -> Chart {
    let keys = [
        ("approx_kl", "from the sampling policy"),
        ("reference_kl", "from the reference"),
        ("sampler_log_prob_gap", "sampler against trainer"),
    ];
    let spec = Spec::new("divergence", "Divergence", UPDATES, "nats", &keys)
        .caption("How far a step's updates move the policy, and how far sampling and training differ numerically.");
    lines(runs, &spec)
}

fn lengths(runs: &[Run]) -> Chart {
    let keys = [("response_length_mean", "mean length")];
    let spec = Spec::new("length", "Response length", COST, "tokens", &keys)
        .caption("Mean over all sampled responses, the end token counted.");
    lines(runs, &spec)
}

fn times(runs: &[Run]) -> Chart {
    let keys = [
        ("step_seconds", "whole step"),
        ("generate_seconds", "sampling"),
        ("update_seconds", "update"),
    ];
    let spec = Spec::new("time", "Time of a step", COST, "seconds", &keys)
        .caption("Wall-clock time; validation and checkpoints are not in it.");
    lines(runs, &spec)
}
