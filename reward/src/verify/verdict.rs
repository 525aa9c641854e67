//! What a verification found, and why.

use serde::{Deserialize, Serialize};

use crate::ExtractionRule;

/// Declares the reasons with their names and what they mean, in one place.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $meaning:ident;)*) => {
        /// Why an answer was found right, wrong or undecidable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum VerdictReason {
            $($(#[$doc])* $variant,)*
        }

        impl VerdictReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The reason as it is serialised.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn meaning(self) -> Meaning {
                match self { $(Self::$variant => Meaning::$meaning,)* }
            }
        }
    };
}

/// What a reason says of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Right,
    Wrong,
    Undecided,
}

reasons! {
    /// The texts are equal.
    SameText = "same_text", Right;
    /// The expressions are the same.
    SameForm = "same_form", Right;
    /// The numbers are equal, exactly.
    EqualNumber = "equal_number", Right;
    /// One is a decimal that the other rounds to, in six places.
    RoundedNumber = "rounded_number", Right;
    /// The normal forms are equal: expanded, collected, fractions and roots reduced.
    EqualExpression = "equal_expression", Right;
    /// The values agree, within their error, at every point at which they were computed.
    EqualAtPoints = "equal_at_points", Right;
    /// Lists, tuples, sets, intervals or matrices agree element by element.
    EqualElements = "equal_elements", Right;
    /// Equations or inequalities hold for the same values.
    EqualRelation = "equal_relation", Right;
    /// The words are the same, but for their case and their parentheses.
    EqualWords = "equal_words", Right;
    /// Both are numbers, and they differ.
    DifferentNumber = "different_number", Wrong;
    /// The expressions differ.
    DifferentExpression = "different_expression", Wrong;
    /// An element has no equal, or one answer is a collection and the other is not.
    DifferentElements = "different_elements", Wrong;
    /// The relations hold for different values, or one answer is a relation and the other is not.
    DifferentRelation = "different_relation", Wrong;
    /// The words differ.
    DifferentWords = "different_words", Wrong;
    /// One of the two is no mathematics that is understood, and the texts differ.
    Unread = "unread", Wrong;
    /// The response holds no answer.
    NoAnswer = "no_answer", Wrong;
    /// A number has more digits than the verifier computes with.
    UndecidedNumberTooLarge = "undecided_number_too_large", Undecided;
    /// An answer is longer than the verifier reads.
    UndecidedTooLong = "undecided_too_long", Undecided;
    /// The work was more than the verifier does for one answer.
    UndecidedTooMuchWork = "undecided_too_much_work", Undecided;
    /// The values lie too close together for their error.
    UndecidedTooClose = "undecided_too_close", Undecided;
}

impl VerdictReason {
    /// Whether the reason is one for a right answer.
    pub fn is_correct(self) -> bool {
        self.meaning() == Meaning::Right
    }

    /// Whether the work budget ended before a decision.
    pub fn is_undecided(self) -> bool {
        self.meaning() == Meaning::Undecided
    }
}

/// The outcome of one verification. An undecided answer is not correct.
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
    /// How the gold answer was read; none where the texts decided, or it is no mathematics that is understood.
    pub gold_form: Option<String>,
    /// How the answer was read.
    pub pred_form: Option<String>,
    /// Why.
    pub reason: VerdictReason,
}
