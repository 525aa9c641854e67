//! Reaching a target from given numbers.

mod config;
mod expression;
mod operation;
mod puzzle;
mod reward;
mod solution;
mod task;

pub use config::{CountdownConfig, CountdownStyles};
pub use operation::Operation;
pub use reward::CountdownReward;
pub use task::CountdownTask;
