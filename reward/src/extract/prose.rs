//! Rules that read sentences.

use std::{borrow::Cow, sync::LazyLock};

use regex::Regex;

use super::spans::{Span, group, spans};

/// Answers stand at a response's end: these rules look no further back.
const TAIL_BYTES: usize = 64 << 10;
/// A response longer than this is no bare answer.
const MAX_BARE_BYTES: usize = 1024;
/// A sentence of more words is prose around an answer.
const MAX_ANSWER_WORDS: usize = 4;
/// Words that belong to mathematics.
const MATH_WORDS: [&str; 10] = [
    "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "and", "or",
];

static PHRASE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\banswers?[*_\s]*(?:(?:is|are)\b|[:=])[*_\s:]*").expect("a valid pattern")
});
static WORDED: LazyLock<Regex> = LazyLock::new(|| {
    let command = r"begin|end|text[a-z]*|mbox|mathrm|mathbf|operatorname";
    let columns = r"(?:\{[clr|]*\})?";
    Regex::new(&format!(r"\\(?:{command})\s*\{{[^{{}}]*\}}{columns}")).expect("a valid pattern")
});
static FINAL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)final answer[^\n]{0,100}?\bis\b:?[*_\s:]*").expect("a valid pattern")
});
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    let integer = r"(?:[0-9]{1,3}(?:,[0-9]{3})+\b|[0-9]+)";
    let decimal = format!(r"(?:{integer}(?:\.[0-9]+)?|\.[0-9]+)");
    let exponent = r"(?:[eE][+-]?[0-9]+\b)?";
    let fraction = r"\\[dt]?frac\{-?[0-9]+\}\{[0-9]+\}";
    let pattern = format!(r"(?:{fraction}|{decimal}(?:/[0-9]+|{exponent}))(?:\\?%)?");
    Regex::new(&pattern).expect("a valid pattern")
});

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// What the last "the answer is" or "answer:" is followed by: its formulas, an expression, or the sentence.
pub(super) fn after_phrase(text: &str) -> Option<Cow<'_, str>> {
    let text = tail(text);
    let phrase = PHRASE.find_iter(text).last()?;
    Some(of_sentence(first_sentence(&text[phrase.end()..])))
}

/// What "the final answer (…) is" is followed by, where it ends, and whether "I hope" follows: the form that a common
/// set of few-shot examples teaches, which nothing else overrules.
pub(super) fn final_answer(text: &str) -> Option<(Cow<'_, str>, usize, bool)> {
    let text_tail = tail(text);
    let offset = text.len() - text_tail.len();
    let phrase = FINAL.find_iter(text_tail).last()?;
    let rest = &text_tail[phrase.end()..];
    let sentence = first_sentence(rest);
    // "I hope it is correct" names no answer.
    if sentence.trim().is_empty() || sentence.starts_with("correct") {
        return None;
    }
    let after = rest[sentence.len()..]
        .trim_start_matches(|c: char| ".,;*_\"".contains(c) || c.is_whitespace());
    let is_hoped = after.starts_with("I hope");
    Some((
        of_sentence(sentence),
        offset + phrase.end() + sentence.len(),
        is_hoped,
    ))
}

fn first_sentence(text: &str) -> &str {
    let text = text.trim_start_matches(['\n', ' ']);
    let line = match text.find('\n') {
        // A displayed formula goes on over lines.
        Some(_) if text.starts_with("\\[") || text.starts_with("$$") => text,
        Some(end) => &text[..end],
        None => text,
    };
    let end = sentence_end(line);
    line[..end].trim_end_matches(|last: char| ".,;*_\"".contains(last) || last.is_whitespace())
}

/// Where a full stop ends the sentence, outside of formulas.
fn sentence_end(line: &str) -> usize {
    let formulas = spans(line);
    let stops = line.match_indices(". ").map(|(place, _)| place);
    let is_outside = |place: &usize| {
        !formulas
            .iter()
            .any(|span| (span.start..span.end).contains(place))
    };
    let first = { stops }.find(is_outside);
    first.unwrap_or(line.len())
}

/// The formulas that a sentence has first, or the sentence, where it is an expression or a few words, or its number.
fn of_sentence(sentence: &str) -> Cow<'_, str> {
    let formulas = spans(sentence);
    let group = group(sentence, &formulas, false);
    if let [first, ..] = group {
        if group.len() > 1 {
            return Cow::Owned(joined(group));
        }
        let end = first.end + percent_bytes(&sentence[first.end..]);
        return Cow::Borrowed(&sentence[first.start..end]);
    }
    let words = sentence.split_whitespace().count();
    if is_expression(sentence) || words <= MAX_ANSWER_WORDS {
        return Cow::Borrowed(sentence);
    }
    let number = numbers(sentence)
        .next()
        .map(|number| signed(sentence, &number));
    Cow::Borrowed(number.unwrap_or(sentence))
}

