//! The report: what a run's files say, as charts, tables and responses, in one page or as pictures.
//!
//! [`Report::of`] reads run folders and composes [`Chart`]s and [`Table`]s, plain data that knows no format; `page` and
//! `svg` draw the same charts.

mod chart;
mod charts;
mod page;
mod rollouts;
mod run;
mod svg;
mod tables;
mod task;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub(crate) use chart::{Axis, Chart, Column, Kind, Series, Table};
use rollouts::Rollouts;
pub(crate) use run::{EARLY_FRACTION, LEAST_POINTS, Run};
pub(crate) use tables::WINDOW_STEPS;

/// Everything that a report shows.
#[derive(Debug)]
pub(crate) struct Report {
    title: String,
    /// What the reader should know before comparing.
    notes: Vec<String>,
    runs: Vec<Run>,
    charts: Vec<Chart>,
    tables: Vec<Table>,
    rollouts: Vec<Rollouts>,
}

impl Report {
    /// Reads runs: folders, or bare files of figures.
    pub(crate) fn of(paths: &[PathBuf]) -> Result<Self> {
        let runs: Vec<Run> = paths
            .iter()
            .map(|path| Run::load(path))
            .collect::<Result<_>>()?;
        let rollouts: Vec<Rollouts> = runs
            .iter()
            .enumerate()
            .map(|(index, run)| Rollouts::load(index, run, runs.len()))
            .filter_map(Result::transpose)
            .collect::<Result<_>>()?;
        let title = match &runs[..] {
            [one] => one.name.clone(),
            several => format!("{} runs", several.len()),
        };
        let mut report = Self::composed(title, runs);
        for rollouts in rollouts.iter().filter(|rollouts| rollouts.bad_lines > 0) {
            let name = &report.runs[rollouts.run].name;
            let lines = rollouts.bad_lines;
            report.notes.push(format!(
                "{name}: {lines} lines of rollouts/ cannot be read and are left out."
            ));
        }
        report.rollouts = rollouts;
        Ok(report)
    }

    /// Of a comparison's variants, each a run: with its table and chart before all others.
    pub(crate) fn compare(variants: Vec<Run>, table: Table, chart: Chart) -> Self {
        let title = format!("{} variants", variants.len());
        let mut report = Self::composed(title, variants);
        report.tables.insert(0, table);
        report.charts.insert(0, chart);
        report
    }

    fn composed(title: String, runs: Vec<Run>) -> Self {
        Self {
            title,
            notes: notes(&runs),
            charts: charts::charts(&runs),
            tables: tables::tables(&runs),
            rollouts: Vec::new(),
            runs,
        }
    }

    /// What the reader should know.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes the page, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        page::write(self, path)
    }

    /// Whether there is nothing in the files that a page could be of.
    pub(crate) fn is_empty(&self) -> bool {
        let has_figures = |run: &Run| !run.records.keys().is_empty();
        self.rollouts.is_empty() && !self.runs.iter().any(has_figures)
    }

    /// Writes each chart that shows something as a picture, and gives the files' paths.
    pub(crate) fn write_charts(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let names: Vec<&str> = self.runs.iter().map(|run| run.name.as_str()).collect();
        svg::write(&self.charts, &names, folder)
    }
}

/// Warnings about the files and the law, and about runs that are not alike.
fn notes(runs: &[Run]) -> Vec<String> {
    // What is said of several runs is said once.
    let mut told: Vec<(&str, Vec<&str>)> = Vec::new();
    for run in runs {
        for note in run.records.notes.iter().chain(&run.notes) {
            match told.iter_mut().find(|(other, _)| other == note) {
                Some((_, names)) => names.push(&run.name),
                None => told.push((note, vec![&run.name])),
            }
        }
    }
    let told = told.into_iter();
    let told = told.map(|(note, names)| format!("{}: {note}", names.join(", ")));
    told.chain(task_notes(runs)).collect()
}

/// Warnings about runs of different tasks.
pub(crate) fn task_notes(runs: &[Run]) -> Vec<String> {
    let tasks = runs
        .iter()
        .map(|run| (run.name.as_str(), run.task.as_ref()));
    task::notes(&tasks.collect::<Vec<_>>())
}
