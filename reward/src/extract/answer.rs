//! The rules that find an answer, and their order.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{after_thinking, boxed, line, prose};

/// How an answer was found, the most explicit first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExtractionRule {
    /// What follows "the final answer is".
    FinalAnswer,
    /// The last complete `\boxed{…}` or `\fbox{…}`, and those just before it that are parts of the same answer.
    Boxed,
    /// The last line that begins with `####`, as in GSM8K.
    Hashes,
    /// What follows the last "the answer is" or "answer:".
    AnswerPhrase,
    /// The whole response, being an expression or one word.
    Bare,
    /// The last formula, and those that a comma or a conjunction joins to it.
    MathSpan,
    /// The last number, where no formula follows it.
    LastNumber,
}

impl ExtractionRule {
    /// Every rule, in the order in which they are tried.
    pub const ALL: [Self; 7] = [
        Self::FinalAnswer,
        Self::Boxed,
        Self::Hashes,
        Self::AnswerPhrase,
        Self::Bare,
        Self::MathSpan,
        Self::LastNumber,
    ];
}

/// An answer as it stands in the response; where it has several parts, they are joined by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extraction<'a> {
    /// The answer, trimmed.
    pub text: Cow<'a, str>,
    /// The rule that found it.
    pub rule: ExtractionRule,
}

/// The answer in a response, by the first rule that finds one; of a box and a final answer, the later one.
///
/// Only what follows the last `</think>` counts, where there is one. The time is linear in the
/// response's length.
pub fn extract_answer(response: &str) -> Option<Extraction<'_>> {
    ExtractionRule::ALL
        .into_iter()
        .find_map(|rule| extract_by_rule(rule, response))
}

/// The answer in a response by one rule alone, after the last `</think>` where there is one.
pub fn extract_by_rule(rule: ExtractionRule, response: &str) -> Option<Extraction<'_>> {
    let visible = after_thinking(response);
    let text = match rule {
        ExtractionRule::FinalAnswer => final_answer(visible),
        ExtractionRule::Boxed => boxed(visible),
        ExtractionRule::Hashes => line::after_hashes(visible).map(Cow::Borrowed),
        ExtractionRule::AnswerPhrase => prose::after_phrase(visible),
        ExtractionRule::Bare => prose::bare(visible).map(Cow::Borrowed),
        ExtractionRule::MathSpan => figure(visible, true),
        ExtractionRule::LastNumber => figure(visible, false),
    };
    let trimmed = |text| match text {
        Cow::Borrowed(text) => Cow::Borrowed(str::trim(text)),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    };
    text.map(trimmed)
        .filter(|text| !text.is_empty())
        .map(|text| Extraction { text, rule })
}

/// The final answer, unless a later box overrules it.
fn final_answer(text: &str) -> Option<Cow<'_, str>> {
    let (answer, end, is_hoped) = prose::final_answer(text)?;
    let is_overruled = boxed::last_boxed(text).is_some_and(|(_, boxed_end)| boxed_end > end);
    let has_box = answer.contains("\\boxed") || answer.contains("\\fbox");
    ((is_hoped || !is_overruled) && !has_box).then_some(answer)
}

fn boxed(text: &str) -> Option<Cow<'_, str>> {
    let (contents, end) = boxed::last_boxed(text)?;
    if contents.ends_with('%') || !boxed::is_percentage(text, end) {
        return Some(contents);
    }
    Some(Cow::Owned(format!("{contents}\\%")))
}

