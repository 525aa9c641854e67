//! Checkpoints: a Hugging Face folder with the optimizer and the run's state beside it.
//!
//! A checkpoint is written beside its place, each file is brought to the disk, a manifest of sizes and hashes follows, and
//! then the folder gets its name: what bears a checkpoint's name is whole, or its manifest says what is not.

mod folder;
mod manifest;
#[cfg(test)]
mod power_loss;

use std::{fs, io, path::Path};

use burn::tensor::DType;
use policy::{PolicyError, SaveDtype};
use toml::{Table, Value};

pub use folder::{list_checkpoints, newest_checkpoint};
pub(crate) use folder::{prune, put_aside_after, tidy};
pub(crate) use manifest::sha256_of_file;

use crate::{
    CheckpointSection, RunState, Schedule, TrainConfig, Trainer, TrainerError,
    durable::{beside, io_at, remove_if_there},
    failpoint::{failpoint, failpoint_half_done},
    load_policy,
    memory::adapter_parameters,
    optimizer::{is_finite, load_optimizer, save_optimizer},
};
use folder::{UNFINISHED, checkpoint_step, commit};
use manifest::{Manifest, sha256};

const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "trainer_state.json";
const CONFIG: &str = "run_config.toml";

impl Trainer {
    /// Writes a checkpoint, whole or not at all: what stood at its place before is there until the new one is.
    ///
    /// # Errors
    /// The folder cannot be written, or a weight is not finite.
    pub fn save_checkpoint(&self, path: &Path) -> Result<(), TrainerError> {
        let critic = self.critic.as_ref();
        if !is_finite(&self.policy.model) || critic.is_some_and(|critic| !is_finite(&critic.model))
        {
            let step = self.state.step;
            return Err(TrainerError::NonFiniteWeights { step });
        }
        let new = beside(path, UNFINISHED);
        failpoint("checkpoint-begun");
        remove_if_there(&new)?;
        let saved = self
            .write_checkpoint(&new)
            .and_then(|()| commit(&new, path));
        if saved.is_err() {
            // A full disk needs the room, and the first error is the one to tell of.
            let _ = fs::remove_dir_all(&new);
        }
        saved.map_err(|error| self.name_room(error))
    }

    /// Says how much room a checkpoint takes, where there was too little.
    fn name_room(&self, error: TrainerError) -> TrainerError {
        let lacks_room = |source: &io::Error| {
            use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
            matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
        };
        match error {
            TrainerError::Io { path, source }
            | TrainerError::Policy(PolicyError::Io { path, source })
                if lacks_room(&source) =>
            {
                TrainerError::NoRoom {
                    path,
                    needed_bytes: self.checkpoint_bytes(),
                    source,
                }
            }
            error => error,
        }
    }

    /// The most that a checkpoint takes while it is written: weights, and an optimizer's two moments twice, as they are
    /// brought into order. The rest is small.
    pub(crate) fn checkpoint_bytes(&self) -> u64 {
        const CELL: u64 = 4;
        let parameters = self.policy.config.parameters();
        let model = &self.policy.model;
        let weights = CELL * (parameters + adapter_parameters(model));
        let moments = 2 * CELL * model.trained_parameters();
        // A critic has a trunk of the policy's size at most, and its moments are ordered after the policy's.
        let critic = self.critic.as_ref().map_or(0, |_| CELL * parameters);
        weights + moments + 3 * critic + moments.max(2 * critic)
    }

    fn write_checkpoint(&self, folder: &Path) -> Result<(), TrainerError> {
        fs::create_dir_all(folder).map_err(io_at(folder))?;
        failpoint("checkpoint-opened");
        self.policy.save(folder, SaveDtype::F32)?;
        self.save_adapters(folder)?;
        failpoint_half_done("weights-half", || halve(&folder.join("model.safetensors")));
        failpoint("weights-written");
        save_optimizer(&self.optimizer, &folder.join(OPTIMIZER))?;
        failpoint_half_done("optimizer-half", || halve(&folder.join(OPTIMIZER)));
        failpoint("optimizer-written");
        if let Some(critic) = &self.critic {
            critic.save(folder)?;
        }
        let file = folder.join(STATE);
        let state = serde_json::to_vec(&self.state).map_err(|error| TrainerError::Damaged {
            path: file.clone(),
            message: error.to_string(),
        })?;
        fs::write(&file, state).map_err(io_at(&file))?;
        failpoint("state-written");
        let (file, config) = (folder.join(CONFIG), self.config.to_toml()?);
        fs::write(&file, &config).map_err(io_at(&file))?;
        failpoint("settings-written");
        Manifest::seal(folder, self.state.step, sha256(config.as_bytes()))
    }

