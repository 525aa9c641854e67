//! The letters of a multiple choice.

use serde::{Deserialize, Serialize};

/// The letters that choices are named by, in upper case: `"ABCDE"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Letters(pub String);

impl Default for Letters {
    fn default() -> Self {
        Self("ABCDE".into())
    }
}

impl Letters {
    /// Whether there are two letters or more, each of A to Z and named once.
    pub(super) fn are_usable(&self) -> bool {
        let bytes = self.0.as_bytes();
        let distinct = |(at, letter)| !bytes[..at].contains(letter);
        bytes.len() >= 2
            && bytes.iter().all(u8::is_ascii_uppercase)
            && bytes.iter().enumerate().all(distinct)
    }

    fn contains(&self, letter: u8) -> bool {
        self.0.as_bytes().contains(&letter)
    }

    /// The choice that an answer is or begins with: `B`, `b`, `(B)`, `**B**`, `$B$`, `B. text`,
    /// `B because`, `option B`. Of lower case a letter is taken only where it is all there is.
    pub(super) fn announced(&self, answer: &str) -> Option<char> {
        self.first_where(answer, is_word)
    }

    /// The same, but for an "A" or "I" that begins a phrase: `A text`.
    pub(super) fn leading(&self, answer: &str) -> Option<char> {
        self.first_where(answer, stands_alone)
    }

    fn first_where(&self, answer: &str, holds: fn(&str, usize) -> bool) -> Option<char> {
        let answer = without_noun(answer.trim()).trim_start_matches(is_opening);
        let lone = answer.trim_end_matches(is_closing).to_ascii_uppercase();
        if let [letter] = lone.as_bytes() {
            return self.contains(*letter).then_some(char::from(*letter));
        }
        let first = *answer.as_bytes().first()?;
        (self.contains(first) && holds(answer, 0)).then_some(char::from(first))
    }

    /// The last letter in brackets or in bold: `(B)`, `**B**`, `**B.`, `**(B)`.
    pub(super) fn last_marked(&self, text: &str) -> Option<char> {
        self.last_where(text, |at| is_marked(text, at))
    }

    /// The last letter that is a word of its own.
    pub(super) fn last_alone(&self, text: &str) -> Option<char> {
        self.last_where(text, |at| stands_alone(text, at))
    }

    fn last_where(&self, text: &str, holds: impl Fn(usize) -> bool) -> Option<char> {
        let bytes = text.as_bytes();
        let found = (0..bytes.len()).rfind(|&at| self.contains(bytes[at]) && holds(at));
        found.map(|at| char::from(bytes[at]))
    }
}

fn without_noun(answer: &str) -> &str {
    let nouns = ["option ", "choice ", "Option ", "Choice "];
    nouns
        .into_iter()
        .find_map(|noun| answer.strip_prefix(noun))
        .unwrap_or(answer)
}

fn is_opening(character: char) -> bool {
    "([{*$_ ".contains(character)
}

fn is_closing(character: char) -> bool {
    ")]}*$_ .,:;!".contains(character)
}

/// Whether the byte at `at` is in brackets, or follows two asterisks and ends a word.
fn is_marked(text: &str, at: usize) -> bool {
    let (before, after) = (&text[..at], &text[at + 1..]);
    let in_brackets = before.ends_with('(') && after.starts_with(')');
    let is_bold = before.ends_with("**") && after.starts_with(['*', '.', ')', ':']);
    in_brackets || is_bold
}

/// Whether the letter at `at` is a word: no part of a longer one, nor of one with an apostrophe or a
/// hyphen.
fn is_word(text: &str, at: usize) -> bool {
    let joins = |next: char| next.is_alphanumeric() || "'’-_".contains(next);
    !text[..at].ends_with(joins) && !text[at + 1..].starts_with(joins)
}

/// Whether the letter at `at` is a word, and neither the article "A" nor the pronoun "I".
fn stands_alone(text: &str, at: usize) -> bool {
    let begins_phrase = text[at + 1..]
        .strip_prefix(' ')
        .is_some_and(|rest| rest.starts_with(char::is_lowercase));
    is_word(text, at) && !(begins_phrase && matches!(text.as_bytes()[at], b'A' | b'I'))
}
