//! `\boxed{…}` and `\fbox{…}`, with their braces matched.

use std::borrow::Cow;

/// A box without braces that goes on for longer is none; so the work stays linear.
const MAX_WORD_BYTES: usize = 64;
/// Boxes nearer than this are parts of one answer.
const NEAR_BYTES: usize = 10;
/// Boxes nearer than this are, where a comma or a conjunction joins them.
const JOINED_BYTES: usize = 70;

/// A box and where its contents stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    /// Where the command begins.
    command: usize,
    start: usize,
    end: usize,
}

/// The contents of the last box that is complete, joined with those of the boxes just before it that are parts of the
/// same answer; and where they end.
///
/// One pass with a stack, so that a hundred thousand open braces cost no more than any other text.
/// Of nested boxes the innermost is the last. A box without braces (`\boxed 5`) holds one word.
pub(super) fn last_boxed(text: &str) -> Option<(Cow<'_, str>, usize)> {
    let mut scanner = Scanner {
        text,
        open: Vec::new(),
        found: Vec::new(),
    };
    let mut at = 0;
    while at < text.len() {
        at = scanner.read(at);
    }
    let mut found = scanner.found;
    found.sort_unstable_by_key(|found| found.start);
    let last = found.pop()?;
    let contents = |found: &Found| text[found.start..found.end].trim();
    if contents(&last).is_empty() {
        return None;
    }
    let mut parts = vec![contents(&last)];
    let mut next = last;
    for before in found.into_iter().rev() {
        // A box around this one is no other part.
        if before.end > next.command || contents(&before).is_empty() {
            continue;
        }
        if !belongs(
            text,
            &before,
            &next,
            contents(&before) == parts[parts.len() - 1],
        ) {
            break;
        }
        if !parts.contains(&contents(&before)) {
            parts.push(contents(&before));
        }
        next = before;
    }
    let whole = match parts[..] {
        [single] => Cow::Borrowed(single),
        _ => Cow::Owned(parts.into_iter().rev().collect::<Vec<_>>().join(", ")),
    };
    Some((whole, last.end))
}

fn belongs(text: &str, before: &Found, next: &Found, are_same: bool) -> bool {
    let between = &text[before.end..next.command];
    if between.len() < NEAR_BYTES {
        return true;
    }
    let mut words = between.split(|c: char| !c.is_alphanumeric());
    let joins = between.contains([',', ';']) || words.any(|word| matches!(word, "and" | "or"));
    !are_same && between.len() < JOINED_BYTES && joins
}

struct Scanner<'a> {
    text: &'a str,
    /// For every open brace, where the command and the contents begin if it is a box's.
    open: Vec<Option<(usize, usize)>>,
    found: Vec<Found>,
}

impl Scanner<'_> {
    /// Reads what stands at a byte; returns where to go on.
    fn read(&mut self, at: usize) -> usize {
        match self.text.as_bytes()[at] {
            b'\\' => return self.command(at),
            b'{' => self.open.push(None),
            b'}' => {
                if let Some(Some((command, start))) = self.open.pop() {
                    self.keep(command, start, at);
                }
            }
            _ => {}
        }
        at + 1
    }

    fn command(&mut self, at: usize) -> usize {
        let Some(start) = contents_start(self.text, at) else {
            // The escaped character is no brace of ours; a doubled backslash may yet begin a box.
            let is_doubled = contents_start(self.text, at + 1).is_some()
                && self.text.as_bytes()[at + 1] == b'\\';
            return if is_doubled { at + 1 } else { at + 2 };
        };
        if self.text.as_bytes()[start] == b'{' {
            self.open.push(Some((at, start + 1)));
            return start + 1;
        }
        if let Some(end) = word_end(self.text, start) {
            self.keep(at, start, end);
        }
        start
    }

    fn keep(&mut self, command: usize, start: usize, end: usize) {
        self.found.push(Found {
            command,
            start,
            end,
        });
    }
}

/// Where a box's contents (or their brace) begin, if a box command stands at `at`.
fn contents_start(text: &str, at: usize) -> Option<usize> {
    let rest = text.get(at + 1..)?;
    let name = ["boxed", "fbox"]
        .into_iter()
        .find(|name| rest.starts_with(name))?;
    let after = &rest[name.len()..];
    let blanks = after.len() - after.trim_start_matches([' ', '\n']).len();
    let start = at + 1 + name.len() + blanks;
    let begins_contents = |next: char| blanks > 0 || next == '{' || next.is_ascii_digit();
    text[start..]
        .chars()
        .next()
        .is_some_and(begins_contents)
        .then_some(start)
}

fn word_end(text: &str, start: usize) -> Option<usize> {
    let mut limit = text.len().min(start + MAX_WORD_BYTES);
    while !text.is_char_boundary(limit) {
        limit -= 1;
    }
    let ends = |character: char| character.is_whitespace() || character == '$';
    let end = text[start..limit].find(ends).map(|length| start + length);
    end.or((limit == text.len()).then_some(limit))
}

/// Whether a percent sign, or the word, follows what ends here.
pub(super) fn is_percentage(text: &str, end: usize) -> bool {
    let after = text[end..].trim_start_matches(['}', '$', '\\', ')', ' ']);
    ["%", "percent", "pct"]
        .iter()
        .any(|sign| after.starts_with(sign))
}
