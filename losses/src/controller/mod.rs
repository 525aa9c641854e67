//! Entropy controllers: which tokens to hold back, weigh, penalise or favour. One file each.
//!
//! A controller that selects does so on the host, over a whole mini-batch, from plain numbers; what
//! it does to a micro-batch it does on the device, to per-token losses or advantages. None of them
//! repeats a loss's clip.

mod adaptive_entropy;
mod budget;
mod clip_cov;
mod config;
mod entropy_bonus;
mod entropy_ratio;
mod kl_cov;
mod selection;
mod shaped_advantage;
mod top_entropy;

pub(crate) use self::selection::whole_batch;
pub use self::{
    adaptive_entropy::AdaptiveEntropy,
    budget::{BudgetLever, EntropyBudget},
    clip_cov::ClipCovControl,
    config::EntropyControl,
    entropy_bonus::EntropyBonus,
    entropy_ratio::EntropyRatioClip,
    kl_cov::{CovPenalty, KlCovControl},
    selection::{Selection, SelectionKey, SelectionScope, SelectionStats, SelectionView},
    shaped_advantage::ShapedAdvantage,
    top_entropy::TopEntropy,
};
