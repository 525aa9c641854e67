//! What a run tells whoever watches it.

use std::path::Path;

use crate::StepMetrics;

/// Something that happened in a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Responses are being sampled.
    Generating {
        /// The step.
        step: u64,
        /// How far it is.
        progress: rollout::Progress,
    },
    /// The policy is being updated.
    Updating {
        /// The step.
        step: u64,
        /// Updates made.
        done: usize,
        /// Updates to make.
        total: usize,
    },
    /// Held-out problems are being answered.
    Validating {
        /// The step after which.
        step: u64,
        /// How far it is.
        progress: rollout::Progress,
    },
    /// Filtering left fewer groups than asked for, and no more sampling is allowed: the step trains on these.
    ShortRollout {
        /// Groups left.
        groups: usize,
        /// `rollout.prompts_per_step`.
        wanted: usize,
    },
    /// A step ended.
    Step(&'a StepMetrics),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// Something that the user should know.
    Warning(&'a str),
}

/// Watches a run: a terminal, a log, a test.
pub trait Observer {
    /// Is told of an event.
    fn on_event(&mut self, event: Event<'_>);
}

impl<F: FnMut(Event<'_>)> Observer for F {
    fn on_event(&mut self, event: Event<'_>) {
        self(event);
    }
}
