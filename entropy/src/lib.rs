//! Measurement and analysis of policy entropy, after "The Entropy Mechanism of Reinforcement
//! Learning for Reasoning Language Models" (arXiv 2505.22617).
//!
//! Plain numbers in, plain numbers out: [`EntropyTally`] averages per-token entropies in every
//! convention, [`token_covariances`] ranks the tokens that drive entropy down, [`EntropyChange`] and [`TheoremTerms`] set
//! what an update did to entropy beside what theory expects of it, and [`fit_law`] and [`forecast`] relate reward to
//! entropy.
//!
//! ```
//! use entropy::{LawPoint, fit_law};
//!
//! // Points of R = -0.5·e^H + 1.2.
//! let point = |entropy: f64| LawPoint { entropy, reward: 1.2 - 0.5 * entropy.exp() };
//! let law = fit_law(&[0.8, 0.6, 0.4, 0.2, 0.1].map(point))?;
//! assert!((law.a - 0.5).abs() < 1e-9 && (law.ceiling - 0.7).abs() < 1e-9);
//! # Ok::<(), entropy::EntropyError>(())
//! ```

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
