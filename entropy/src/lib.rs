//! Measurement and analysis of policy entropy, after "The Entropy Mechanism of Reinforcement
//! Learning for Reasoning Language Models" (arXiv 2505.22617).
//!
//! Plain numbers in, plain numbers out: [`EntropyTally`] averages per-token entropies in every
//! convention, [`token_covariances`] ranks the tokens that drive entropy down, [`EntropyChange`] and [`TheoremTerms`] set
//! what an update did to entropy beside what theory expects of it, and [`fit_law`] and [`forecast`] relate reward to
//! entropy.

mod covariance;
mod error;
mod interval;
mod law;
mod measure;
mod mechanism;
mod scaling;

pub use covariance::{
    CovarianceSummary, RANK_FRACTIONS, RankMeans, summarize_covariances, token_covariances,
};
pub use error::EntropyError;
pub use interval::MeanInterval;
pub use law::{Forecast, LawDoubt, LawFit, LawPoint, fit_law, forecast};
pub use measure::{EntropyTally, sampled_entropy};
pub use mechanism::{Agreement, EntropyChange, TheoremTerms, TokenChange, within_state_covariance};
pub use scaling::{LogLinear, Scaling, fit_scaling};