    /// Takes the optimizer, the critic and the run's state from a checkpoint whose policy this trainer was built with
    /// ([`resume_policy`](crate::resume_policy)), adapters too, and the reference policy from where the run
    /// started.
    ///
    /// # Errors
    /// A file that is missing or damaged, problems that are not those of the run so far, or adapters for another model.
    pub fn load_state(&mut self, path: &Path) -> Result<(), TrainerError> {
        Manifest::verify(path)?;
        let state = read_state(path)?;
        if state.own_stages != self.state.own_stages {
            let of = |stages: &[String]| match stages {
                [] => "none".to_owned(),
                stages => stages.join(", "),
            };
            let message = format!(
                "{}: the run has stages of its own ({}), which are to be given by Trainer::compose again; here are {}",
                path.display(),
                of(&state.own_stages),
                of(&self.state.own_stages)
            );
            return Err(TrainerError::Config { message });
        }
        self.load_adapters(path, state.start_fingerprint.as_deref())?;
        self.state = state;
        self.check_state(path)?;
        self.state.check_data(&self.config)?;
        self.optimizer = load_optimizer(&self.optimizer, &path.join(OPTIMIZER))?;
        if let Some(critic) = &mut self.critic {
            critic.load(path)?;
        }
        // A run of adapters was built with the model that it started from.
        if self.reference.is_some() && self.config.lora.is_none() {
            let device = self.policy.model.device().inner();
            let start = load_policy(&self.config.model.path, DType::F32, &device)?;
            if let Some(expected) = &self.state.start_fingerprint
                && *expected != start.model.fingerprint()
            {
                return Err(TrainerError::OtherStart {
                    checkpoint: path.to_owned(),
                    model: self.config.model.path.clone(),
                });
            }
            let execution = self.policy.model.execution();
            let reference = start.model.with_execution(execution);
            self.reference = Some(reference.cast(self.dtype));
        }
        Ok(())
    }
}

/// Leaves half of a file, as a process that ends while it writes it does.
fn halve(path: &Path) {
    let file = fs::File::options().write(true).open(path);
    let halved = file.and_then(|file| file.set_len(file.metadata()?.len() / 2));
    // The process ends here, and the test sees what is left.
    drop(halved);
}

/// Settings that differ from those that a checkpoint's run had and that make another run of it, each as
/// `key: before → now`.
///
/// # Errors
/// The checkpoint's configuration cannot be read.
pub fn changed_settings(
    checkpoint: &Path,
    config: &TrainConfig,
) -> Result<Vec<String>, TrainerError> {
    let file = checkpoint.join(CONFIG);
    let text = fs::read_to_string(&file).map_err(io_at(&file))?;
    let table = |text: &str| {
        text.parse::<Table>()
            .map_err(|error| TrainerError::Damaged {
                path: file.clone(),
                message: error.to_string(),
            })
    };
    let (before, now) = (flat(&table(&text)?), flat(&table(&config.to_toml()?)?));
    let mut keys: Vec<&String> = before.iter().chain(&now).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let of = |table: &[(String, String)], key: &str| {
        let found = table.iter().find(|(known, _)| known == key);
        found.map_or("unset".to_owned(), |(_, value)| value.clone())
    };
    let changed = keys
        .into_iter()
        .filter(|key| changes_the_run(key, config) && of(&before, key) != of(&now, key));
    Ok(changed
        .map(|key| format!("{key}: {} → {}", of(&before, key), of(&now, key)))
        .collect())
}

/// Whether another value of a setting makes other weights, rather than more steps, other files or other memory.
fn changes_the_run(key: &str, config: &TrainConfig) -> bool {
    // A rate that falls until the last step is another at each where there are more.
    if key == "steps" {
        return config.optimizer.schedule != Schedule::Constant;
    }
    let harmless = ["rollout.batch_rows", "update.memory"];
    let sections = ["checkpoint.", "validation.", "monitor."];
    !harmless.contains(&key) && !sections.iter().any(|section| key.starts_with(section))
}

/// A table's values by their dotted keys.
fn flat(table: &Table) -> Vec<(String, String)> {
    let mut flattened = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                let inner = flat(inner).into_iter();
                flattened.extend(inner.map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            value => flattened.push((key.clone(), value.to_string())),
        }
    }
    flattened
}

impl Trainer {
    /// Refuses a state that is not this checkpoint's, and drops surplus groups that this configuration cannot use.
    fn check_state(&mut self, path: &Path) -> Result<(), TrainerError> {
        let named = checkpoint_step(path).unwrap_or(self.state.step);
        let vocab_size = self.policy.config.vocab_size;
        let groups = &self.state.surplus;
        let rollouts = || {
            groups
                .iter()
                .flat_map(|group| &group.samples)
                .map(|sample| &sample.rollout)
        };
        let mut ids =
            rollouts().flat_map(|rollout| rollout.prompt_ids.iter().chain(&rollout.response_ids));
        let are_known = ids.all(|&id| (id as usize) < vocab_size);
        let are_whole = rollouts().all(|rollout| {
            !rollout.prompt_ids.is_empty()
                && rollout.response_ids.len() == rollout.sampler_log_probs.len()
        });
        if named != self.state.step || !are_known || !are_whole {
            return Err(TrainerError::Damaged {
                path: path.join(STATE),
                message: "is not the state of this checkpoint; go on from another one".into(),
            });
        }
        let size = self.config.rollout.group_size;
        self.state
            .surplus
            .retain(|group| group.samples.len() == size);
        Ok(())
    }
}

/// Removes the checkpoints of a finished run that are not to be kept: a process that ended between its last checkpoint and
/// their removal has left one.
///
/// # Errors
/// The last checkpoint's state cannot be read, or the others not be removed.
pub fn remove_surplus(
    run: &Path,
    last: &Path,
    section: &CheckpointSection,
) -> Result<(), TrainerError> {
    let best = read_state(last)?.best.filter(|_| section.keep_best);
    prune(run, section.keep, best.map(|best| best.step))
}

/// The run's state in a checkpoint.
pub(crate) fn read_state(checkpoint: &Path) -> Result<RunState, TrainerError> {
    let file = checkpoint.join(STATE);
    let text = fs::read(&file).map_err(|source| TrainerError::Io { path: file, source })?;
    serde_json::from_slice(&text).map_err(|error| TrainerError::Damaged {
        path: checkpoint.to_owned(),
        message: format!("{STATE}: {error}"),
    })
}
