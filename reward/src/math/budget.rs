//! What a comparison may cost: counted work instead of a clock, so that a verdict is the same on every machine.

use std::cell::Cell;

/// Why a comparison was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecided {
    /// A text is longer than is read.
    TooLong,
    /// A number has more digits than are computed with.
    NumberTooLarge,
    /// The work was more than is done for one answer.
    TooMuchWork,
    /// The figures lie too close together to tell.
    TooClose,
}

/// The longest answer that is read, in bytes.
pub(crate) const MAX_ANSWER_BYTES: usize = 16 << 10;
/// How deep expressions may nest.
pub(super) const MAX_DEPTH: usize = 160;
/// Steps of one comparison. A step is about a microsecond's work: a node read, a term added, a value computed.
const MAX_STEPS: u64 = 30_000;

/// What is left for one comparison.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: Cell<u64>,
    /// The largest number that is computed with, in bits.
    pub(super) max_bits: u64,
}

impl Budget {
    /// A budget with numbers of at most `max_bits` bits.
    pub(crate) fn new(max_bits: u64) -> Self {
        Self {
            steps: Cell::new(MAX_STEPS),
            max_bits,
        }
    }

    /// Takes the steps of an operation on rational numbers of so many bits, whose reduction is quadratic in them.
    pub(super) fn spend_on_bits(&self, bits: u64) -> Result<(), Undecided> {
        let words = bits / 64;
        self.spend(1 + words * words / 10)
    }

    /// Takes steps from what is left.
    pub(super) fn spend(&self, steps: u64) -> Result<(), Undecided> {
        let left = self.steps.get().checked_sub(steps);
        self.steps.set(left.unwrap_or(0));
        left.map(drop).ok_or(Undecided::TooMuchWork)
    }
}
