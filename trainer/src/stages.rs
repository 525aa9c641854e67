//! Stages of one's own in a run.

use std::{fmt, sync::Arc};

use losses::{Estimator, PolicyLoss};
use reward::{Reward, Task};

/// Stages of one's own, in the place of those that a configuration names; none by default.
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

impl Stages {
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
