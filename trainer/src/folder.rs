//! A run's folder: what it holds and how it is written.

use std::{
    borrow::Cow,
    fs::{self, File, OpenOptions, TryLockError},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Group, ResponseFigures, StepMetrics, TrainConfig, TrainerError};
use policy::OutputFolder;

/// `config.toml`, `metrics.jsonl`, `rollouts/` and `checkpoints/` of one run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
    /// Held as long as the run goes on, so that no second process writes here.
    _lock: File,
}

impl RunFolder {
    /// Creates the folder and writes the resolved configuration.
    ///
    /// # Errors
    /// The folder holds something already, or cannot be written.
    pub fn create(path: &Path, config: &TrainConfig) -> Result<Self, TrainerError> {
        let io = |source| TrainerError::Io {
            path: path.to_owned(),
            source,
        };
        OutputFolder::check_unused(path)?;
        let text = config.to_toml()?;
        fs::create_dir_all(path.join("rollouts")).map_err(io)?;
        fs::create_dir_all(path.join("checkpoints")).map_err(io)?;
        fs::write(path.join("config.toml"), text).map_err(io)?;
        Self::open(path)
    }

    /// Refuses a folder that a run could not be created in, before any work is done for it.
    ///
    /// # Errors
    /// The folder holds something already.
    pub fn check_unused(path: &Path) -> Result<(), TrainerError> {
        Ok(OutputFolder::check_unused(path)?)
    }

    /// Opens the folder of a run that goes on from `step` with `config`, which replaces the one before; lines of
    /// `metrics.jsonl` after that step are cut off.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn reopen(path: &Path, step: u64, config: &TrainConfig) -> Result<Self, TrainerError> {
        let file = path.join("metrics.jsonl");
        let io = |source| TrainerError::Io {
            path: file.clone(),
            source,
        };
        let text = fs::read_to_string(&file).map_err(io)?;
        // A run that was killed may have left half a line; any other that cannot be read is damage.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut kept = String::new();
        for (line, metrics) in whole.lines().zip(parse_lines(whole, &file)?) {
            if metrics.step <= step {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        replace(&path.join("config.toml"), &config.to_toml()?)?;
        replace(&file, &kept)?;
        Self::open(path)
    }

    /// The lines of `metrics.jsonl` so far.
    ///
    /// # Errors
    /// The file cannot be read, or has a line that is not one.
    pub fn metrics(&self) -> Result<Vec<StepMetrics>, TrainerError> {
        let path = self.path.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(|source| TrainerError::Io {
            path: path.clone(),
            source,
        })?;
        parse_lines(&text, &path)
    }

    fn open(path: &Path) -> Result<Self, TrainerError> {
        let lock = lock(path)?;
        let file = path.join("metrics.jsonl");
        let metrics = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .map_err(|source| TrainerError::Io { path: file, source })?;
        Ok(Self {
            path: path.to_owned(),
            metrics,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line to `metrics.jsonl`, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), TrainerError> {
        let file = self.path.join("metrics.jsonl");
        let line = to_line(metrics, &file)?;
        let written = self.metrics.write_all(&line);
        written.map_err(|source| TrainerError::Io { path: file, source })
    }

    /// Writes a step's groups to `rollouts/step-NNNNNN.jsonl`, a line a group that says what became of it; `figures`
    /// are of the first groups' responses, in order.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_rollouts(
        &self,
        step: u64,
        groups: &[(GroupState, &[Group])],
        figures: Vec<ResponseFigures>,
    ) -> Result<(), TrainerError> {
        let mut figures = figures.into_iter();
        let path = self
            .path
            .join("rollouts")
            .join(format!("step-{step:06}.jsonl"));
        let io = |source| TrainerError::Io {
            path: path.clone(),
            source,
        };
        let mut file = BufWriter::new(File::create(&path).map_err(io)?);
        for &(state, groups) in groups {
            for group in groups {
                let own = figures.by_ref().take(group.samples.len());
                let line = RolloutLine {
                    state,
                    group: Cow::Borrowed(group),
                    figures: own.collect(),
                };
                let line = to_line(&line, &path)?;
                file.write_all(&line).map_err(io)?;
            }
        }
        file.flush().map_err(io)
    }

    /// The folder of a step's checkpoint.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path
            .join("checkpoints")
            .join(format!("step-{step:06}"))
    }
}

/// Locks a run's folder; the lock goes with its file, however the process ends.
fn lock(path: &Path) -> Result<File, TrainerError> {
    let file = path.join(".lock");
    let lock = File::create(&file).map_err(|source| TrainerError::Io { path: file, source })?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => Err(TrainerError::InUse {
            path: path.to_owned(),
        }),
        // A file system without locks has none to hold.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(lock),
    }
}

fn parse_lines(text: &str, path: &Path) -> Result<Vec<StepMetrics>, TrainerError> {
    let line = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| TrainerError::Damaged {
            path: path.to_owned(),
            message: format!("line {}: {error}", index + 1),
        })
    };
    text.lines().enumerate().map(line).collect()
}

/// What became of a group that was sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// The step trained on it.
    Trained,
    /// It waits for the next step.
    Carried,
    /// It taught nothing.
    LeftOut,
}

/// A group as `rollouts/` keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutLine<'a> {
    /// What became of it.
    pub state: GroupState,
    /// The problem and its scored responses.
    #[serde(flatten)]
    pub group: Cow<'a, Group>,
    /// Figures of each response's tokens; none where they were not kept, or the group was not trained on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<ResponseFigures>,
}

/// Writes a file beside and renames it, so that one of the two is there whole whatever happens.
fn replace(path: &Path, text: &str) -> Result<(), TrainerError> {
    let io = |source| TrainerError::Io {
        path: path.to_owned(),
        source,
    };
    let beside = path.with_extension("tmp");
    fs::write(&beside, text).map_err(io)?;
    fs::rename(&beside, path).map_err(io)
}

fn to_line(value: &impl Serialize, path: &Path) -> Result<Vec<u8>, TrainerError> {
    let mut line = serde_json::to_vec(value).map_err(|error| TrainerError::Damaged {
        path: path.to_owned(),
        message: error.to_string(),
    })?;
    line.push(b'\n');
    Ok(line)
}
