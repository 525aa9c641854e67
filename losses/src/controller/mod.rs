//! Entropy controllers: which tokens to hold back, and how. One file each.
//!
//! A controller selects on the host, over a whole mini-batch, from plain numbers; and acts on the
//! device, on a micro-batch's per-token losses, given its slice of the selection.

mod clip_cov;
mod kl_cov;
mod selection;

pub use self::{
    clip_cov::ClipCov,
    kl_cov::{CovPenalty, KlCov},
    selection::{Selection, SelectionKey, SelectionScope, SelectionStats, SelectionView},
};
