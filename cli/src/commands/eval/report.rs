//! An evaluation's figures, for scripts and for people.

use serde_json::{Map, Value, json};
use trainer::{Figure, Group, accuracies, majority, pass_at};

use super::sets::ProblemSet;

/// The contract's keys for one set: each figure with its 95 % interval.
pub(super) fn report(
    set: &ProblemSet,
    groups: &[Group],
    greedy: Option<&[Group]>,
    seed: u64,
) -> Value {
    let figure = |values: &[f64]| json!(Figure::of(values, seed));
    let powers = (0..)
        .map(|n| 1_usize << n)
        .take_while(|&k| k <= set.samples);
    let pass: Map<String, Value> = powers
        .map(|k| (k.to_string(), figure(&pass_at(groups, k))))
        .collect();
    let majority_at = json!({ set.samples.to_string(): figure(&majority(groups)) });
    let mean = figure(&accuracies(groups));
    let greedy = greedy.map_or(mean.clone(), |greedy| figure(&accuracies(greedy)));
    json!({
        "data": set.name,
        "problems": groups.len(),
        "samples": set.samples,
        "temperature": set.temperature,
        "mean": mean,
        "pass_at": pass,
        "majority_at": majority_at,
        "greedy": greedy,
        "truncated_fraction": share(groups, |sample| sample.rollout.finish.is_truncated()),
        "undecided_fraction": share(groups, |sample| sample.score.undecided),
        "missing_rewards": count(groups, |sample| sample.score.reward.is_none()),
    })
}

/// The mean over sets, each counting alike, as the paper averages; its interval from the sets' own.
pub(super) fn overall(reports: &[Value]) -> Value {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let count = reports.len() as f64;
    let mean = reports
        .iter()
        .map(|report| number(&report["mean"]["value"]))
        .sum::<f64>()
        / count;
    let half_width = |report: &Value| {
        let interval = &report["mean"]["interval"];
        (number(&interval[1]) - number(&interval[0])) / 2.0
    };
    // Independent sets: their variances add.
    let squares: f64 = reports
        .iter()
        .map(|report| half_width(report).powi(2))
        .sum();
    let half = squares.sqrt() / count;
    json!({"sets": reports.len(), "mean": {"value": mean, "interval": [mean - half, mean + half]}})
}

fn count(groups: &[Group], is: impl Fn(&trainer::Scored) -> bool) -> usize {
    let samples = groups.iter().flat_map(|group| &group.samples);
    samples.filter(|sample| is(sample)).count()
}

fn share(groups: &[Group], is: impl Fn(&trainer::Scored) -> bool) -> f64 {
    let total: usize = groups.iter().map(|group| group.samples.len()).sum();
    count(groups, is) as f64 / total as f64
}

/// One set for people.
pub(super) fn table(report: &Value) -> String {
    let mut lines = vec![format!(
        "{}: {} problems × {} answers at temperature {}",
        report["data"].as_str().unwrap_or_default(),
        report["problems"],
        report["samples"],
        report["temperature"]
    )];
    lines.push(line("mean", &report["mean"]));
    lines.push(line("greedy", &report["greedy"]));
    for (name, figures) in [
        ("pass", &report["pass_at"]),
        ("majority", &report["majority_at"]),
    ] {
        for (k, figure) in figures.as_object().into_iter().flatten() {
            lines.push(line(&format!("{name}@{k}"), figure));
        }
    }
    let truncated = report["truncated_fraction"].as_f64().unwrap_or(0.0);
    if truncated > 0.0 {
        lines.push(format!("{:<14} {:5.1} %", "cut off", 100.0 * truncated));
    }
    let undecided = report["undecided_fraction"].as_f64().unwrap_or(0.0);
    if undecided > 0.0 {
        lines.push(format!("{:<14} {:5.1} %", "undecided", 100.0 * undecided));
    }
    lines.join("\n")
}

/// All sets for people: a line each, and their mean.
pub(super) fn overview(reports: &[Value], overall: &Value) -> String {
    let lines = reports
        .iter()
        .map(|report| line(report["data"].as_str().unwrap_or_default(), &report["mean"]));
    let last = line("all, alike", &overall["mean"]);
    lines.chain([last]).collect::<Vec<_>>().join("\n")
}

fn line(name: &str, figure: &Value) -> String {
    let percent = |value: &Value| 100.0 * value.as_f64().unwrap_or(f64::NAN);
    let interval = &figure["interval"];
    let (low, high) = (percent(&interval[0]), percent(&interval[1]));
    format!(
        "{name:<14} {:5.1} %  (95 %: {low:.1} to {high:.1})",
        percent(&figure["value"])
    )
}
