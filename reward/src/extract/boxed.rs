//! `\boxed{…}` and `\fbox{…}`, with their braces matched.

/// A box without braces that goes on for longer is none; so the work stays linear.
const MAX_WORD_BYTES: usize = 64;

/// The contents of the last box that is complete.
///
/// One pass with a stack, so that a hundred thousand open braces cost no more than any other text.
/// Of nested boxes the innermost is the last. A box without braces (`\boxed 5`) holds one word.
pub(super) fn last_boxed(text: &str) -> Option<&str> {
    let mut scanner = Scanner {
        text,
        open: Vec::new(),
        best: None,
    };
    let mut at = 0;
    while at < text.len() {
        at = scanner.read(at);
    }
    let (start, end) = scanner.best?;
    Some(&text[start..end]).filter(|contents| !contents.trim().is_empty())
}

struct Scanner<'a> {
    text: &'a str,
    /// For every open brace, where the contents begin if it is a box's.
    open: Vec<Option<usize>>,
    /// Start and end of the last complete box's contents.
    best: Option<(usize, usize)>,
}

impl Scanner<'_> {
    /// Reads what stands at a byte; returns where to go on.
    fn read(&mut self, at: usize) -> usize {
        match self.text.as_bytes()[at] {
            b'\\' => return self.command(at),
            b'{' => self.open.push(None),
            b'}' => {
                if let Some(Some(start)) = self.open.pop() {
                    self.keep(start, at);
                }
            }
            _ => {}
        }
        at + 1
    }

    fn command(&mut self, at: usize) -> usize {
        let Some(start) = contents_start(self.text, at) else {
            // The escaped character is no brace of ours.
            return at + 2;
        };
        if self.text.as_bytes()[start] == b'{' {
            self.open.push(Some(start + 1));
            return start + 1;
        }
        if let Some(end) = word_end(self.text, start) {
            self.keep(start, end);
        }
        start
    }

    fn keep(&mut self, start: usize, end: usize) {
        if self.best.is_none_or(|(earlier, _)| earlier < start) {
            self.best = Some((start, end));
        }
    }
}

/// Where a box's contents (or their brace) begin, if a box command stands at `at`.
fn contents_start(text: &str, at: usize) -> Option<usize> {
    let rest = text.get(at + 1..)?;
    let name = ["boxed", "fbox"]
        .into_iter()
        .find(|name| rest.starts_with(name))?;
    let after = &rest[name.len()..];
    let blanks = after.len() - after.trim_start_matches(' ').len();
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
