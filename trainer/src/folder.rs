//! A run's folder: what it holds and how it is written.

use std::{
    borrow::Cow,
    fs::{self, File, OpenOptions, TryLockError},
    io::{BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Group, ResponseFigures, SkippedBatch, StepMetrics, TrainConfig, TrainerError,
    checkpoint::{put_aside_after, tidy},
    durable::{
        create_folder, io_at, remove_if_there, replace, sync_file, sync_folder, sync_open_file,
    },
    failpoint::{failpoint, failpoint_half_done},
};

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const ROLLOUTS: &str = "rollouts";

/// The lock's file in a run's folder.
const LOCK: &str = ".lock";

/// The right to write to a run's folder, which one process has at a time. It goes with the process, however that ends.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    _file: File,
}

impl RunLock {
    /// Locks a run's folder, and clears away what a process that was killed left half done in it.
    ///
    /// # Errors
    /// Another process holds it, or the folder cannot be written.
    pub fn take(run: &Path) -> Result<Self, TrainerError> {
        let path = run.join(LOCK);
        let mut options = OpenOptions::new();
        // Not truncated: it names the process that holds the lock.
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(io_at(&path))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(in_use(run));
        }
        // A file system without locks has none to hold.
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(io_at(&path))?;
        failpoint("lock-taken");
        tidy(run)?;
        let path = run.to_owned();
        Ok(Self { path, _file: file })
    }
}

/// Whether a process is at work in a folder.
fn is_locked(run: &Path) -> bool {
    let held = File::open(run.join(LOCK)).map(|file| file.try_lock());
    matches!(held, Ok(Err(TryLockError::WouldBlock)))
}

fn in_use(run: &Path) -> TrainerError {
    let text = fs::read_to_string(run.join(LOCK)).unwrap_or_default();
    TrainerError::InUse {
        path: run.to_owned(),
        process: text.trim().parse().ok(),
    }
}

/// `config.toml`, `metrics.jsonl`, `rollouts/` and `checkpoints/` of one run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
    /// Steps whose rollouts were written since the last [`Self::sync`].
    unsynced: Vec<u64>,
    /// Held as long as the run goes on, so that no second process writes here.
    _lock: RunLock,
}

impl RunFolder {
    /// Creates the folder and writes the resolved configuration.
    ///
    /// # Errors
    /// The folder holds something already, or cannot be written.
    pub fn create(path: &Path, config: &TrainConfig) -> Result<Self, TrainerError> {
        Self::check_unused(path)?;
        let text = config.to_toml()?;
        create_folder(path)?;
        let lock = RunLock::take(path)?;
        // Another process may have been here between.
        Self::check_unused(path)?;
        replace(&path.join(CONFIG), text.as_bytes())?;
        Self::open(lock)
    }

    /// Refuses a folder that a run could not be created in, before any work is done for it.
    ///
    /// # Errors
    /// The folder holds something already.
    pub fn check_unused(path: &Path) -> Result<(), TrainerError> {
        if is_locked(path) && !is_mine(path) {
            return Err(in_use(path));
        }
        let holds_more = match fs::read_dir(path) {
            Ok(entries) => entries.flatten().any(|entry| {
                // A process that was killed at once leaves no more than these.
                let name = entry.file_name();
                name != LOCK && name != Path::new(CONFIG).with_extension("tmp").as_os_str()
            }),
            Err(_) => path.exists(),
        };
        if holds_more {
            let path = path.to_owned();
            return Err(policy::PolicyError::OutputInUse { path }.into());
        }
        Ok(())
    }

    /// Opens the folder of a run that goes on from `step` with `config`, which replaces the one before; what was written
    /// after that step is removed.
    ///
    /// # Errors
    /// The folder is in use, or cannot be read or written.
    pub fn reopen(path: &Path, step: u64, config: &TrainConfig) -> Result<Self, TrainerError> {
        Self::go_on(RunLock::take(path)?, step, config)
    }

