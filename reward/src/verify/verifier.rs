//! From a response to a verdict.

use std::borrow::Cow;

use super::compare::{compare, is_readable};
use super::{Verdict, VerdictReason};
use crate::extract::gold_formulas;
use crate::{Extraction, ExtractionRule, extract_answer, extract_by_rule};

/// The largest number that is computed with, in bits: 1,233 decimal digits.
pub const DEFAULT_MAX_BITS: u64 = 4096;

/// Verifies responses against gold answers, natively and within a fixed budget of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verifier {
    /// The one rule that an answer must be found by; `None` tries them all.
    pub required_rule: Option<ExtractionRule>,
    /// The largest number that is computed with, in bits.
    pub max_bits: u64,
}

impl Default for Verifier {
    fn default() -> Self {
        Self {
            required_rule: None,
            max_bits: DEFAULT_MAX_BITS,
        }
    }
}

impl Verifier {
    /// Finds the response's answer and compares it with the gold one.
    pub fn verify(&self, gold: &str, response: &str) -> Verdict {
        let gold = gold_answer(gold);
        let Some(found) = self.extract(response) else {
            return Verdict {
                correct: false,
                gold_answer: without_dollars(&gold).to_owned(),
                pred_answer: None,
                rule: None,
                gold_form: None,
                pred_form: None,
                reason: VerdictReason::NoAnswer,
            };
        };
        let comparison = compare(&gold, &found.text, self.max_bits);
        Verdict {
            correct: comparison.reason.is_correct(),
            gold_answer: without_dollars(&gold).to_owned(),
            pred_answer: Some(without_dollars(&found.text).to_owned()),
            rule: Some(found.rule),
            gold_form: comparison.gold.map(|form| form.to_string()),
            pred_form: comparison.pred.map(|form| form.to_string()),
            reason: comparison.reason,
        }
    }

    fn extract<'a>(&self, response: &'a str) -> Option<Extraction<'a>> {
        match self.required_rule {
            Some(rule) => extract_by_rule(rule, response),
            None => extract_answer(response),
        }
    }
}

/// [`Verifier::verify`] with the default settings.
pub fn verify(gold: &str, response: &str) -> Verdict {
    Verifier::default().verify(gold, response)
}

/// Whether a gold answer can be compared by more than its letters; one that cannot makes every other spelling wrong.
pub fn gold_is_readable(gold: &str) -> bool {
    is_readable(&gold_answer(gold), DEFAULT_MAX_BITS)
}

/// Gold answers may be whole solutions, whose last box or hashes hold the answer, or prose with formulas.
fn gold_answer(gold: &str) -> Cow<'_, str> {
    let marked = [ExtractionRule::Boxed, ExtractionRule::Hashes]
        .into_iter()
        .find_map(|rule| extract_by_rule(rule, gold));
    match marked {
        Some(found) => found.text,
        None => gold_formulas(gold).unwrap_or(Cow::Borrowed(gold.trim())),
    }
}

