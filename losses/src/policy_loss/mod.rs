//! Per-token policy losses, to minimise. One file each.

mod ce_gppo;
mod cispo;
mod clip_cov;
mod gmpo;
mod gspo;
mod importance;
mod kl_cov;
mod ppo_clip;
mod reinforce;
mod sapo;

use std::fmt::Debug;

use burn::tensor::Tensor;

pub use self::{
    ce_gppo::CeGppo, cispo::Cispo, clip_cov::ClipCov, gmpo::Gmpo, gspo::Gspo,
    importance::importance_weighted, kl_cov::KlCov, ppo_clip::PpoClip, reinforce::Reinforce,
    sapo::Sapo,
};
use crate::{Aggregation, ClipCovControl, KlCovControl, LossError};

/// What a per-token loss reads. All tensors are `[batch, response_len]`, 0 at padding; a row is a
/// whole response.
#[derive(Debug, Clone)]
pub struct PolicyTerms {
    /// `log π`, with its graph.
    pub log_probs: Tensor<2>,
    /// `Δ = log π - log π_old`, with its graph.
    pub log_ratio: Tensor<2>,
    /// A, without a graph.
    pub advantages: Tensor<2>,
    /// 1 for a trained token, without a graph.
    pub mask: Tensor<2>,
}

impl PolicyTerms {
    /// Each row's mean over its trained tokens, `[batch, 1]`; 0 where there is none.
    pub fn row_means(&self, values: Tensor<2>) -> Tensor<2> {
        let lengths = self.mask.clone().sum_dim(1).clamp_min(1.0);
        (values * self.mask.clone()).sum_dim(1) / lengths
    }
}

/// A per-token loss with what its clip did.
#[derive(Debug, Clone)]
pub struct PerToken {
    /// The loss of each token, `[batch, response_len]`.
    pub loss: Tensor<2>,
    /// 1 where the clip removes or replaces the gradient, without a graph; `None` where there is
    /// no clip.
    pub clipped: Option<Tensor<2>>,
}

/// Which tokens a loss moves by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Every token has a loss and a gradient of its own.
    Token,
    /// Every token has a gradient of its own, in an objective that is a mean over sequences.
    TokenOfSequence,
    /// A sequence has one loss: no token can be taken out of it.
    Sequence,
}

/// A policy loss: an algorithm's file implements this, and its configuration is the type itself. One that a configuration has
/// no name for goes to [`PolicyObjective::with_loss`](crate::PolicyObjective::with_loss).
pub trait PolicyLoss: Debug + Send + Sync {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    fn validate(&self) -> Result<(), LossError> {
        Ok(())
    }

    /// The loss of each token.
    fn per_token(&self, terms: &PolicyTerms) -> PerToken;

    /// Which tokens it moves by themselves.
    fn granularity(&self) -> Granularity {
        Granularity::Token
    }

    /// The aggregation of its reference.
    fn default_aggregation(&self) -> Aggregation {
        match self.granularity() {
            Granularity::Token => Aggregation::TokenMean,
            _ => Aggregation::SeqMeanTokenMean,
        }
    }

    /// The PPO clip in it, if any: tokens that it clips already are no candidates of Clip-Cov.
    fn clip(&self) -> Option<PpoClip> {
        None
    }

    /// The Clip-Cov selection that belongs to it.
    fn clip_cov(&self) -> Option<ClipCovControl> {
        None
    }

    /// The KL-Cov penalty that belongs to it.
    fn kl_cov(&self) -> Option<KlCovControl> {
        None
    }
}