/// The formulas of a gold answer, where it is written as prose with formulas; `None` where it has none.
pub(crate) fn gold_formulas(text: &str) -> Option<Cow<'_, str>> {
    let (formulas, _) = last_formulas(text)?;
    Some(formulas)
}

/// How long a percent sign that follows is, with the blanks before it.
fn percent_bytes(after: &str) -> usize {
    let trimmed = after.trim_start();
    let blanks = after.len() - trimmed.len();
    let signs = ["\\%", "%", "percentage", "percent", "pct"];
    let sign = signs.iter().find(|sign| trimmed.starts_with(**sign));
    sign.map_or(0, |sign| blanks + sign.len())
}

fn joined(spans: &[Span<'_>]) -> String {
    // A sentence's commas and full stops often stand inside of its formulas.
    let inner = spans
        .iter()
        .map(|span| span.inner.trim_end_matches(['.', ',', ';', ' ']));
    inner.collect::<Vec<_>>().join(", ")
}

/// The whole text, where it is one line that is an expression or a single word.
pub(super) fn bare(text: &str) -> Option<&str> {
    let text = text.trim();
    // A box that another rule found nothing in is no answer either.
    let has_box = text.contains(r"\boxed") || text.contains(r"\fbox");
    if text.len() > MAX_BARE_BYTES || text.contains('\n') || has_box {
        return None;
    }
    let one_word = text.chars().all(char::is_alphabetic);
    (one_word || is_expression(text)).then_some(text)
}

/// The last formulas of the text and its last number, whichever stands later; and which of them it is.
pub(super) fn last_figure(text: &str) -> Option<(Cow<'_, str>, bool)> {
    let text = tail(text);
    let formulas = last_formulas(text);
    let number = numbers(text).last();
    match (formulas, number) {
        (Some((_, end)), Some(number)) if number.start() >= end => {
            Some((Cow::Borrowed(signed(text, &number)), false))
        }
        (Some((formulas, _)), _) => Some((formulas, true)),
        (None, Some(number)) => Some((Cow::Borrowed(signed(text, &number)), false)),
        (None, None) => None,
    }
}

/// The last formulas that are expressions rather than the text between two prices, and where they end.
fn last_formulas(text: &str) -> Option<(Cow<'_, str>, usize)> {
    let mut formulas = spans(text);
    let is_word = |text: &str| text.chars().all(char::is_alphabetic);
    let is_formula = |text: &str| is_word(text) || has_no_prose(text, is_word_in_formula);
    while formulas.last().is_some_and(|span| !is_formula(span.inner)) {
        formulas.pop();
    }
    let group = group(text, &formulas, true);
    let last = group.last()?;
    if group.len() > 1 {
        return Some((Cow::Owned(joined(group)), last.end));
    }
    let end = last.end + percent_bytes(&text[last.end..]);
    Some((Cow::Borrowed(&text[last.start..end]), end))
}

/// The numbers of a text; digits after a letter are part of a name.
fn numbers(text: &str) -> impl Iterator<Item = regex::Match<'_>> {
    let is_name = |number: &regex::Match<'_>| text[..number.start()].ends_with(char::is_alphabetic);
    NUMBER
        .find_iter(text)
        .filter(move |number| !is_name(number))
}

/// A number with its sign, where one precedes it.
fn signed<'a>(text: &'a str, number: &regex::Match<'a>) -> &'a str {
    let start = if is_signed(&text[..number.start()]) {
        number.start() - 1
    } else {
        number.start()
    };
    &text[start..number.end()]
}

/// Whether a minus sign ends the text and is a sign, not a subtraction or a hyphen.
fn is_signed(before: &str) -> bool {
    before.strip_suffix('-').is_some_and(|rest| {
        let last = rest.chars().next_back();
        !last.is_some_and(|last| last.is_alphanumeric() || ")}]".contains(last))
    })
}

/// Whether a text holds no words of prose: commands, what is set as text in a formula, single letters and
/// [`MATH_WORDS`] are none.
fn is_expression(text: &str) -> bool {
    has_no_prose(text, is_prose)
}

fn has_no_prose(text: &str, is_prose: fn(&str) -> bool) -> bool {
    let unworded = WORDED.replace_all(text, "1");
    let text = unworded.as_ref();
    let mut word = String::new();
    let mut in_command = false;
    let mut meaningful = false;
    for character in text.chars().chain([' ']) {
        if character.is_alphabetic() {
            word.push(character);
            meaningful = true;
            continue;
        }
        if !in_command && is_prose(&word) {
            return false;
        }
        word.clear();
        in_command = character == '\\';
        meaningful |= character.is_ascii_digit();
    }
    meaningful
}

/// Between delimiters, two letters are a product, and capitals are points: `ax`, `ABCD`.
fn is_word_in_formula(word: &str) -> bool {
    let is_points = word.len() <= 5 && word.chars().all(|letter| letter.is_ascii_uppercase());
    is_prose(word) && word.chars().count() > 2 && !is_points
}

fn is_prose(word: &str) -> bool {
    word.chars().count() > 1 && !MATH_WORDS.contains(&word)
}
