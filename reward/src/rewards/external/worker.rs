//! A process that is started again when it fails.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::answer::Answer;
use super::process::{Failure, Process};
use super::request::Request;
use super::stats::{Counters, count};
use crate::StopCheck;

/// How many lines that are no answer a request may bring.
const MAX_NONSENSE_LINES: usize = 100;

/// What a worker needs in order to start processes.
pub(super) struct Launcher {
    pub(super) command: Vec<String>,
    pub(super) max_restarts: u32,
    pub(super) counters: Counters,
    /// Whether answers are not wanted any more; unset, they always are.
    pub(super) is_stopped: OnceLock<StopCheck>,
}

impl Launcher {
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.get().is_some_and(|is_stopped| is_stopped())
    }
}

/// One process at a time, with its replacements.
pub(super) struct Worker {
    launcher: Arc<Launcher>,
    process: Option<Process>,
    restarts_in_a_row: u32,
}

impl Worker {
    pub(super) fn start(launcher: Arc<Launcher>) -> std::io::Result<Self> {
        let process = Process::start(&launcher.command)?;
        Ok(Self {
            launcher,
            process: Some(process),
            restarts_in_a_row: 0,
        })
    }

    /// The answer to a request. One whose process died is put once more, to the next process.
    pub(super) fn ask(
        &mut self,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        match self.ask_once(request, deadline) {
            Err(Failure::Died) if !self.is_given_up() && Instant::now() < deadline => {
                self.ask_once(request, deadline)
            }
            outcome => outcome,
        }
    }

    /// Whether no process runs, and none will.
    pub(super) fn is_given_up(&self) -> bool {
        self.process.is_none() && self.restarts_in_a_row >= self.launcher.max_restarts
    }

    fn ask_once(&mut self, request: &Request<'_>, deadline: Instant) -> Result<Answer, Failure> {
        if self.process.is_none() {
            self.restart();
        }
        let process = self.process.as_ref().ok_or(Failure::CannotStart)?;
        let outcome = exchange(process, request, deadline, &self.launcher);
        match outcome {
            Ok(_) => self.restarts_in_a_row = 0,
            // Nobody will ask again.
            Err(Failure::Stopped) => self.process = None,
            // At once rather than with the next request, which then finds it ready.
            Err(_) => self.restart(),
        }
        outcome
    }

    /// Kills the process and starts another, unless that has been done too often.
    fn restart(&mut self) {
        self.process = None;
        if self.restarts_in_a_row < self.launcher.max_restarts {
            self.restarts_in_a_row += 1;
            count(&self.launcher.counters.restarts);
            self.process = Process::start(&self.launcher.command).ok();
        }
    }
}

fn exchange(
    process: &Process,
    request: &Request<'_>,
    deadline: Instant,
    launcher: &Launcher,
) -> Result<Answer, Failure> {
    process.send(request.to_line())?;
    for _ in 0..=MAX_NONSENSE_LINES {
        let line = process.line(deadline, &|| launcher.is_stopped())?;
        if let Some(answer) = Answer::read(&line, request.id) {
            return Ok(answer);
        }
        count(&launcher.counters.nonsense_lines);
    }
    Err(Failure::Nonsense)
}
