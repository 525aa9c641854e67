//! Committed bounds that a step's cost is held against.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use kernels::{Start, View, general};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::fastest_nanoseconds;
use crate::commands::say;

/// One bound: a figure over another of the same run, which a slower or faster machine leaves about as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bound {
    figure: String,
    of: String,
    at_most: f64,
}

/// A file of bounds.
pub(super) struct Bounds {
    file: PathBuf,
    bounds: Vec<Bound>,
}

impl Bounds {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let bounds = serde_json::from_str(&text).with_context(|| {
            let file = file.display();
            format!("{file}: not a list of {{\"figure\", \"of\", \"at_most\"}}")
        })?;
        Ok(Self {
            file: file.to_owned(),
            bounds,
        })
    }

    /// Says each ratio, and fails where one is over its bound.
    pub(super) fn check(&self, figures: &Map<String, Value>) -> Result<()> {
        let file = self.file.display();
        let figure = |name: &str| {
            let value = figures.get(name).and_then(Value::as_f64);
            value.ok_or_else(|| anyhow!("{file}: there is no figure '{name}'"))
        };
        let mut over = 0;
        for Bound {
            figure: name,
            of,
            at_most,
        } in &self.bounds
        {
            let ratio = figure(name)? / figure(of)?;
            let is_over = ratio > *at_most;
            over += usize::from(is_over);
            let verdict = if is_over { ": over" } else { "" };
            say(&format!(
                "{name} / {of}: {ratio:.3}, at most {at_most:.3}{verdict}"
            ));
        }
        if over > 0 {
            bail!(
                "{over} of {} ratios are over those of {file}",
                self.bounds.len()
            );
        }
        Ok(())
    }
}

/// Seconds that this machine, with all its threads, takes for 10¹² operations of a large f32 product by the gemm crate:
/// a measure of the machine that nothing in this project changes.
pub(super) fn reference_seconds() -> f64 {
    const SIDE: usize = 1024;
    const SECONDS: f64 = 1.0;
    let cells: Vec<f32> = (0..SIDE * SIDE).map(|i| (i % 89) as f32 * 0.01).collect();
    let (view, mut c) = (View::dense(&cells, SIDE), vec![0.0; SIDE * SIDE]);
    let nanoseconds =
        fastest_nanoseconds(SECONDS, || general(view, view, &mut c, SIDE, Start::Zero));
    nanoseconds * 1e3 / (2 * SIDE * SIDE * SIDE) as f64
}