fn without_dollars(text: &str) -> &str {
    let inner = text
        .strip_prefix('$')
        .and_then(|rest| rest.strip_suffix('$'));
    inner
        .filter(|inner| !inner.contains('$'))
        .unwrap_or(text)
        .trim()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn verdicts_say_what_was_compared() {
        let verdict = verify("$12$", r"So it is \boxed{12.0}.");
        assert!(verdict.correct);
        assert_eq!(verdict.gold_answer, "12");
        assert_eq!(verdict.pred_answer.as_deref(), Some("12.0"));
        assert_eq!(verdict.rule, Some(ExtractionRule::Boxed));
        assert_eq!(
            serde_json::to_string(&verdict).unwrap(),
            concat!(
                r#"{"correct":true,"gold_answer":"12","pred_answer":"12.0","#,
                r#""rule":"boxed","gold_form":"12","pred_form":"decimal(12)","reason":"equal_number"}"#,
            )
        );
        let verdict = verify("5", "no idea at all");
        assert_eq!(
            (verdict.correct, verdict.reason),
            (false, VerdictReason::NoAnswer)
        );
        assert_eq!(verdict.pred_answer, None);
    }

    #[test]
    fn gold_may_be_a_solution() {
        assert!(verify("3+4=7\n#### 7", "The answer is 7.").correct);
        assert!(verify(r"so $\boxed{7}$", "7").correct);
    }

    #[test]
    fn words_are_no_products_of_their_letters() {
        for (gold, right, wrong) in [
            ("listen", "listen", "silent"),
            ("$listen$", "Listen.", "silent"),
            ("Paris", r"\text{paris}", "pairs"),
            ("triangle", "Triangle", "integral"),
            ("New York", "new york", "York New"),
        ] {
            assert!(
                verify(gold, &format!(r"\boxed{{{right}}}")).correct,
                "{right}"
            );
            let verdict = verify(gold, &format!(r"\boxed{{{wrong}}}"));
            assert_eq!(
                (verdict.correct, verdict.reason),
                (false, VerdictReason::DifferentWords),
                "{wrong}"
            );
        }
        // Products of variables, segments and choices may be turned round.
        for (gold, pred) in [
            ("ab", "ba"),
            ("AC", "CA"),
            ("BCD", "CDB"),
            ("mgh", "U=mgh"),
            ("nRT", "RTn"),
            ("abcd", "V=abcd"),
            ("abcd", r"\frac{abcd}{1}"),
            ("2abc", "2cab"),
            ("$a b c$", "cba"),
        ] {
            assert!(
                verify(gold, &format!(r"\boxed{{{pred}}}")).correct,
                "{gold} {pred}"
            );
        }
    }

    #[test]
    fn a_required_rule_takes_no_other() {
        let verifier = Verifier {
            required_rule: Some(ExtractionRule::Hashes),
            ..Verifier::default()
        };
        assert!(verifier.verify("7", "3+4=7\n#### 7").correct);
        assert_eq!(
            verifier.verify("7", "3+4=7").reason,
            VerdictReason::NoAnswer
        );
    }

    #[test]
    fn reasons_serialise_as_their_names() {
        for &reason in VerdictReason::ALL {
            let quoted = format!("\"{}\"", reason.as_str());
            assert_eq!(serde_json::to_string(&reason).unwrap(), quoted);
            assert!(!(reason.is_correct() && reason.is_undecided()));
        }
    }

    #[test]
    fn hostile_answers_end_quickly() {
        let start = std::time::Instant::now();
        for hostile in [
            "9".repeat(1_000_000),
            "1e-999999999".into(),
            "10^10^10".into(),
            "9^9^9^9".into(),
            "2**30**5".into(),
            format!("{}1", "\\frac{".repeat(100_000)),
            "(".repeat(100_000),
            "\\text{".repeat(2_000),
            "$".repeat(16_000),
            "1,".repeat(8_000),
            "{,}".repeat(5_000),
            "١٢٣".into(),
            "\u{202e}12".into(),
            "1/0".into(),
        ] {
            assert!(!verify("5", &hostile).correct);
            assert!(!verify("5", &format!("\\boxed{{{hostile}}}")).correct);
            assert!(!verify(&hostile, "5").correct);
        }
        // Linear work takes milliseconds; the rest is room for a loaded machine.
        assert!(start.elapsed().as_secs() < 10);
    }

    proptest! {
        #[test]
        fn never_panics(gold in "\\PC{0,60}", response in "\\PC{0,120}") {
            let _ = verify(&gold, &response);
        }

        #[test]
        fn never_panics_on_fragments(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "\\frac", "{", "}", "1", "23", "/", ",", ".", "-", "+", " ", "%", "\\%", "\\$",
                    "$", "\\text", "x", "=", "e", "E9", "\\times", "10", "^", "(", ")", "[", "]",
                    "\\{", "\\}", "\\left", "\\!", "\\", "π", "°", "units", "\\sqrt", "{,}", "0",
                ]),
                0..24,
            ),
            gold in prop::sample::select(vec!["5", "\\frac{1}{2}", "(1,2)", "x=3", "12\\%"]),
        ) {
            let text = pieces.concat();
            let forward = verify(gold, &format!("\\boxed{{{text}}}"));
            prop_assert_eq!(forward.correct, forward.reason.is_correct());
            let _ = verify(&text, gold);
        }

        #[test]
        fn integers_equal_themselves_in_every_form(number in any::<i64>()) {
            let gold = number.to_string();
            for form in [
                format!("{number}"),
                format!("\\boxed{{{number}}}"),
                format!("\\boxed{{{number}.0}}"),
                format!("#### {number}"),
                format!("The answer is ${number}$."),
                format!("\\boxed{{{}}}", with_separators(number)),
            ] {
                let verdict = verify(&gold, &form);
                prop_assert!(verdict.correct, "{} {:?}", form, verdict);
            }
        }

        #[test]
        fn integers_differ_from_others(number in any::<i32>(), other in any::<i32>()) {
            prop_assume!(number != other);
            let verdict = verify(&number.to_string(), &format!("\\boxed{{{other}}}"));
            prop_assert_eq!(verdict.reason, VerdictReason::DifferentNumber);
        }

        #[test]
        fn fractions_equal_themselves_unreduced(
            numerator in -1000_i64..1000, denominator in 1_i64..1000, factor in 1_i64..50,
        ) {
            let gold = format!("\\frac{{{numerator}}}{{{denominator}}}");
            let (above, below) = (numerator * factor, denominator * factor);
            let scaled = format!("\\boxed{{\\dfrac{{{above}}}{{{below}}}}}");
            prop_assert!(verify(&gold, &scaled).correct);
            let slashed = format!("{above}/{below}");
            prop_assert!(verify(&gold, &slashed).correct);
        }
    }

    fn with_separators(number: i64) -> String {
        let digits = number.unsigned_abs().to_string();
        let mut text = String::from(if number < 0 { "-" } else { "" });
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    }
}
