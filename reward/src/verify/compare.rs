//! Whether two answers are the same.

use crate::math::{Budget, Equality, Expr, Undecided, equal, parse};

use super::VerdictReason;

/// What a comparison found, and how it read the two answers.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) reason: VerdictReason,
    pub(super) gold: Option<Expr>,
    pub(super) pred: Option<Expr>,
}

/// Compares two answers: as they stand, then as mathematics, then by their words.
pub(super) fn compare(gold_text: &str, pred_text: &str, max_bits: u64) -> Comparison {
    let budget = Budget::new(max_bits);
    let mut comparison = Comparison {
        reason: VerdictReason::SameText,
        gold: None,
        pred: None,
    };
    if is_same_text(gold_text, pred_text) {
        return comparison;
    }
    let read = |text: &str| parse(text, &budget);
    let outcome = read(gold_text).and_then(|gold| {
        comparison.gold = gold;
        comparison.pred = read(pred_text)?;
        match (&comparison.gold, &comparison.pred) {
            (Some(gold), Some(pred)) => decide(gold, pred, gold_text, pred_text, &budget),
            _ => Ok(VerdictReason::Unread),
        }
    });
    comparison.reason = outcome.unwrap_or_else(VerdictReason::from);
    comparison
}

fn decide(
    gold: &Expr,
    pred: &Expr,
    gold_text: &str,
    pred_text: &str,
    budget: &Budget,
) -> Result<VerdictReason, Undecided> {
    if let (Some(gold), Some(pred)) = (spelled(gold_text, gold), spelled(pred_text, pred)) {
        return Ok(if gold == pred {
            VerdictReason::EqualWords
        } else {
            VerdictReason::DifferentWords
        });
    }
    let found = equal(gold, pred, budget)?;
    if found.is_equal() {
        return Ok(found.into());
    }
    // 3,14 is a pair to mathematicians and a number to most of the world.
    let decimal =
        |text: &str| decimal_comma(text).and_then(|text| parse(&text, budget).ok().flatten());
    let (gold_decimal, pred_decimal) = (decimal(gold_text), decimal(pred_text));
    if gold_decimal.is_some() != pred_decimal.is_some() {
        let other = equal(
            gold_decimal.as_ref().unwrap_or(gold),
            pred_decimal.as_ref().unwrap_or(pred),
            budget,
        )?;
        if other.is_equal() {
            return Ok(other.into());
        }
    }
    Ok(found.into())
}

/// The letters of words that are read as a product of variables, such as `Paris` or `New York`. What has fewer letters or capitals alone, as
/// `ab`, `mgh` or `AC`, is more likely a product, a segment or some choices, which all may be turned round.
fn spelled(text: &str, read: &Expr) -> Option<String> {
    const LEAST_LETTERS: usize = 4;
    let letters = text.trim_matches(|c: char| c.is_whitespace() || c == '$' || c == '.');
    let is_of_words = letters.chars().all(|c| c.is_alphabetic() || c == ' ');
    let is_word = letters.chars().any(char::is_lowercase);
    let is_product = matches!(read, Expr::Product(_));
    let word = read.as_word()?;
    (is_of_words && is_word && is_product && word.chars().count() >= LEAST_LETTERS).then_some(word)
}

/// A lone number with a comma for its point, as one with a point.
fn decimal_comma(text: &str) -> Option<String> {
    let (whole, places) = text.trim().split_once(',')?;
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = whole.strip_prefix('-').unwrap_or(whole);
    (is_digits(unsigned) && is_digits(places)).then(|| format!("{whole}.{places}"))
}

/// Equal but for white space, dollar signs and a full stop.
fn is_same_text(gold: &str, pred: &str) -> bool {
    let kept = |text: &str| -> String {
        let kept = text.chars().filter(|c| !c.is_whitespace() && *c != '$');
        kept.collect()
    };
    let (gold, pred) = (kept(gold), kept(pred));
    let (gold, pred) = (gold.trim_end_matches('.'), pred.trim_end_matches('.'));
    !gold.is_empty() && gold == pred
}

/// Whether an answer is mathematics that is understood, or words.
pub(super) fn is_readable(text: &str, max_bits: u64) -> bool {
    matches!(parse(text, &Budget::new(max_bits)), Ok(Some(_)))
}

/// Whether two answers are the same, whichever is taken for the gold one.
pub fn are_equivalent(left: &str, right: &str) -> bool {
    let same = |gold, pred| {
        compare(gold, pred, super::DEFAULT_MAX_BITS)
            .reason
            .is_correct()
    };
    same(left, right) || same(right, left)
}

impl From<Equality> for VerdictReason {
    fn from(equality: Equality) -> Self {
        match equality {
            Equality::SameForm => Self::SameForm,
            Equality::EqualNumber => Self::EqualNumber,
            Equality::RoundedNumber => Self::RoundedNumber,
            Equality::EqualExpression => Self::EqualExpression,
            Equality::EqualAtPoints => Self::EqualAtPoints,
            Equality::EqualElements => Self::EqualElements,
            Equality::EqualRelation => Self::EqualRelation,
            Equality::EqualWords => Self::EqualWords,
            Equality::DifferentNumber => Self::DifferentNumber,
            Equality::DifferentExpression => Self::DifferentExpression,
            Equality::DifferentElements => Self::DifferentElements,
            Equality::DifferentRelation => Self::DifferentRelation,
            Equality::DifferentWords => Self::DifferentWords,
        }
    }
}

impl From<Undecided> for VerdictReason {
    fn from(reason: Undecided) -> Self {
        match reason {
            Undecided::TooLong => Self::UndecidedTooLong,
            Undecided::NumberTooLarge => Self::UndecidedNumberTooLarge,
            Undecided::TooMuchWork => Self::UndecidedTooMuchWork,
            Undecided::TooClose => Self::UndecidedTooClose,
        }
    }
}
