//! Comparing a response's answer with the gold one.

mod compare;
mod list;
mod normalize;
mod number;
mod verdict;
mod verifier;

pub use verdict::{Verdict, VerdictReason};
pub use verifier::{DEFAULT_MAX_BITS, Verifier, verify};
