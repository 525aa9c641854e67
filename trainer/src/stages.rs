//! Stages of one's own in a run.

use std::{fmt, sync::Arc};

use losses::{Estimator, PolicyLoss};
use reward::{Reward, Task};

/// Stages of one's own, in the place of those that a configuration names; none by default.
///
/// ```
/// use losses::{AdvantageInputs, Advantages, Estimator, LossError};
/// use reward::{Problem, Reward, Split, Task, VerifierReward};
/// use trainer::Stages;
///
/// /// Twice a number.
/// struct Doubles;
///
/// impl Task for Doubles {
///     fn name(&self) -> &'static str {
///         "doubles"
///     }
///
///     fn problem(&self, split: Split, seed: u64, index: u64) -> Problem {
///         // Odd numbers are learnt from, even ones held out.
///         let number = 2 * (seed + index) + u64::from(split == Split::Train);
///         Problem {
///             id: format!("doubles-{number}"),
///             prompt: format!("2*{number}="),
///             answer: (2 * number).to_string(),
///             source: "doubles".into(),
///             system: None,
///             numbers: None,
///             solution: None,
///         }
///     }
///
///     fn reward(&self) -> Box<dyn Reward> {
///         Box::new(VerifierReward::default())
///     }
/// }
///
/// /// A reward less the mean of all the step's.
/// #[derive(Debug)]
/// struct OverAll;
///
/// impl Estimator for OverAll {
///     fn compares_groups(&self) -> bool {
///         false
///     }
///
///     fn estimate(&self, inputs: &AdvantageInputs) -> Result<Advantages, LossError> {
///         let rewards = inputs.outcomes();
///         let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
///         let advantages: Vec<f64> = rewards.iter().map(|reward| reward - mean).collect();
///         Ok(inputs.broadcast(&advantages))
///     }
/// }
///
/// let stages = Stages::default().with_task(Doubles).with_estimator(OverAll);
/// ```
#[derive(Default)]
pub struct Stages {
    /// Makes problems, and scores answers to them, where the configuration has no file of problems; where it has one, it is not
    /// asked.
    pub task: Option<Box<dyn Task>>,
    /// Scores responses: neither a task's own reward, nor the verifier, nor the configuration's `reward`.
    pub reward: Option<Box<dyn Reward>>,
    /// The policy loss, under all else that the configuration's `loss` says.
    pub loss: Option<Arc<dyn PolicyLoss>>,
    /// The estimator of advantages.
    pub estimator: Option<Arc<dyn Estimator>>,
}

/// The name of an estimator among [`Stages::names`].
pub(crate) const ESTIMATOR: &str = "estimator";

impl Stages {
    /// Those that are there.
    pub(crate) fn names(&self) -> Vec<String> {
        let stages = [
            ("task", self.task.is_some()),
            ("reward", self.reward.is_some()),
            ("loss", self.loss.is_some()),
            (ESTIMATOR, self.estimator.is_some()),
        ];
        let there = stages.into_iter().filter(|(_, is_there)| *is_there);
        there.map(|(name, _)| name.to_owned()).collect()
    }

    /// The same with a task.
    #[must_use]
    pub fn with_task(mut self, task: impl Task + 'static) -> Self {
        self.task = Some(Box::new(task));
        self
    }

    /// The same with a reward.
    #[must_use]
    pub fn with_reward(mut self, reward: impl Reward + 'static) -> Self {
        self.reward = Some(Box::new(reward));
        self
    }

    /// The same with a loss.
    #[must_use]
    pub fn with_loss(mut self, loss: impl PolicyLoss + 'static) -> Self {
        self.loss = Some(Arc::new(loss));
        self
    }

    /// The same with an estimator of advantages.
    #[must_use]
    pub fn with_estimator(mut self, estimator: impl Estimator + 'static) -> Self {
        self.estimator = Some(Arc::new(estimator));
        self
    }
}

impl fmt::Debug for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            loss, estimator, ..
        } = self;
        let (task, reward) = (self.task.is_some(), self.reward.is_some());
        write!(
            f,
            "Stages(task {task}, reward {reward}, {loss:?}, {estimator:?})"
        )
    }
}
