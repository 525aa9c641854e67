//! What a verification found, and why.

use serde::{Deserialize, Serialize};

use crate::ExtractionRule;

/// Why an answer was found right, wrong or undecidable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VerdictReason {
    /// The texts are equal after normalisation.
    SameText,
    /// The numbers are equal exactly.
    EqualNumber,
    /// One is a decimal of six places or more, and the other rounds to it.
    RoundedNumber,
    /// Two lists, tuples or sets agree element by element.
    EqualElements,
    /// Both are numbers, and they differ.
    DifferentNumber,
    /// The texts differ, and neither numbers nor elements make them equal.
    DifferentText,
    /// The response holds no answer.
    NoAnswer,
    /// A number has more digits than the verifier computes with.
    UndecidedNumberTooLarge,
    /// An answer is longer than the verifier reads.
    UndecidedTooLong,
}

impl VerdictReason {
    /// Whether the reason is one for a right answer.
    pub fn is_correct(self) -> bool {
        matches!(
            self,
            Self::SameText | Self::EqualNumber | Self::RoundedNumber | Self::EqualElements
        )
    }

    /// Whether the work budget ended before a decision.
    pub fn is_undecided(self) -> bool {
        matches!(self, Self::UndecidedNumberTooLarge | Self::UndecidedTooLong)
    }

    /// The reason as it is serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SameText => "same_text",
            Self::EqualNumber => "equal_number",
            Self::RoundedNumber => "rounded_number",
            Self::EqualElements => "equal_elements",
            Self::DifferentNumber => "different_number",
            Self::DifferentText => "different_text",
            Self::NoAnswer => "no_answer",
            Self::UndecidedNumberTooLarge => "undecided_number_too_large",
            Self::UndecidedTooLong => "undecided_too_long",
        }
    }
}

/// The outcome of one verification. An undecided answer counts as wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the answer is right.
    pub correct: bool,
    /// The gold answer that was compared, without its wrapping.
    pub gold_answer: String,
    /// The answer found in the response.
    pub pred_answer: Option<String>,
    /// The rule that found it.
    pub rule: Option<ExtractionRule>,
    /// Why.
    pub reason: VerdictReason,
}
