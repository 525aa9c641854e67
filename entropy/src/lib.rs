//! Measurement and analysis of policy entropy, after "The Entropy Mechanism of Reinforcement
//! Learning for Reasoning Language Models" (arXiv 2505.22617).
//!
//! Plain numbers in, plain numbers out: [`EntropyTally`] averages per-token entropies in every
//! convention, [`token_covariances`] ranks the tokens that drive entropy down, and [`fit_law`]
//! and [`forecast`] relate reward to entropy.

mod covariance;
mod error;
mod law;
mod measure;

pub use covariance::{
    CovarianceSummary, RANK_FRACTIONS, RankMeans, summarize_covariances, token_covariances,
};
pub use error::EntropyError;
pub use law::{Forecast, LawFit, LawPoint, fit_law, forecast};
pub use measure::{EntropyTally, sampled_entropy};
