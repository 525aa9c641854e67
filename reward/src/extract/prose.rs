//! Rules that read sentences.

use std::sync::LazyLock;

use regex::Regex;

/// Answers stand at a response's end: these rules look no further back.
const TAIL_BYTES: usize = 64 << 10;
/// A response longer than this is no bare answer.
const MAX_BARE_BYTES: usize = 1024;
/// Words that belong to mathematics.
const MATH_WORDS: [&str; 10] = [
    "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "and", "or",
];

static PHRASE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\banswers?[*_\s]*(?:(?:is|are)\b|[:=])[*_\s:]*").expect("a valid pattern")
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

/// What the last "the answer is" or "answer:" is followed by: a formula, else the sentence.
pub(super) fn after_phrase(text: &str) -> Option<&str> {
    let text = tail(text);
    let phrase = PHRASE.find_iter(text).last()?;
    let sentence = first_sentence(&text[phrase.end()..]);
    Some(lone_formula(sentence).unwrap_or(sentence))
}

fn first_sentence(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    let end = line.find(". ").unwrap_or(line.len());
    line[..end].trim_end_matches(|last: char| ".,;*_".contains(last) || last.is_whitespace())
}

/// The formula that a sentence begins with, where it is the only one.
fn lone_formula(sentence: &str) -> Option<&str> {
    let dollars = dollar_positions(sentence);
    match dollars[..] {
        [0, end] => Some(&sentence[..=end]),
        _ => None,
    }
}

/// Where dollar signs stand that no backslash escapes.
fn dollar_positions(text: &str) -> Vec<usize> {
    let mut escaped = false;
    let mut positions = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'$' && !escaped {
            positions.push(at);
        }
        escaped = byte == b'\\' && !escaped;
    }
    positions
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

/// The last `$…$`, where it holds an expression rather than the text between two prices.
pub(super) fn last_math_span(text: &str) -> Option<&str> {
    let text = tail(text);
    let bytes = text.as_bytes();
    let mut positions = dollar_positions(text);
    let mut end = positions.pop()?;
    // `$$` is one mark.
    while positions.last().is_some_and(|before| before + 1 == end) {
        end = positions.pop()?;
    }
    let start = positions.pop()?;
    debug_assert_eq!(bytes[start], b'$');
    let span = &text[start..=end];
    is_expression(span).then_some(span)
}

/// The last number, with its sign where one precedes it.
pub(super) fn last_number(text: &str) -> Option<&str> {
    let text = tail(text);
    let found = NUMBER.find_iter(text).last()?;
    let before = &text[..found.start()];
    let start = if is_signed(before) {
        found.start() - 1
    } else {
        found.start()
    };
    Some(&text[start..found.end()])
}

/// Whether a minus sign ends the text and is a sign, not a subtraction or a hyphen.
fn is_signed(before: &str) -> bool {
    before.strip_suffix('-').is_some_and(|rest| {
        let last = rest.chars().next_back();
        !last.is_some_and(|last| last.is_alphanumeric() || ")}]".contains(last))
    })
}

/// Whether a text holds no words of prose: commands, single letters and [`MATH_WORDS`] are none.
fn is_expression(text: &str) -> bool {
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

fn is_prose(word: &str) -> bool {
    word.chars().count() > 1 && !MATH_WORDS.contains(&word)
}
