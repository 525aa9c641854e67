//! Verifying an answer against the gold one.

mod compare;
mod verdict;
mod verifier;

pub use compare::is_readable;
pub use verdict::{Verdict, VerdictReason};
pub use verifier::{DEFAULT_MAX_BITS, Verifier, verify};
