//! Procedural tasks: endless problems with worked solutions and a held-out split.

mod arithmetic;
mod config;
mod countdown;
mod mistake;
mod seed;
mod setting;
mod split;
mod traits;

pub use arithmetic::{ArithmeticConfig, ArithmeticTask, Sign, StyleWeights};
pub use config::TaskConfig;
pub use countdown::{CountdownConfig, CountdownReward, CountdownStyles, CountdownTask, Operation};
pub use mistake::MistakeRate;
pub use split::Split;
pub use traits::Task;
