//! A run as its files tell it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use entropy::{Forecast, LawFit, LawPoint, fit_law, forecast};
use policy::Tokenizer;
use toml::{Table, Value};
use trainer::{bundled_tokenizer, list_checkpoints};

use super::task::Task;
use crate::records::{ENTROPY_KEYS, REWARD_KEYS, Records, Row, check_two_columns, step_of};

/// The share of a run that its early forecast is made from, as in the paper.
pub(crate) const EARLY_FRACTION: f64 = 0.15;

/// Steps before the law is fitted: two coefficients want more than a few points.
pub(crate) const LEAST_POINTS: usize = 8;

/// A run's figures and settings.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: String,
    /// The folder, where it is one and not a bare file.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) records: Records,
    /// The columns that another framework's log has for entropy and for reward; ours have our names.
    pub(crate) foreign: [Option<String>; 2],
    /// For people: why there is no law, or what is to be doubted of it.
    pub(crate) notes: Vec<String>,
    /// What it trained on; unknown of a bare file.
    pub(crate) task: Option<Task>,
    /// Every setting by its dotted key.
    pub(crate) settings: Vec<(String, String)>,
    /// The points of the law with their steps.
    pub(crate) points: Vec<(f64, LawPoint)>,
    pub(crate) law: Option<LawFit>,
    pub(crate) forecast: Option<Forecast>,
}

