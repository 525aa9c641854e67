//! When a run is to stop: asked for from outside, looked at between tokens, micro-batches and answers.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use reward::StopCheck;

use crate::TrainerError;

/// How long a step may go on after a request to stop, once its updates have begun: its end can be saved, its middle
/// cannot. With the save after it, a run ends within ten seconds.
const GRACE: Duration = Duration::from_secs(5);

/// A request to stop, and whether it holds now.
#[derive(Clone)]
pub(crate) struct Stop {
    state: Arc<State>,
    check: StopCheck,
}

#[derive(Default)]
struct State {
    requested: OnceLock<Arc<AtomicBool>>,
    /// When the request was first seen.
    seen: OnceLock<Instant>,
    is_mid_step: AtomicBool,
}

impl Default for Stop {
    fn default() -> Self {
        let state = Arc::new(State::default());
        let asked = Arc::clone(&state);
        Self {
            state,
            check: Arc::new(move || asked.is_due()),
        }
    }
}

impl Stop {
    /// Takes the flag that requests are made by.
    pub(crate) fn request_by(&self, flag: Arc<AtomicBool>) {
        // The first flag is the run's.
        let _ = self.state.requested.set(flag);
    }

    /// The same question, for those who wait elsewhere.
    pub(crate) fn check(&self) -> &StopCheck {
        &self.check
    }

    /// Gives up where a stop is due.
    pub(crate) fn obey(&self) -> Result<(), TrainerError> {
        if self.state.is_due() {
            return Err(TrainerError::Stopped { step: 0 });
        }
        Ok(())
    }

    /// Notes that the weights are not those of a whole step any more, or are again.
    pub(crate) fn set_mid_step(&self, is_mid_step: bool) {
        self.state.is_mid_step.store(is_mid_step, Relaxed);
    }

    /// Whether the weights are between two steps.
    pub(crate) fn is_mid_step(&self) -> bool {
        self.state.is_mid_step.load(Relaxed)
    }
}

impl State {
    fn is_due(&self) -> bool {
        let is_requested = self.requested.get().is_some_and(|flag| flag.load(Relaxed));
        if !is_requested {
            return false;
        }
        let seen = self.seen.get_or_init(Instant::now);
        !self.is_mid_step.load(Relaxed) || seen.elapsed() > GRACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_for_a_step_whose_updates_have_begun() {
        let (stop, flag) = (Stop::default(), Arc::new(AtomicBool::new(false)));
        assert!(stop.obey().is_ok(), "nobody can ask yet");
        stop.request_by(Arc::clone(&flag));
        assert!(stop.obey().is_ok() && !(stop.check())());
        flag.store(true, Relaxed);
        assert!(stop.obey().is_err() && (stop.check())());
        stop.set_mid_step(true);
        assert!(stop.obey().is_ok() && !(stop.check())());
        stop.set_mid_step(false);
        assert!(stop.obey().is_err());
    }
}
