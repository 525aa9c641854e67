//! Per-token policy losses, to minimise. One file each.

mod importance;
mod ppo_clip;

use burn::tensor::Tensor;

pub use self::{importance::importance_weighted, ppo_clip::PpoClip};

/// A per-token loss with what its clip did.
#[derive(Debug, Clone)]
pub struct PerToken {
    /// The loss of each token, `[batch, response_len]`.
    pub loss: Tensor<2>,
    /// 1 where the clip removes the gradient, without a graph; `None` where there is no clip.
    pub clipped: Option<Tensor<2>>,
}
