//! `anneal bench`.

mod guard;
pub(crate) mod ops;
pub(crate) mod parts;
pub(crate) mod step;

use std::time::Instant;

/// The fastest run in nanoseconds, over `seconds`, after one that warms up.
fn fastest_nanoseconds(seconds: f64, mut work: impl FnMut()) -> f64 {
    work();
    let started = Instant::now();
    let mut fastest = f64::INFINITY;
    while started.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        work();
        fastest = fastest.min(start.elapsed().as_nanos() as f64);
    }
    fastest
}
