//! Workers that threads share.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::worker::Worker;

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

    /// Waits for a free worker; `None` once all are given up.
    pub(super) fn lend(&self) -> Option<Loan<'_>> {
        let none_free = |state: &mut State| state.free.is_empty() && state.left > 0;
        let waited = self.changed.wait_while(lock(&self.state), none_free);
        let index = waited.unwrap_or_else(PoisonError::into_inner).free.pop()?;
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