    /// The same with a lock that is held already.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn go_on(lock: RunLock, step: u64, config: &TrainConfig) -> Result<Self, TrainerError> {
        let path = &lock.path;
        let file = path.join(METRICS);
        let kept = match fs::read(&file) {
            // A run that was killed before its first step.
            Err(error) if error.kind() == ErrorKind::NotFound && step == 0 => Vec::new(),
            text => lines_up_to(step, &text.map_err(io_at(&file))?, &file)?,
        };
        put_aside_after(path, step)?;
        remove_rollouts_after(step, &path.join(ROLLOUTS))?;
        replace(&path.join(CONFIG), config.to_toml()?.as_bytes())?;
        replace(&file, &kept)?;
        Self::open(lock)
    }

    /// The lines of `metrics.jsonl` so far.
    ///
    /// # Errors
    /// The file cannot be read, or has a line that is not one.
    pub fn metrics(&self) -> Result<Vec<StepMetrics>, TrainerError> {
        let path = self.path.join(METRICS);
        let text = fs::read_to_string(&path).map_err(io_at(&path))?;
        parse_lines(&text, &path)
    }

    fn open(lock: RunLock) -> Result<Self, TrainerError> {
        let path = lock.path.clone();
        for folder in [ROLLOUTS, "checkpoints"] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder).map_err(io_at(&folder))?;
        }
        failpoint("folders-made");
        let file = path.join(METRICS);
        let metrics = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .map_err(io_at(&file))?;
        Ok(Self {
            path,
            metrics,
            unsynced: Vec::new(),
            _lock: lock,
        })
    }

    /// Waits until all that was written is on the disk: a checkpoint must not outlast the lines before it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn sync(&mut self) -> Result<(), TrainerError> {
        sync_open_file(&self.metrics, &self.path.join(METRICS))?;
        failpoint("metrics-synced");
        for step in std::mem::take(&mut self.unsynced) {
            sync_file(&self.rollouts(step))?;
        }
        sync_folder(&self.path.join(ROLLOUTS))?;
        sync_folder(&self.path)?;
        failpoint("run-synced");
        Ok(())
    }

    /// Keeps the batch of an update that was not made, and says where.
    pub(crate) fn keep_batch(&self, batch: &SkippedBatch) -> Result<PathBuf, TrainerError> {
        let path = self
            .path
            .join(format!("skipped-step-{:06}.json", batch.step));
        fs::write(&path, batch.to_json().to_string()).map_err(io_at(&path))?;
        Ok(path)
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
        let file = self.path.join(METRICS);
        let line = to_line(metrics, &file)?;
        failpoint_half_done("metrics-half", || {
            drop(self.metrics.write_all(&line[..line.len() / 2]));
        });
        // Not buffered: the line is the system's once this returns.
        let written = self.metrics.write_all(&line);
        written.map_err(io_at(&file))?;
        failpoint("metrics-written");
        Ok(())
    }

    /// Writes a step's groups to `rollouts/step-NNNNNN.jsonl`, a line a group that says what became of it; `figures`
    /// are of the first groups' responses, in order.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_rollouts(
        &mut self,
        step: u64,
        groups: &[(GroupState, &[Group])],
        figures: Vec<ResponseFigures>,
    ) -> Result<(), TrainerError> {
        let mut figures = figures.into_iter();
        let path = self.rollouts(step);
        let io = |source| TrainerError::Io {
            path: path.clone(),
            source,
        };
        let mut file = BufWriter::new(File::create(&path).map_err(io)?);
        failpoint("rollouts-opened");
        for &(state, groups) in groups {
            for group in groups {
                let own = figures.by_ref().take(group.samples.len());
                let line = RolloutLine {
                    state,
                    group: Cow::Borrowed(group),
                    figures: own.collect(),
                };
                let line = to_line(&line, &path)?;
                failpoint_half_done("rollouts-half", || {
                    drop(file.write_all(&line[..line.len() / 2]));
                    drop(file.flush());
                });
                file.write_all(&line).map_err(io)?;
            }
        }
        file.flush().map_err(io)?;
        failpoint("rollouts-written");
        self.unsynced.push(step);
        Ok(())
    }

    fn rollouts(&self, step: u64) -> PathBuf {
        let name = format!("step-{step:06}.jsonl");
        self.path.join(ROLLOUTS).join(name)
    }

    /// The folder of a step's checkpoint.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path
            .join("checkpoints")
            .join(format!("step-{step:06}"))
    }
}

/// Whether this process holds the folder's lock.
fn is_mine(run: &Path) -> bool {
    matches!(in_use(run), TrainerError::InUse { process, .. } if process == Some(std::process::id()))
}

/// The lines of `metrics.jsonl` of steps up to one; none for step 0, whose line a run writes first.
fn lines_up_to(step: u64, text: &[u8], path: &Path) -> Result<Vec<u8>, TrainerError> {
    let mut kept = Vec::new();
    let mut last = None;
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        match serde_json::from_slice::<StepMetrics>(line) {
            _ if step == 0 || last == Some(step) => break,
            Ok(metrics) if metrics.step > step => break,
            Ok(metrics) if line.ends_with(b"\n") => {
                kept.extend_from_slice(line);
                last = Some(metrics.step);
            }
            // The lines up to a checkpoint were on the disk before it was.
            Ok(_) => return Err(unreadable(path, index, &"it has no end")),
            Err(error) => return Err(unreadable(path, index, &error)),
        }
    }
    Ok(kept)
}

fn unreadable(path: &Path, index: usize, error: &dyn std::fmt::Display) -> TrainerError {
    TrainerError::Damaged {
        path: path.to_owned(),
        message: format!("line {}: {error}", index + 1),
    }
}

/// Removes the files of steps that will be sampled again.
fn remove_rollouts_after(step: u64, folder: &Path) -> Result<(), TrainerError> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let of = name.strip_prefix("step-").and_then(|n| n.parse().ok());
        if of.is_some_and(|of: u64| of > step) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn parse_lines(text: &str, path: &Path) -> Result<Vec<StepMetrics>, TrainerError> {
    let line = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| unreadable(path, index, &error))
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

fn to_line(value: &impl Serialize, path: &Path) -> Result<Vec<u8>, TrainerError> {
    let mut line = serde_json::to_vec(value).map_err(|error| TrainerError::Damaged {
        path: path.to_owned(),
        message: error.to_string(),
    })?;
    line.push(b'\n');
    Ok(line)
}
