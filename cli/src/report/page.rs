//! The page: a template, its style and scripts, and the data, in one file that needs no network.

use std::{fmt::Write, fs, path::Path, process};

use anyhow::{Context, Result, bail};
use entropy::LawFit;
use serde_json::{Value, json};

use super::{Report, run::Run, tables::PREDICTORS, tables::agreement};

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = concat!(
    include_str!("page/uPlot.min.css"),
    "\n",
    include_str!("page/style.css")
);
/// uPlot 1.6.32, MIT: page/LICENSE.
const LIBRARY: &str = concat!(
    "/*! uPlot ",
    include_str!("page/LICENSE"),
    "*/\n",
    include_str!("page/uPlot.iife.min.js")
);
const SCRIPT: &str = concat!(
    include_str!("page/charts.js"),
    "\n",
    include_str!("page/rollouts.js"),
    "\n",
    include_str!("page/page.js")
);

/// Writes the page beside and renames it.
pub(super) fn write(report: &Report, path: &Path) -> Result<()> {
    let place = || path.display().to_string();
    if path.exists() && !path.is_file() {
        bail!("{}: is no file that a page could replace", path.display());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.tmp", process::id()));
    let text = page(report)?;
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // Nothing half-written stays; the first error is the one to tell of.
        let _ = fs::remove_file(&beside);
    }
    written.with_context(place)
}

fn page(report: &Report) -> Result<String> {
    let values = [
        ("{{TITLE}}", escaped(&report.title)),
        ("{{STYLE}}", STYLE.to_owned()),
        ("{{DATA}}", data(report)?),
        ("{{LIBRARY}}", LIBRARY.to_owned()),
        ("{{SCRIPT}}", SCRIPT.to_owned()),
    ];
    let mut page = String::new();
    let mut rest = TEMPLATE;
    // In the template's own order, so that nothing within the data is taken for a placeholder.
    while let Some((start, (name, value))) = values
        .iter()
        .filter_map(|value| Some((rest.find(value.0)?, value)))
        .min_by_key(|(start, _)| *start)
    {
        page.push_str(&rest[..start]);
        page.push_str(value);
        rest = &rest[start + name.len()..];
    }
    page.push_str(rest);
    Ok(page)
}

/// The script elements that hold the data.
fn data(report: &Report) -> Result<String> {
    let runs: Vec<Value> = report.runs.iter().map(run).collect();
    let rollouts = report.rollouts.iter().map(|rollouts| {
        json!({"run": rollouts.run, "responses": rollouts.responses, "with_tokens": rollouts.with_tokens})
    });
    let data = json!({
        "title": report.title,
        "version": env!("CARGO_PKG_VERSION"),
        "notes": report.notes,
        "runs": runs,
        "charts": report.charts,
        "tables": report.tables,
        "rollouts": rollouts.collect::<Vec<_>>(),
    });
    let mut text = element("application/json", "report-data", &in_script(&data)?);
    for rollouts in &report.rollouts {
        let mut add = |name: &str, packed: &str| {
            let id = format!("rollouts-{}-{name}", rollouts.run);
            text.push_str(&element("text/plain", &id, packed));
        };
        add("index", &rollouts.index);
        add("vocabulary", &rollouts.vocabulary);
        for (number, chunk) in rollouts.chunks.iter().enumerate() {
            add(&format!("chunk-{number}"), chunk);
        }
    }
    Ok(text)
}

fn element(kind: &str, id: &str, text: &str) -> String {
    let mut element = String::with_capacity(text.len() + 64);
    // Writing to a string does not fail.
    let _ = writeln!(
        element,
        "<script type=\"{kind}\" id=\"{id}\">{text}</script>"
    );
    element
}

/// JSON in which nothing ends the script element: a prompt may hold `</script>`.
fn in_script(value: &Value) -> Result<String> {
    let text = serde_json::to_string(value)?;
    Ok(text
        .replace('<', "\\u003c")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn run(run: &Run) -> Value {
    json!({"name": run.name, "summary": summary(run), "settings": run.settings})
}

/// What a run came to, in pairs of a label and a figure.
fn summary(run: &Run) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    // A figure's parts stay in one line.
    let mut add = |label: &str, text: String| {
        lines.push((label.to_owned(), text.replace(' ', "\u{a0}")));
    };
    let change = |key: &str, show: &dyn Fn(f64) -> String| {
        let figures = run.measured(key);
        let (first, last) = (figures.first()?, figures.last()?);
        Some(format!("{} → {}", show(*first), show(*last)))
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let three = |figure: f64| format!("{figure:.3}");
    if let Some(task) = &run.task {
        // Its name: the rest stands among the settings.
        add("task", task.label());
    }
    if let Some(last) = run.points.last() {
        add("steps", format!("{:.0}", last.0));
    }
    if let Some(text) = change("validation_accuracy", &percent) {
        add("held-out accuracy", text);
    }
    if let Some(text) = change("accuracy_mean", &percent) {
        add("sampled accuracy", text);
    } else if let Some(text) = change("reward_mean", &three) {
        add("reward", text);
    }
    if let Some(text) = change("entropy_token_mean", &three) {
        add("entropy, nats", text);
    }
    if let Some(fit) = run.law {
        add("the law's R²", format!("{:.3}", fit.r_squared));
        // Why a law does not hold stands among the notes; its ceiling is then none to read.
        match fit.doubt() {
            None => add("the law's ceiling", ceiling(&fit)),
            Some(_) => add("the law", "does not hold".to_owned()),
        }
    }
    if let Some(forecast) = run.forecast {
        add(
            "early forecast, RMSE",
            format!("{:.4}", forecast.early_prediction_rmse),
        );
    }
    if let Some(agreement) = agreement(run, PREDICTORS[0].1) {
        add(
            "expected and measured ΔH, correlation",
            format!("{:.3}", agreement.correlation),
        );
    }
    let seconds: f64 = run.measured("step_seconds").iter().sum();
    if seconds > 0.0 {
        add("time of the steps", format!("{seconds:.0} s"));
    }
    lines
}

/// The ceiling with its half interval.
fn ceiling(fit: &LawFit) -> String {
    let half = (fit.ceiling_ci95[1] - fit.ceiling_ci95[0]) / 2.0;
    format!("{:.3} ± {half:.3}", fit.ceiling)
}
