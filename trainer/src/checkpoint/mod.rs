//! Checkpoints: a Hugging Face folder with the optimizer and the run's state beside it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use policy::SaveDtype;

use crate::{RunState, Trainer, TrainerError, load_policy, optimizer::is_finite};

const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "trainer_state.json";

impl Trainer {
    /// Writes a checkpoint: to a folder beside, then renamed, so that none is ever seen half-written.
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
        let io = |source| TrainerError::Io {
            path: path.to_owned(),
            source,
        };
        let beside = path.with_extension("tmp");
        if beside.exists() {
            fs::remove_dir_all(&beside).map_err(io)?;
        }
        fs::create_dir_all(&beside).map_err(io)?;
        self.policy.save(&beside, SaveDtype::F32)?;
        let damaged = |message: String| TrainerError::Damaged {
            path: path.to_owned(),
            message,
        };
        self.optimizer
            .save(beside.join(OPTIMIZER))
            .map_err(|error| damaged(format!("cannot write the optimizer's state: {error:?}")))?;
        if let Some(critic) = &self.critic {
            critic.save(&beside)?;
        }
        let state = serde_json::to_vec(&self.state).map_err(|error| damaged(error.to_string()))?;
        fs::write(beside.join(STATE), state).map_err(io)?;
        if path.exists() {
            fs::remove_dir_all(path).map_err(io)?;
        }
        fs::rename(&beside, path).map_err(io)
    }

    /// Takes the optimizer, the critic and the run's state from a checkpoint whose policy this trainer was built with,
    /// and the reference policy from where the run started.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn load_state(&mut self, path: &Path) -> Result<(), TrainerError> {
        let damaged = |message: String| TrainerError::Damaged {
            path: path.to_owned(),
            message,
        };
        self.state = read_state(path)?;
        self.check_state(path)?;
        let optimizer = self.optimizer.clone().load(path.join(OPTIMIZER));
        self.optimizer = optimizer.map_err(|error| damaged(format!("{OPTIMIZER}: {error:?}")))?;
        if let Some(critic) = &mut self.critic {
            critic.load(path)?;
        }
        if self.reference.is_some() {
            let device = self.policy.model.device().inner();
            let start = load_policy(&self.config.model.path, self.dtype, &device)?;
            self.reference = Some(start.model);
        }
        Ok(())
    }
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

/// The run's state in a checkpoint.
pub(crate) fn read_state(checkpoint: &Path) -> Result<RunState, TrainerError> {
    let file = checkpoint.join(STATE);
    let text = fs::read(&file).map_err(|source| TrainerError::Io { path: file, source })?;
    serde_json::from_slice(&text).map_err(|error| TrainerError::Damaged {
        path: checkpoint.to_owned(),
        message: format!("{STATE}: {error}"),
    })
}

/// The step that a checkpoint's folder is named by.
fn checkpoint_step(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("step-")?.parse().ok()
}

/// The checkpoints of a run, oldest first.
///
/// # Errors
/// The folder cannot be read.
pub fn list_checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>, TrainerError> {
    let folder = run.join("checkpoints");
    let io = |source| TrainerError::Io {
        path: folder.clone(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if let Some(step) = checkpoint_step(&path) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes all but the newest `keep` checkpoints; 0 keeps all.
pub(crate) fn prune(run: &Path, keep: usize) -> Result<(), TrainerError> {
    let all = list_checkpoints(run)?;
    let surplus = if keep == 0 {
        0
    } else {
        all.len().saturating_sub(keep)
    };
    for (_, path) in &all[..surplus] {
        fs::remove_dir_all(path).map_err(|source| TrainerError::Io {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}
