//! Advantages, policy losses, entropy controllers and their aggregation.
//!
//! An algorithm is three parts, each in a file of its own:
//!
//! 1. a group-to-advantages function ([`AdvantageConfig::advantages`], in `advantages/`);
//! 2. a per-token loss ([`PpoClip`], [`importance_weighted`], in `policy_loss/`);
//! 3. an entropy controller, which selects tokens and weighs or penalises them but never repeats
//!    the clip ([`ClipCov`], [`KlCov`], in `controller/`).
//!
//! One [`aggregate`] reduces per-token losses to a scalar. [`PolicyObjective`] joins the parts
//! behind two calls, so a trainer does not know which algorithm it runs:
//!
//! ```text
//! select(mini-batch on the host)  → Selection          once per mini-batch, where needed
//! evaluate(micro-batch, …)        → LossOutput {loss, stats}
//! ```
//!
//! To add an algorithm: write its file, add its variant to [`LossConfig`], and one arm to the
//! matches of `objective.rs`.

mod advantages;
mod aggregation;
mod config;
mod controller;
mod error;
mod inputs;
mod kl;
mod objective;
mod policy_loss;
mod stats;

pub use advantages::{AdvantageConfig, DrGrpo, Grpo, GrpoScale, Rloo};
pub use aggregation::{Aggregation, Denominator, aggregate};
pub use config::{LossConfig, ObjectiveConfig};
pub use controller::{
    ClipCov, CovPenalty, KlCov, Selection, SelectionKey, SelectionScope, SelectionStats,
    SelectionView,
};
pub use error::LossError;
pub use inputs::{LossInputs, LossOutput};
pub use kl::{KlClamp, KlEstimator, ReferenceKl, kl_estimate};
pub use objective::PolicyObjective;
pub use policy_loss::{PerToken, PpoClip, importance_weighted};
pub use stats::{LossStats, LossSums};
