//! Whether two answers are the same.

use num_bigint::BigInt;
use num_traits::{Pow, Signed};

use super::VerdictReason;
use super::list::List;
use super::normalize::normalize;
use super::number::{Number, NumberError, Rational, parse_number};

/// An answer longer than this is compared as it stands only.
const MAX_ANSWER_BYTES: usize = 16 << 10;
/// A decimal with fewer places than this must be exact: 0.33 is not 1/3.
const LEAST_ROUNDED_PLACES: u32 = 6;

/// Compares two answers: by normalised text, then as exact numbers, then element by element.
pub(super) fn compare(gold: &str, pred: &str, max_bits: u64) -> VerdictReason {
    if gold.trim() == pred.trim() {
        return VerdictReason::SameText;
    }
    if gold.len().max(pred.len()) > MAX_ANSWER_BYTES {
        return VerdictReason::UndecidedTooLong;
    }
    let (gold, pred) = (normalize(gold), normalize(pred));
    let whole = compare_normalized(&gold, &pred, max_bits);
    match whole {
        VerdictReason::DifferentText if equal_elements(&gold, &pred, max_bits) => {
            VerdictReason::EqualElements
        }
        _ => whole,
    }
}

fn compare_normalized(gold: &str, pred: &str, max_bits: u64) -> VerdictReason {
    if gold == pred && !gold.is_empty() {
        return VerdictReason::SameText;
    }
    match (parse_number(gold, max_bits), parse_number(pred, max_bits)) {
        (Ok(gold), Ok(pred)) => compare_numbers(&gold, &pred),
        (Err(NumberError::TooLarge), Ok(_) | Err(NumberError::TooLarge))
        | (Ok(_), Err(NumberError::TooLarge)) => VerdictReason::UndecidedNumberTooLarge,
        _ => VerdictReason::DifferentText,
    }
}

fn compare_numbers(gold: &Number, pred: &Number) -> VerdictReason {
    if gold.value == pred.value || equal_as_percentage(gold, pred) {
        VerdictReason::EqualNumber
    } else if rounds_to(gold, pred) || rounds_to(pred, gold) {
        VerdictReason::RoundedNumber
    } else {
        VerdictReason::DifferentNumber
    }
}

/// 65 % is 0.65; without its sign, 65 is taken for it too.
fn equal_as_percentage(gold: &Number, pred: &Number) -> bool {
    let hundredth = |number: &Number| &number.value / BigInt::from(100);
    match (gold.percent, pred.percent) {
        (true, false) => hundredth(gold) == pred.value,
        (false, true) => gold.value == hundredth(pred),
        _ => false,
    }
}

/// Whether an exact number rounds to a decimal of many places.
fn rounds_to(exact: &Number, decimal: &Number) -> bool {
    if exact.places.is_some() || exact.percent != decimal.percent {
        return false;
    }
    decimal.places.is_some_and(|places| {
        let unit = Rational::new(BigInt::from(1), BigInt::from(10).pow(places));
        let distance = (&exact.value - &decimal.value).abs();
        places >= LEAST_ROUNDED_PLACES && distance * BigInt::from(2) <= unit
    })
}

fn equal_elements(gold: &str, pred: &str, max_bits: u64) -> bool {
    let (Some(gold), Some(pred)) = (List::parse(gold), List::parse(pred)) else {
        return false;
    };
    gold.matches(&pred, |one, other| {
        compare_normalized(one, other, max_bits).is_correct()
    })
}

#[cfg(test)]
mod tests {
    use super::super::DEFAULT_MAX_BITS;
    use super::VerdictReason::*;
    use super::*;

    #[track_caller]
    fn check(gold: &str, pred: &str, reason: VerdictReason) {
        assert_eq!(
            compare(gold, pred, DEFAULT_MAX_BITS),
            reason,
            "{gold} against {pred}"
        );
    }

