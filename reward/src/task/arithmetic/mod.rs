//! Sums of several integers, worked in steps.

mod config;
mod style;
mod task;

pub use config::{ArithmeticConfig, Sign, StyleWeights};
pub use task::ArithmeticTask;
