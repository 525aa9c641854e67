//! Where problems come from: a file's epochs, or a procedural task without end.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use policy::Policy;
use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use reward::{
    Problem, Reward, Split, StopCheck, Task, VerifierReward, gold_is_readable, load_problems,
};

use crate::{PromptFormat, TrainConfig, TrainerError, answer::has_room};

/// Training and validation problems, and the reward that scores answers to them.
pub struct ProblemSource {
    training: Training,
    validation: Vec<Problem>,
    /// Whether the task made the validation problems.
    validates_task: bool,
    reward: Box<dyn Reward>,
    /// What scores validations where that is not `reward`: a task trained on, a file validated on.
    validation_reward: Option<Box<dyn Reward>>,
    /// How many of the files' problems were left out for their length.
    overlong: usize,
    seed: u64,
}

enum Training {
    Task(Box<dyn Task>),
    File(Epochs),
}

impl std::fmt::Debug for ProblemSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_task() { "task" } else { "file" };
        write!(
            f,
            "ProblemSource({kind}, {} for validation)",
            self.validation.len()
        )
    }
}

/// Validation problems are drawn apart from the run's seed, so that every run is measured on the same ones.
const VALIDATION_SEED: u64 = 0;

impl ProblemSource {
    /// Opens the files that the configuration names, or builds its task.
    ///
    /// # Errors
    /// A file that cannot be read, or a task's setting out of range.
    pub fn new(config: &TrainConfig) -> Result<Self, TrainerError> {
        Self::with_parts(config, None, None)
    }

    /// The same with a task that makes problems where no file does, and a reward in the place of all that the configuration would
    /// score with.
    ///
    /// # Errors
    /// As [`ProblemSource::new`].
    pub fn with_parts(
        config: &TrainConfig,
        task: Option<Box<dyn Task>>,
        reward: Option<Box<dyn Reward>>,
    ) -> Result<Self, TrainerError> {
        let is_given = reward.is_some();
        let has_parts = is_given || !config.reward.parts.is_empty();
        // Whether the verifier reads gold answers, and its not reading one is an error.
        let is_verified =
            |own_is_verifier| !is_given && config.reward.asks_verifier(own_is_verifier);
        let chosen = |own: Box<dyn Reward>| match reward {
            Some(reward) => Ok(reward),
            None => config.reward.build(own),
        };
        let count = config.validation.problems;
        let from_file = |path: &Path| -> Result<Vec<Problem>, TrainerError> {
            let mut problems = load_problems(path)?;
            problems.truncate(if count == 0 { problems.len() } else { count });
            Ok(problems)
        };
        let validation = config
            .data
            .validation
            .as_deref()
            .map(from_file)
            .transpose()?;
        let verifier = || Box::new(VerifierReward::default()) as Box<dyn Reward>;
        // A file's validation beside a task has the verifier by itself, and parts are the task's.
        if is_verified(config.data.train.is_some() || !has_parts) {
            check_gold(validation.iter().flatten())?;
        }
        if let Some(path) = &config.data.train {
            let problems = load_problems(path)?;
            if is_verified(true) {
                check_gold(&problems)?;
            }
            return Ok(Self {
                training: Training::File(Epochs::new(problems, config.data.shuffle, config.seed)),
                validation: validation.unwrap_or_default(),
                validates_task: false,
                reward: chosen(verifier())?,
                validation_reward: None,
                overlong: 0,
                seed: config.seed,
            });
        }
        let task = match task {
            Some(task) => task,
            None => config.task.build()?,
        };
        let held_out = |index| task.problem(Split::HeldOut, VALIDATION_SEED, index);
        let validates_task = validation.is_none();
        let validation = validation.unwrap_or_else(|| (0..count as u64).map(held_out).collect());
        // A file's problems are not the task's; a reward that is given, or the configuration's own, is for both.
        let has_own = !validates_task && !has_parts;
        let reward = chosen(task.reward())?;
        Ok(Self {
            training: Training::Task(task),
            validation,
            validates_task,
            reward,
            validation_reward: has_own.then(verifier),
            overlong: 0,
            seed: config.seed,
        })
    }

    /// The problem at a position of the run's endless sequence.
    pub fn problem(&self, cursor: u64) -> Problem {
        match &self.training {
            Training::Task(task) => task.problem(Split::Train, self.seed, cursor),
            Training::File(epochs) => epochs.problem(cursor).clone(),
        }
    }

    /// The problems of a file, in its order; of a task, the first alone.
    pub fn examples(&self) -> Vec<Problem> {
        match &self.training {
            Training::Task(task) => vec![task.problem(Split::Train, self.seed, 0)],
            Training::File(epochs) => epochs.problems.clone(),
        }
    }

