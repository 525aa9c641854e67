//! Verifying an answer against the gold one.

mod compare;
mod verdict;
mod verifier;

pub use compare::are_equivalent;
pub use verdict::{Verdict, VerdictReason};
pub use verifier::{DEFAULT_MAX_BITS, Verifier, gold_is_readable, verify};
