//! Runs that are killed, stopped, starved of disk and lied to. Whatever happens, they end in the same bits as a run that
//! nothing happened to, and every test sees that its fault did happen.
//!
//! `ANNEAL_FAULTS` is how often what is random is done (10), `ANNEAL_FAULTS_SEED` where it starts:
//! `ANNEAL_FAULTS=100 cargo test --release -p cli --test faults`.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a broken test fails, and says what it did"
)]

mod damage;
mod disk;
mod failpoints;
mod folder;
mod format;
mod harness;
mod kills;
mod resume;
mod signals;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod soak;
