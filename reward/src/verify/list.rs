//! Answers of several elements: tuples, intervals, sets and plain lists.

/// Longer lists are not taken apart.
const MAX_ELEMENTS: usize = 64;
const BRACKETS: [(&str, &str); 3] = [(r"\{", r"\}"), ("(", ")"), ("[", "]")];

/// The elements of an answer, and what encloses them.
pub(super) struct List<'a> {
    brackets: (&'a str, &'a str),
    elements: Vec<&'a str>,
}

impl<'a> List<'a> {
    /// Takes a normalised answer apart at its outer commas; `None` where it has none.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (brackets, inner) = without_brackets(text);
        let elements = split_at_commas(inner)?;
        (2..=MAX_ELEMENTS)
            .contains(&elements.len())
            .then_some(Self { brackets, elements })
    }

    /// Whether two lists have equal elements: in order within round and square brackets, in any
    /// order in sets and plain lists.
    pub(super) fn matches(&self, other: &Self, equal: impl Fn(&str, &str) -> bool) -> bool {
        if self.brackets != other.brackets || self.elements.len() != other.elements.len() {
            return false;
        }
        if matches!(self.brackets.0, "(" | "[") {
            return self
                .elements
                .iter()
                .zip(&other.elements)
                .all(|(one, two)| equal(one, two));
        }
        let mut left = other.elements.clone();
        self.elements.iter().all(|element| {
            let found = left.iter().position(|candidate| equal(element, candidate));
            found.map(|at| left.swap_remove(at)).is_some()
        })
    }
}

fn without_brackets(text: &str) -> ((&str, &str), &str) {
    for open in BRACKETS {
        for close in BRACKETS {
            let inner = text
                .strip_prefix(open.0)
                .and_then(|rest| rest.strip_suffix(close.1));
            if let Some(inner) = inner.filter(|inner| closes_nowhere(inner)) {
                return ((open.0, close.1), inner);
            }
        }
    }
    (("", ""), text)
}

/// Whether no bracket closes that was not opened: `(1,2),(3,4)` is not one pair of brackets.
fn closes_nowhere(text: &str) -> bool {
    let mut depth = 0_i64;
    text.bytes().all(|byte| {
        depth += depth_change(byte);
        depth >= 0
    })
}

fn depth_change(byte: u8) -> i64 {
    match byte {
        b'(' | b'[' | b'{' => 1,
        b')' | b']' | b'}' => -1,
        _ => 0,
    }
}

fn split_at_commas(text: &str) -> Option<Vec<&str>> {
    let mut depth = 0_i64;
    let mut start = 0;
    let mut elements = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        depth += depth_change(byte);
        if byte == b',' && depth == 0 {
            elements.push(&text[start..at]);
            start = at + 1;
        }
    }
    elements.push(&text[start..]);
    elements
        .iter()
        .all(|element| !element.is_empty())
        .then_some(elements)
}
