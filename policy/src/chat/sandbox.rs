//! A thread for what a template makes the engine do, and an end to the wait for it.
//!
//! The engine's budget counts instructions and bytes. It does not count how deeply values are nested, which is what
//! comparing, printing and dropping them take of the stack, nor how often one value stands within another: a list that
//! holds itself twice, forty times over, takes hours to compare with its like, and all memory to join with a text.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// What the budget can nest takes a third of it; of what is not used no memory is taken.
const STACK_BYTES: usize = 256 << 20;
/// Templates take a millisecond.
const LONGEST: Duration = Duration::from_secs(5);
/// How often a template that takes long is looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// What a process may grow by while a template works for longer than that.
const MOST_BYTES: u64 = 1 << 30;

/// The result of some work, or why there is none. Work that is given up goes on until the process ends, which is what an
/// error here leads to.
pub(super) fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = channel();
    let worker = thread::Builder::new().name("chat template".into());
    let worker = worker.stack_size(STACK_BYTES);
    let spawned = worker.spawn(move || {
        // Nobody waits for what was given up.
        let _ = sender.send(work());
    });
    spawned.map_err(|error| format!("there is no thread for it: {error}"))?;
    let start = Instant::now();
    let before = resident_bytes();
    while start.elapsed() < LONGEST {
        match receiver.recv_timeout(INTERVAL) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err("the engine failed at it".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if resident_bytes() > before.saturating_add(MOST_BYTES) {
            return Err(format!("it took more than {MOST_BYTES} bytes of memory"));
        }
    }
    Err(format!("it worked for more than {} s", LONGEST.as_secs()))
}

/// The process's memory, where the system tells.
fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.map_or(0, |pages: u64| pages * PAGE_BYTES)
}
