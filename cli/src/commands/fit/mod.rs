//! `anneal fit`: the law R = -a·e^H + b on the figures of any run.

mod points;

use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use entropy::{EntropyError, Forecast, LawFit, fit_law, fit_scaling, forecast};
use serde::Serialize;
use serde_json::json;

use super::{print_json, say};
use crate::{advice::Advised, args::FitArgs, device, summary::shape_note};
use points::{Keys, points};

/// What is printed of one run. Keys that do not apply are left out.
#[derive(Serialize)]
struct Fitted {
    #[serde(flatten)]
    forecast: Option<Forecast>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<LawFit>,
    points: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<String>,
}

pub(crate) fn run(args: &FitArgs) -> Result<()> {
    device::check(&args.device.device)?;
    if !args.reward_input.is_empty() && args.reward_input.len() != args.input.len() {
        bail!(
            "--reward-input is given {} times, --input {}: each run has one of both",
            args.reward_input.len(),
            args.input.len()
        );
    }
    let mut fits = Vec::new();
    let mut printed = Vec::new();
    for (index, input) in args.input.iter().enumerate() {
        let keys = Keys {
            entropy: args.entropy_key.as_deref(),
            reward: args.reward_key.as_deref(),
        };
        let reward_input = args
            .reward_input
            .get(index)
            .map(std::path::PathBuf::as_path);
        let place = || input.display().to_string();
        let points = points(input, reward_input, keys)?;
        let fitted = fit(&points, args.first).with_context(place)?;
        let law = fitted.forecast.map(|forecast| forecast.all).or(fitted.all);
        tell(&fitted, law.as_ref());
        fits.extend(law);
        printed.push(fitted);
    }
    if args.parameters.is_empty() {
        return match &printed[..] {
            [one] => print_json(one),
            several => print_json(&json!({"runs": several})),
        };
    }
    if args.parameters.len() != fits.len() {
        bail!(
            "--parameters is given {} times, --input {}: each run has a size",
            args.parameters.len(),
            fits.len()
        );
    }
    let sized: Vec<(f64, LawFit)> = args.parameters.iter().copied().zip(fits).collect();
    let scaling = fit_scaling(&sized).context("--parameters")?;
    print_json(&json!({"runs": printed, "scaling": scaling}))
}

fn fit(points: &[entropy::LawPoint], first: Option<f64>) -> Result<Fitted> {
    let (forecast, all) = match first {
        Some(first) => {
            let forecast = forecast(points, first);
            let forecast = forecast.map_err(|error| too_short(error, first, points.len()))?;
            (Some(forecast), None)
        }
        None => (None, Some(fit_law(points)?)),
    };
    let law = forecast.map(|forecast| forecast.all).or(all);
    let doubt = law.and_then(|law| law.doubt());
    Ok(Fitted {
        forecast,
        all,
        points: points.len(),
        doubt: doubt.map(|doubt| doubt.to_string()),
    })
}

/// Says which points are too few: those of the run's first part, where the whole has enough.
fn too_short(error: EntropyError, first: f64, total: usize) -> anyhow::Error {
    let EntropyError::TooFewPoints { found, needed } = error else {
        return error.into();
    };
    // In whole hundredths, as a person would give it.
    let enough = (100.0 * needed as f64 / total as f64).ceil() / 100.0;
    if found >= total || enough >= 1.0 {
        return error.into();
    }
    let percent = (first * 1e8).round() / 1e6;
    Advised::new(
        format!("--first {first}: the first {percent} % of {total} points is {found}; at least {needed} are needed"),
        format!("--first {enough} takes {needed} or more"),
    )
    .into()
}

/// Doubts always; the fit in words where a person looks on.
fn tell(fitted: &Fitted, law: Option<&LawFit>) {
    if let Some(doubt) = &fitted.doubt {
        say(&format!("warning: the law does not hold here: {doubt}"));
    }
    if let Some(law) = law
        && let Some(note) = shape_note(law)
    {
        say(&format!("note: {note}"));
    }
    let Some(law) = law.filter(|_| std::io::stderr().is_terminal()) else {
        return;
    };
    let [low, high] = law.ceiling_ci95;
    say(&format!(
        "R = -{:.4}·e^H + {:.4} over {} points: R² {:.3}, RMSE {:.4}, ceiling {:.4} ({low:.4} to {high:.4})",
        law.a, law.b, fitted.points, law.r_squared, law.rmse, law.ceiling
    ));
    if let Some(forecast) = fitted.forecast {
        say(&format!(
            "from the first {} points: RMSE {:.4} over the rest, {:.4} at the last; {:.0} % lie in its 95 % interval",
            forecast.early_points,
            forecast.early_prediction_rmse,
            forecast.final_error,
            100.0 * forecast.early_coverage
        ));
    }
}
