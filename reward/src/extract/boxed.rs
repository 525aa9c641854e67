//! `\boxed{…}` and `\fbox{…}`, with their braces matched.

/// A box without braces that goes on for longer is none; so the work stays linear.
const MAX_WORD_BYTES: usize = 64;

/// The contents of the last box that is complete.
///
/// One pass with a stack, so that a hundred thousand open braces cost no more than any other text.
/// Of nested boxes the innermost is the last. A box without braces (`\boxed 5`) holds one word.
pub(super) fn last_boxed(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut best: Option<(usize, &str)> = None;
    let mut keep = |start: usize, end: usize| {
        if best.is_none_or(|(earlier, _)| earlier < start) {
            best = Some((start, &text[start..end]));
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => match contents_start(text, at) {
                Some(start) if bytes.get(start) == Some(&b'{') => {
                    open.push(Some(start + 1));
                    at = start;
                }
                Some(start) => {
                    if let Some(end) = word_end(text, start) {
                        keep(start, end);
                    }
                    at = start - 1;
                }
                // The escaped character is no brace of ours.
                None => at += 1,
            },
            b'{' => open.push(None),
            b'}' => {
                if let Some(Some(start)) = open.pop() {
                    keep(start, at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    best.map(|(_, contents)| contents)
        .filter(|contents| !contents.trim().is_empty())
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