    /// Bytes of the longest prompt of [`ProblemSource::examples`].
    pub(crate) fn longest_prompt(&self) -> usize {
        let longest =
            |problems: &[Problem]| problems.iter().map(|problem| problem.prompt.len()).max();
        let longest = match &self.training {
            Training::Task(task) => longest(&[task.problem(Split::Train, self.seed, 0)]),
            Training::File(epochs) => longest(&epochs.problems),
        };
        longest.unwrap_or(0)
    }

    /// Leaves out those problems of files whose prompts have no room for the longest response.
    ///
    /// # Errors
    /// A problem that cannot be encoded, or none left to train on.
    pub(crate) fn drop_overlong(
        &mut self,
        policy: &Policy,
        config: &TrainConfig,
    ) -> Result<(), TrainerError> {
        let format = PromptFormat::new(policy, &config.data, false)?;
        let longest = config.rollout.max_new_tokens;
        let fits = |problem: &Problem| {
            let prompt = format.encode(problem)?;
            Ok(has_room(policy, prompt.len(), longest))
        };
        if let Training::File(epochs) = &mut self.training {
            self.overlong += keep(&mut epochs.problems, fits)?;
            if epochs.problems.is_empty() {
                return Err(TrainerError::NoneFits);
            }
        }
        if !self.validates_task {
            self.overlong += keep(&mut self.validation, fits)?;
        }
        Ok(())
    }

    /// Problems that were left out for their length.
    pub(crate) fn overlong(&self) -> usize {
        self.overlong
    }

    /// The held-out problems.
    pub fn validation(&self) -> &[Problem] {
        &self.validation
    }

    /// Gives the rewards something to ask while they wait for others.
    pub(crate) fn stop_when(&self, is_stopped: &StopCheck) {
        self.reward.stop_when(is_stopped);
        if let Some(reward) = &self.validation_reward {
            reward.stop_when(is_stopped);
        }
    }

    /// What scores responses.
    pub fn reward(&self) -> &dyn Reward {
        self.reward.as_ref()
    }

    /// What scores answers to the held-out problems.
    pub fn validation_reward(&self) -> &dyn Reward {
        self.validation_reward.as_deref().unwrap_or(self.reward())
    }

    /// Whether a procedural task makes the held-out problems.
    pub fn validates_task(&self) -> bool {
        self.validates_task
    }

    /// Whether a procedural task makes the problems.
    pub fn is_task(&self) -> bool {
        matches!(self.training, Training::Task(_))
    }
}

/// Refuses problems whose gold answer the verifier cannot read: every answer to them would be wrong.
///
/// # Errors
/// The first such problem.
pub fn check_gold<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> Result<(), TrainerError> {
    let mut problems = problems.into_iter();
    match problems.find(|problem| !gold_is_readable(&problem.answer)) {
        Some(problem) => Err(TrainerError::UnreadableGold {
            id: problem.id.clone(),
            answer: problem.answer.clone(),
        }),
        None => Ok(()),
    }
}

/// Keeps the problems that fit, and says how many others there were.
pub(crate) fn keep(
    problems: &mut Vec<Problem>,
    fits: impl Fn(&Problem) -> Result<bool, TrainerError>,
) -> Result<usize, TrainerError> {
    let count = problems.len();
    for problem in std::mem::take(problems) {
        if fits(&problem)? {
            problems.push(problem);
        }
    }
    Ok(count - problems.len())
}

/// A file's problems without end, epoch after epoch.
pub(crate) struct Epochs {
    /// In the file's order.
    pub(crate) problems: Vec<Problem>,
    shuffle: bool,
    seed: u64,
    /// The epoch that was last asked for and its order, which takes as long to draw as there are problems.
    order: Mutex<(u64, Vec<usize>)>,
}

impl Epochs {
    /// Problems, of which there must be one.
    pub(crate) fn new(problems: Vec<Problem>, shuffle: bool, seed: u64) -> Self {
        Self {
            problems,
            shuffle,
            seed,
            order: Mutex::default(),
        }
    }

    /// The problem at a position of the endless sequence.
    pub(crate) fn problem(&self, cursor: u64) -> &Problem {
        let count = self.problems.len();
        let (epoch, index) = (cursor / count as u64, (cursor % count as u64) as usize);
        if !self.shuffle {
            return &self.problems[index];
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.1.is_empty() || order.0 != epoch {
            *order = (epoch, shuffled(count, self.seed, epoch));
        }
        &self.problems[order.1[index]]
    }
}

/// The order of an epoch: a permutation keyed by (seed, epoch), so that a cursor is all a resume needs.
fn shuffled(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16..24].copy_from_slice(b"shuffled");
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::from_seed(key));
    order
}
