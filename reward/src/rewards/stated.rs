//! Answers that are words rather than formulas.

use crate::extract::{after_thinking, last_line};
use crate::{ExtractionRule, extract_by_rule};

/// Commands that wrap words in a formula.
const TEXT_COMMANDS: [&str; 5] = [
    r"\text{",
    r"\textbf{",
    r"\mathrm{",
    r"\mathbf{",
    r"\textit{",
];

/// The answer that a response states: its last box, what follows "the answer is", or its last line
/// without the marks of a heading.
///
/// Unlike [`extract_answer`](crate::extract_answer) it does not look for numbers in prose.
pub(super) fn stated_answer(response: &str) -> Option<String> {
    let marked = [ExtractionRule::Boxed, ExtractionRule::AnswerPhrase]
        .into_iter()
        .find_map(|rule| extract_by_rule(rule, response));
    let text = match marked {
        Some(found) => found.text,
        None => last_line(after_thinking(response))?
            .trim_start_matches('#')
            .into(),
    };
    let text = without_text_command(text.trim()).to_owned();
    (!text.is_empty()).then_some(text)
}

/// The contents of a `\text{…}` that holds the whole answer.
pub(super) fn without_text_command(text: &str) -> &str {
    TEXT_COMMANDS
        .into_iter()
        .find_map(|command| text.strip_prefix(command)?.strip_suffix('}'))
        .filter(|inner| !inner.contains(['{', '}']))
        .map_or(text, str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_boxed_announced_or_last() {
        for (response, expected) in [
            (r"so \boxed{\text{New York}} it is", Some("New York")),
            (r"\boxed{\text{a}\text{b}}", Some(r"\text{a}\text{b}")),
            ("The answer is New York.\nSure.", Some("New York")),
            ("I lived there in 1990.\n\nNew York\n\n", Some("New York")),
            ("#### New York", Some("New York")),
            ("<think>Boston</think>\nNew York", Some("New York")),
            ("<think>Boston</think>\n ", None),
            ("", None),
            ("####", None),
        ] {
            assert_eq!(stated_answer(response).as_deref(), expected, "{response}");
        }
    }
}
