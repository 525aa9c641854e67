//! REINFORCE, the plain policy gradient.

use serde::{Deserialize, Serialize};

use super::{PerToken, PolicyLoss, PolicyTerms};
use crate::LossError;

/// `l = -A·log π`: the policy gradient itself, without a ratio, for one update per rollout.
///
/// # References
/// Williams, "Simple Statistical Gradient-Following Algorithms" (1992); GPG, arXiv 2504.02546,
/// whose loss is the same (verl's `gpg`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reinforce {}

impl PolicyLoss for Reinforce {
    fn validate(&self) -> Result<(), LossError> {
        Ok(())
    }

    fn per_token(&self, terms: &PolicyTerms) -> PerToken {
        PerToken {
            loss: -(terms.log_probs.clone() * terms.advantages.clone()),
            clipped: None,
        }
    }
}