fn figure(text: &str, is_formula: bool) -> Option<Cow<'_, str>> {
    let (figure, is_found_formula) = prose::last_figure(text)?;
    (is_found_formula == is_formula).then_some(figure)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ExtractionRule::*;
    use super::*;

    #[track_caller]
    fn finds(response: &str, text: &str, rule: ExtractionRule) {
        assert_eq!(
            extract_answer(response),
            Some(Extraction {
                text: text.into(),
                rule
            }),
            "{response}"
        );
    }

    #[test]
    fn boxes_win() {
        finds(r"The answer is 4, so \boxed{5}. #### 6", "5", Boxed);
        finds(
            r"\boxed{1} and then \fbox{ \frac{1}{2} }",
            r"1, \frac{1}{2}",
            Boxed,
        );
        finds(r"\boxed{\{1, 2\}}", r"\{1, 2\}", Boxed);
        finds(r"\boxed{\boxed{7}}", "7", Boxed);
        finds(r"\boxed{3} but then \boxed{4", "3", Boxed);
        finds(r"{ } } \boxed {x}", "x", Boxed);
        finds(r"so $\boxed 8$ it is", "8", Boxed);
        finds(r"\boxed{\text{a}}}", r"\text{a}", Boxed);
    }

    #[test]
    fn thinking_does_not_count() {
        finds(r"<think>\boxed{1}</think> \boxed{2}", "2", Boxed);
        finds("<think>#### 1</think>\nit is 12", "12", LastNumber);
        assert_eq!(extract_answer(r"<think>\boxed{1}</think>  "), None);
        finds(r"<think>\boxed{1}", "1", Boxed);
    }

    #[test]
    fn hashes_mark_a_line() {
        finds("47+38=85\n#### 85", "85", Hashes);
        finds("#### 1\nno\n  ####-1,072 \nmore", "-1,072", Hashes);
        finds("#### Step 1\nThe answer is 5.", "5", AnswerPhrase);
        finds("##### 3\nso 4", "4", LastNumber);
        finds("####\nso 4", "4", LastNumber);
    }

    #[test]
    fn phrases_name_the_answer() {
        finds(
            "The answer is 18. Because 3 eggs remain.",
            "18",
            AnswerPhrase,
        );
        finds("**Final Answer:** 42", "42", AnswerPhrase);
        finds("The answer is 3.5 dollars.\n", "3.5 dollars", AnswerPhrase);
        finds(
            r"The answer is $\frac{5\pi}{4}$.",
            r"$\frac{5\pi}{4}$",
            AnswerPhrase,
        );
        finds(r"The final answer is: $\$5$ only", r"$\$5$", FinalAnswer);
        finds("the answers are $2$ and $3$.", "2, 3", AnswerPhrase);
        finds("the answer is\n\n7", "7", AnswerPhrase);
        finds("The answer is $5.", "$5", AnswerPhrase);
    }

    #[test]
    fn prose_falls_back_to_spans_and_numbers() {
        finds(r"\frac{1}{2}", r"\frac{1}{2}", Bare);
        finds("Evelyn", "Evelyn", Bare);
        finds("x = 15", "x = 15", Bare);
        finds(r"So $x = \sqrt{3}$", r"$x = \sqrt{3}$", MathSpan);
        finds("so $r(x) = ax + b = 3x$.", "$r(x) = ax + b = 3x$", MathSpan);
        finds("hence $BH = 7.$", "$BH = 7.$", MathSpan);
        finds("thus $x = 3,$ and $y = 4.$", "x = 3, y = 4", MathSpan);
        finds("She has $18 left and 3 eggs", "3", LastNumber);
        finds("Prices went from $5 to $6 for 7 kilograms", "7", LastNumber);
        finds("It went from 12 to -1,234.50.", "-1,234.50", LastNumber);
        finds("Chances rose from 5 to 65% today", "65%", LastNumber);
        finds("That is 9-4 or so", "4", LastNumber);
        finds("Numbers 1,2,3 are there", "3", LastNumber);
        assert_eq!(extract_answer("no idea at all"), None);
        assert_eq!(extract_answer(""), None);
        assert_eq!(extract_answer("\\boxed{}"), None);
    }

    #[test]
    fn hostile_responses_end_quickly() {
        let start = std::time::Instant::now();
        for piece in [
            "\\boxed{",
            "{",
            "}",
            "$",
            "\\",
            "answer ",
            "answer is ",
            "1,",
            "\\frac{1}{",
            "#### ",
            "\\boxed1",
        ] {
            let hostile = piece.repeat(100_000);
            let _ = extract_answer(&hostile);
        }
        let nested = format!("{}5{}", "\\boxed{".repeat(100_000), "}".repeat(100_000));
        finds(&nested, "5", Boxed);
        // Linear work takes milliseconds; quadratic work on a megabyte would take minutes.
        assert!(start.elapsed().as_secs() < 10);
    }

    proptest! {
        #[test]
        fn never_panics(response in "\\PC{0,200}") {
            let _ = extract_answer(&response);
        }

        #[test]
        fn never_panics_on_fragments(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "\\boxed", "\\fbox", "{", "}", "\\", "$", "####", "\n", " ", "answer is", ":",
                    "é", "−", "5", ".", ",", "-", "%", "</think>", "\\frac", "/", "x", "e9", "\\(",
                ]),
                0..40,
            ),
        ) {
            let response = pieces.concat();
            for rule in ExtractionRule::ALL {
                if let Some(found) = extract_by_rule(rule, &response) {
                    let is_joined = matches!(found.text, Cow::Owned(_));
                    prop_assert!(is_joined || response.contains(&*found.text));
                    prop_assert!(!found.text.is_empty());
                }
            }
        }

        #[test]
        fn a_boxed_number_is_found(number in any::<i64>(), before in "[a-z {}$.]{0,30}") {
            let text = number.to_string();
            let response = format!("{before}\\boxed{{{number}}}");
            let found = extract_answer(&response).unwrap();
            prop_assert_eq!(found, Extraction { text: text.into(), rule: Boxed });
        }
    }
}
