//! Advantages, policy losses, entropy controllers and their aggregation.
//!
//! An algorithm is three parts, each in a file of its own:
//!
//! 1. an estimator of advantages ([`Estimator::advantages`], in `advantages/`);
//! 2. a per-token loss ([`PolicyLoss`], in `policy_loss/`);
//! 3. entropy controllers, which select, weigh, penalise or favour tokens but never repeat the clip
//!    ([`EntropyControl`], in `controller/`).
//!
//! One [`aggregate`] reduces per-token losses to a scalar. [`PolicyObjective`] joins the parts
//! behind two calls, so a trainer does not know which algorithm it runs:
//!
//! ```text
//! select(mini-batch on the host)  → Selections         once per mini-batch, where needed
//! evaluate(micro-batch, …)        → LossOutput {loss, stats}
//! ```
//!
//! To add a loss: write its file, and its variant in [`LossConfig`].
//!
//! ```
//! use losses::{AdvantageConfig, AdvantageInputs, Estimator};
//!
//! // Two prompts with two responses of one token each: (R - μ) / (σ + ε) within each group.
//! let found = AdvantageConfig::default().advantages(&AdvantageInputs {
//!     token_rewards: &[1.0, 0.0, 1.0, 1.0],
//!     mask: &[1.0; 4],
//!     groups: &[0, 0, 1, 1],
//!     values: None,
//!     greedy_rewards: None,
//! })?;
//! assert!((found.advantages[0] - 0.5_f64.sqrt()).abs() < 1e-5);
//! assert_eq!(found.advantages[2..], [0.0, 0.0]);
//! # Ok::<(), losses::LossError>(())
//! ```

mod advantages;
mod aggregation;
mod config;
mod controller;
mod error;
mod inputs;
mod kl;
mod lints;
mod objective;
mod policy_loss;
pub mod replay;
mod rollout_correction;
mod stats;
mod value_loss;

pub use advantages::{
    AdvantageConfig, AdvantageInputs, Advantages, DrGrpo, Estimator, Gae, Grpo, GrpoScale, Opo,
    PassAtK, ReinforcePlusPlus, ReinforcePlusPlusBaseline, Remax, Rloo,
};
pub use aggregation::{Aggregation, Denominator, aggregate};
pub use config::{LossConfig, ObjectiveConfig};
pub use controller::{
    AdaptiveEntropy, BudgetLever, ClipCovControl, CovPenalty, EntropyBonus, EntropyBudget,
    EntropyControl, EntropyRatioClip, KlCovControl, Selection, SelectionKey, SelectionScope,
    SelectionStats, SelectionView, ShapedAdvantage, TopEntropy,
};
pub use error::LossError;
pub use inputs::{LossInputs, LossOutput, OptionalInputs};
pub use kl::{KlClamp, KlEstimator, KlPlace, ReferenceKl, kl_estimate};
pub use lints::LintContext;
pub use objective::{PolicyObjective, SelectedTokens, Selections};
pub use policy_loss::{
    CeGppo, Cispo, ClipCov, Gmpo, Granularity, Gspo, KlCov, PerToken, PolicyLoss, PolicyTerms,
    PpoClip, Reinforce, Sapo, importance_weighted,
};
pub use rollout_correction::{CorrectionLevel, CorrectionMode, RolloutCorrection};
pub use stats::{LossStats, LossSums};
pub use value_loss::ValueLoss;
