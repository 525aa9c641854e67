//! SIGINT and SIGTERM: the first asks a run to stop, the second ends the process at once.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// The exit code of a process that a signal ended, less the signal's number, as shells have it.
const SIGNAL_CODE: i32 = 128;

/// What signals have come.
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicUsize>,
}

impl Signals {
    /// Takes the signals from here on.
    pub(crate) fn watch() -> Result<Self> {
        let signals = Self {
            stop: Arc::default(),
            last: Arc::default(),
        };
        for signal in [SIGINT, SIGTERM] {
            let register = || {
                let stop = || Arc::clone(&signals.stop);
                // Looked at before the flag is raised, this lets the first signal pass.
                flag::register_conditional_shutdown(signal, SIGNAL_CODE + signal, stop())?;
                flag::register_usize(signal, Arc::clone(&signals.last), signal as usize)?;
                flag::register(signal, stop())
            };
            register().context("cannot watch for signals")?;
        }
        Ok(signals)
    }

    /// Raised by the first signal.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether one has come.
    pub(crate) fn is_received(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// What to end with, now that the run has stopped.
    pub(crate) fn stopped(&self, message: String) -> Stopped {
        let signal = self.last.load(Relaxed) as i32;
        Stopped { signal, message }
    }
}

/// A command that a signal stopped in good order.
#[derive(Debug)]
pub(crate) struct Stopped {
    signal: i32,
    message: String,
}

impl Stopped {
    /// 130 after SIGINT, 143 after SIGTERM.
    pub(crate) fn exit_code(&self) -> u8 {
        (SIGNAL_CODE + self.signal) as u8
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.signal {
            SIGINT => "SIGINT",
            SIGTERM => "SIGTERM",
            _ => "a signal",
        };
        write!(f, "stopped by {name}: {}", self.message)
    }
}

impl std::error::Error for Stopped {}
