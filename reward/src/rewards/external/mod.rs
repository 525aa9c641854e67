//! Rewards from programs in any language; [`ExternalReward`] describes the protocol.

mod answer;
mod config;
mod pool;
mod process;
mod request;
mod reward;
mod stats;
mod streams;
mod worker;

#[cfg(test)]
mod tests;

pub use config::ExternalConfig;
pub use reward::ExternalReward;
pub use stats::ExternalStats;
