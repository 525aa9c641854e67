//! What became of requests.

use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// What became of the requests to external programs, since they were started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExternalStats {
    /// Responses that a score was asked for.
    pub asked: u64,
    /// Of these, the ones without a reward.
    pub missing: u64,
    /// Times that a process was started again.
    pub restarts: u64,
    /// Lines that were no answer to the request at hand.
    pub nonsense_lines: u64,
}

impl Add for ExternalStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            asked: self.asked + other.asked,
            missing: self.missing + other.missing,
            restarts: self.restarts + other.restarts,
            nonsense_lines: self.nonsense_lines + other.nonsense_lines,
        }
    }
}

/// The counters behind [`ExternalStats`], which threads share.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) asked: AtomicU64,
    pub(super) missing: AtomicU64,
    pub(super) restarts: AtomicU64,
    pub(super) nonsense_lines: AtomicU64,
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    pub(super) fn stats(&self) -> ExternalStats {
        ExternalStats {
            asked: self.asked.load(Relaxed),
            missing: self.missing.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            nonsense_lines: self.nonsense_lines.load(Relaxed),
        }
    }
}