impl Run {
    /// Reads a run folder, or a bare file of figures.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let folder = path.is_dir().then(|| path.to_owned());
        let file = match &folder {
            Some(folder) => folder.join("metrics.jsonl"),
            None => path.to_owned(),
        };
        if folder.is_some() && !file.exists() {
            bail!("{}: no run folder: it has no metrics.jsonl", path.display());
        }
        let mut records = Records::load(&file)?;
        let settings = folder
            .as_ref()
            .map(|folder| settings(&folder.join("config.toml")));
        let settings = settings.transpose().unwrap_or_else(|error| {
            records.notes.push(format!("{error:#}"));
            None
        });
        let settings = settings.unwrap_or_default();
        let name = path.display().to_string();
        Ok(Self {
            folder,
            task: Task::of(&settings),
            settings: flat(&settings),
            ..Self::of_records(name.trim_end_matches('/'), records)
        })
    }

    fn of_records(name: &str, records: Records) -> Self {
        let mut run = Self {
            name: name.to_owned(),
            folder: None,
            records,
            foreign: [None, None],
            notes: Vec::new(),
            task: None,
            settings: Vec::new(),
            points: Vec::new(),
            law: None,
            forecast: None,
        };
        run.find_figures();
        run.fit();
        run
    }

    /// Finds entropy and reward by whatever name a log has for them, and gives them ours.
    fn find_figures(&mut self) {
        let keys = [
            self.records.entropy_key(None),
            self.records.reward_key(None),
        ];
        if let [Ok(entropy), Ok(reward)] = &keys {
            if let Err(error) = check_two_columns(entropy, reward) {
                self.notes.push(format!("No law is fitted: {error}."));
                return;
            }
            self.join(entropy, reward);
        }
        let own = [ENTROPY_KEYS[0], REWARD_KEYS[0]];
        for (place, (key, own)) in keys.into_iter().zip(own).enumerate() {
            match key {
                Ok(key) => {
                    self.records.alias(&key, own);
                    self.foreign[place] = Some(key).filter(|key| key != own);
                }
                Err(error) => self.notes.push(format!("No law is fitted: {error}.")),
            }
        }
    }

    /// Takes the rows that have both figures for points, and says which have not.
    fn join(&mut self, entropy: &str, reward: &str) {
        let records = std::mem::take(&mut self.records);
        self.records = records.joined_for(entropy, reward);
        self.points = self.records.law_points(entropy, reward);
        let note = match self.points.len() {
            0 => Some(format!(
                "No law is fitted: {}",
                self.records.nothing_joined(entropy, reward)
            )),
            points => self.records.left_out(points),
        };
        self.notes.extend(note.map(|note| format!("{note}.")));
    }

    /// Fits the law where there are points enough, and says why not, or why not to believe it.
    fn fit(&mut self) {
        let count = self.points.len();
        if count < LEAST_POINTS {
            if count > 0 {
                let have = if count == 1 { "step has" } else { "steps have" };
                self.notes.push(format!(
                    "No law is fitted: {count} {have} entropy and reward, and it takes {LEAST_POINTS}."
                ));
            }
            return;
        }
        let points: Vec<LawPoint> = self.points.iter().map(|(_, point)| *point).collect();
        match fit_law(&points) {
            Ok(law) => {
                let doubt = law.doubt();
                let note = doubt.map(|doubt| format!("The law does not hold: {doubt}."));
                self.notes.extend(note);
                self.law = Some(law);
            }
            Err(error) => self.notes.push(format!("No law is fitted: {error}.")),
        }
        self.forecast = forecast(&points, EARLY_FRACTION).ok();
    }

    /// Runs of different seeds as one: the means of their figures, step by step, where all of them have the figure.
    pub(crate) fn mean_of(name: &str, runs: Vec<Self>) -> Self {
        let mut steps: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
        for row in runs.iter().flat_map(|run| &run.records.rows) {
            if let Some(step) = step_of(row) {
                steps.entry(step as u64).or_default().push(row);
            }
        }
        let whole = steps.into_values().filter(|rows| rows.len() == runs.len());
        let records = Records::of(whole.map(|rows| mean_row(&rows)).collect());
        let run = Self::of_records(name, records);
        let first = runs.into_iter().next();
        Self {
            task: first.as_ref().and_then(|first| first.task.clone()),
            settings: first.map_or_else(Vec::new, |first| first.settings),
            ..run
        }
    }

    /// A figure's values with their steps; rows without a step count on.
    pub(crate) fn series(&self, key: &str) -> Vec<(f64, Option<f64>)> {
        let values = self.records.column(key);
        let steps = self.steps();
        steps.into_iter().zip(values).collect()
    }

    /// A figure's values where it was measured.
    pub(crate) fn measured(&self, key: &str) -> Vec<f64> {
        self.records.column(key).into_iter().flatten().collect()
    }

    /// Whether any row has a figure under this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.records.has(key)
    }

    fn steps(&self) -> Vec<f64> {
        let rows = self.records.rows.iter().enumerate();
        rows.map(|(index, row)| step_of(row).unwrap_or(index as f64))
            .collect()
    }

    /// The newest checkpoint's tokenizer, or the bundled base's where the run started from it.
    pub(crate) fn tokenizer(&self) -> Option<Tokenizer> {
        let folder = self.folder.as_ref()?;
        let checkpoints = list_checkpoints(folder).unwrap_or_default();
        let places = checkpoints.iter().rev();
        let own = places.map(|(_, path)| Tokenizer::load(path).ok());
        let is_base = |(key, value): &(String, String)| key == "model.path" && value.is_empty();
        let base = self.settings.iter().any(is_base);
        own.flatten()
            .next()
            .or_else(|| base.then(|| bundled_tokenizer().ok()).flatten())
    }
}

fn mean_row(rows: &[&Row]) -> Row {
    let Some((first, others)) = rows.split_first() else {
        return Row::new();
    };
    let mean = |(key, figure): (&String, &f64)| {
        let figures: Option<Vec<f64>> = others.iter().map(|row| row.get(key).copied()).collect();
        let sum: f64 = figure + figures?.iter().sum::<f64>();
        Some((key.clone(), sum / rows.len() as f64))
    };
    first.iter().filter_map(mean).collect()
}

fn settings(path: &Path) -> Result<Table> {
    if !path.exists() {
        return Ok(Table::new());
    }
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.parse().with_context(|| path.display().to_string())
}

/// Settings by dotted key.
pub(super) fn flat(table: &Table) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                let inner = flat(inner).into_iter();
                found.extend(inner.map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            Value::String(text) => found.push((key.clone(), text.clone())),
            value => found.push((key.clone(), value.to_string())),
        }
    }
    found
}