    #[test]
    fn texts_are_normalised() {
        check("$12$", "12", SameText);
        check(r"\dfrac{1}{x}", r"\frac{1}{x}", SameText);
        check(
            r"\left( 3, \frac{\pi}{2} \right)",
            r"(3,\frac{\pi}{2})",
            SameText,
        );
        check(r"12 - 4 \sqrt{2}", r"12 - 4 \sqrt {2}", SameText);
        check(r"1+\sqrt5", r"1+\sqrt{5}", SameText);
        check(r"\text{Evelyn}", "evelyn", SameText);
        check(r"\text{(E)}", "E", SameText);
        check("x = 5", "5", SameText);
        check(r"\frac12", r"\frac{1}{2}", SameText);
        check(r"60^\circ", "60°", SameText);
        check(r"(-\infty,4)", r"[-\infty, 4)", SameText);
        check("x^2+1", "x^2+2", DifferentText);
        check("5", "x", DifferentText);
        check("", "", SameText);
        check("", ".", DifferentText);
    }

    #[test]
    fn numbers_are_exact() {
        check("1112", "1,112", EqualNumber);
        check(r"12,\!000,\!085", "12000085", EqualNumber);
        check(r"\frac{8}{3}", "8/3", EqualNumber);
        check(r"\frac{1}{8}", r"\dfrac{2}{16}", EqualNumber);
        check(r"-\frac{1}{2}", "-0.5", EqualNumber);
        check(r"\frac{-1}{2}", "-.5", EqualNumber);
        check("024", "24", EqualNumber);
        check(r"\$0.50", "0.5", EqualNumber);
        check("18 dollars", "18.0", EqualNumber);
        check(r"188\text{ units}", "188.", SameText);
        check("3 1/2", "3.5", EqualNumber);
        check(r"3\frac{1}{2}", "7/2", EqualNumber);
        check(r"4.5 \times 10^{33}", "4.5e33", EqualNumber);
        check("1 000 000", "1000000", EqualNumber);
        check("9007199254740993", "9007199254740992", DifferentNumber);
        check("0.1", "0.10000000000000001", DifferentNumber);
        check("3 1", "31", DifferentText);
    }

    #[test]
    fn long_decimals_may_be_rounded() {
        check(r"\frac{13}{6}", "2.1666666667", RoundedNumber);
        check("0.333333", "1/3", RoundedNumber);
        check("1/3", "0.33333", DifferentNumber);
        check("1/3", "0.333334", DifferentNumber);
        check("3", "3.0000001", DifferentNumber);
    }

    #[test]
    fn percentages_equal_their_fractions() {
        check(r"65\%", "0.65", EqualNumber);
        check(r"65\%", "65", EqualNumber);
        check("0.65", "65%", EqualNumber);
        check(r"65\%", "65%", SameText);
        check(r"65\%", "6.5%", DifferentNumber);
    }

    #[test]
    fn large_numbers_are_undecided() {
        let digits = "7".repeat(1234);
        check(&digits, "7", UndecidedNumberTooLarge);
        check("7", "1e999999999", UndecidedNumberTooLarge);
        check("7", "1e-999999999", UndecidedNumberTooLarge);
        check(&digits, &format!("${digits}$"), SameText);
        check("x", &digits, DifferentText);
        check("7", &"7".repeat(20_000), UndecidedTooLong);
    }

    #[test]
    fn elements_are_compared_one_by_one() {
        check(r"(1, \frac{1}{2})", "(1.0, 0.5)", EqualElements);
        check("(1,2)", "(2,1)", DifferentText);
        check("(1,2)", "[1,2]", DifferentText);
        check("1, 2", "2, 1", EqualElements);
        check(r"1 \text{ and } 2", "1,2", SameText);
        check(r"\{1,2\}", r"\{2,1.0\}", EqualElements);
        check("1, 1, 2", "1, 2, 2", DifferentText);
        check("1, 2", "1, 2, 3", DifferentText);
        check("(1,(2,3))", "(1,(2,3.0))", DifferentText);
    }
}
