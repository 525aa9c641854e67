//! Workers that threads share.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::worker::Worker;

/// How often who waits looks whether it should stop.
pub(super) const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// Lends each worker to one thread at a time, and none that is given up.
pub(super) struct Pool {
    workers: Vec<Mutex<Worker>>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The workers that may be lent, by index.
    free: Vec<usize>,
    /// How many workers are not given up, lent ones included.
    left: usize,
}

/// A worker on loan; it goes back on drop.
pub(super) struct Loan<'a> {
    pub(super) worker: MutexGuard<'a, Worker>,
    pool: &'a Pool,
    index: usize,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.pool.take_back(self.index, self.worker.is_given_up());
    }
}

impl Pool {
    pub(super) fn new(workers: Vec<Worker>) -> Self {
        let state = State {
            free: (0..workers.len()).collect(),
            left: workers.len(),
        };
        Self {
            workers: workers.into_iter().map(Mutex::new).collect(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Waits for a free worker; `None` once all are given up, or nothing is wanted any more.
    pub(super) fn lend(&self, is_stopped: &dyn Fn() -> bool) -> Option<Loan<'_>> {
        let mut state = lock(&self.state);
        while state.free.is_empty() && state.left > 0 && !is_stopped() {
            let waited = self.changed.wait_timeout(state, STOP_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let index = state.free.pop()?;
        drop(state);
        Some(Loan {
            worker: lock(&self.workers[index]),
            pool: self,
            index,
        })
    }

    fn take_back(&self, index: usize, is_given_up: bool) {
        let mut state = lock(&self.state);
        if is_given_up {
            state.left -= 1;
        } else {
            state.free.push(index);
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// A panic elsewhere leaves a worker usable: at worst its process is killed for a late answer.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
