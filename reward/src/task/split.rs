//! Which problems train and which are held out.

use serde::{Deserialize, Serialize};

use super::seed::text_hash;

/// One problem in this many is held out.
const HELD_OUT_ONE_IN: u64 = 10;

/// A part of a task's problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Nine problems in ten.
    Train,
    /// One problem in ten, for validation.
    HeldOut,
}

impl Split {
    /// The split that a problem belongs to, by a hash of its canonical text.
    ///
    /// Problems that differ in the order of their numbers alone have one canonical text, so the
    /// splits are disjoint up to order.
    pub(crate) fn of(canonical: &str) -> Self {
        if text_hash(canonical).is_multiple_of(HELD_OUT_ONE_IN) {
            Self::HeldOut
        } else {
            Self::Train
        }
    }

    /// The name as it stands in problem ids.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOut => "held_out",
        }
    }
}
