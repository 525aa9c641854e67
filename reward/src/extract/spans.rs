//! Formulas in prose: `$…$`, `$$…$$`, `\(…\)` and `\[…\]`.

/// A formula and where it stands, delimiters included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span<'a> {
    pub(super) inner: &'a str,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The longest text between two formulas that still belong together.
const MAX_SEPARATOR_BYTES: usize = 24;

/// Every formula of a text, in order, in one pass. Inline formulas end with their line, so that a price does not
/// swallow what follows it.
pub(super) fn spans(text: &str) -> Vec<Span<'_>> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    // For each delimiter, up to where it is known not to be closed: no stretch of text is searched twice.
    let mut open_until = [0; DELIMITERS.len()];
    while at < bytes.len() {
        let Some(kind) = delimiter(text, at) else {
            at += 1;
            continue;
        };
        let Delimiter { open, close, .. } = DELIMITERS[kind];
        let start = at + open.len();
        at = start;
        if start < open_until[kind] {
            continue;
        }
        match closing(text, start, &DELIMITERS[kind]) {
            Ok(end) => {
                let inner = text[start..end].trim();
                let end = end + close.len();
                if !inner.is_empty() {
                    let start = start - open.len();
                    found.push(Span { inner, start, end });
                }
                at = end;
            }
            Err(limit) => open_until[kind] = limit,
        }
    }
    found
}

struct Delimiter {
    open: &'static str,
    close: &'static str,
    /// Whether its line ends it.
    is_inline: bool,
}

const DELIMITERS: [Delimiter; 4] = [
    Delimiter {
        open: "$$",
        close: "$$",
        is_inline: false,
    },
    Delimiter {
        open: "$",
        close: "$",
        is_inline: true,
    },
    Delimiter {
        open: "\\(",
        close: "\\)",
        is_inline: true,
    },
    Delimiter {
        open: "\\[",
        close: "\\]",
        is_inline: false,
    },
];

/// Which delimiter opens a formula here.
fn delimiter(text: &str, at: usize) -> Option<usize> {
    let is_escaped = at > 0 && text.as_bytes()[at - 1] == b'\\';
    let begins =
        |delimiter: &Delimiter| text.as_bytes()[at..].starts_with(delimiter.open.as_bytes());
    DELIMITERS.iter().position(begins).filter(|_| !is_escaped)
}

/// Where it closes, or up to where it does not.
fn closing(text: &str, start: usize, delimiter: &Delimiter) -> Result<usize, usize> {
    let rest = &text[start..];
    let limit = if delimiter.is_inline {
        rest.find('\n').unwrap_or(rest.len())
    } else {
        rest.len()
    };
    let close = delimiter.close;
    let mut from = 0;
    while let Some(place) = rest[from..limit].find(close).map(|place| from + place) {
        let is_escaped = close.starts_with('$') && rest[..place].ends_with('\\');
        if !is_escaped {
            return Ok(start + place);
        }
        from = place + close.len();
    }
    Err(start + limit)
}

/// The formulas at one place that are one answer: joined by commas and conjunctions alone.
///
/// `last` counts back from the end, else on from the beginning.
pub(super) fn group<'a, 'b>(text: &str, spans: &'b [Span<'a>], last: bool) -> &'b [Span<'a>] {
    let joins = |pair: &[Span<'a>]| is_separator(&text[pair[0].end..pair[1].start]);
    if last {
        let start = (1..spans.len())
            .rev()
            .take_while(|&index| joins(&spans[index - 1..=index]))
            .last();
        &spans[start.map_or(spans.len().saturating_sub(1), |index| index - 1)..]
    } else {
        let end = (1..spans.len())
            .take_while(|&index| joins(&spans[index - 1..=index]))
            .last();
        &spans[..end.map_or(spans.len().min(1), |index| index + 1)]
    }
}

/// Whether nothing but commas and conjunctions stands there.
fn is_separator(between: &str) -> bool {
    let words = between.split(|c: char| c.is_whitespace() || c == ',' || c == ';');
    let mut words = words.filter(|word| !word.is_empty());
    between.len() <= MAX_SEPARATOR_BYTES
        && between.contains(|c: char| c.is_alphabetic() || c == ',' || c == ';')
        && words.all(|word| matches!(word, "and" | "or"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inner(text: &str) -> Vec<&str> {
        spans(text).iter().map(|span| span.inner).collect()
    }

    #[test]
    fn every_delimiter_is_known() {
        assert_eq!(
            inner(r"a $x$ b \( y \) c \[ z \] d $$w$$"),
            ["x", "y", "z", "w"]
        );
        assert_eq!(inner("costs $5\nthen $x$"), ["x"]);
        assert_eq!(inner(r"\$5 and $\$7$"), [r"\$7"]);
        assert_eq!(inner("$$a\nb$$"), ["a\nb"]);
        assert!(inner("$ and nothing").is_empty());
    }

    #[test]
    fn formulas_join_over_conjunctions() {
        let text = "so $1$ and $2$, $3$ but $4$ or $5$";
        let found = spans(text);
        let group = |last| {
            group(text, &found, last)
                .iter()
                .map(|s| s.inner)
                .collect::<Vec<_>>()
        };
        assert_eq!(group(false), ["1", "2", "3"]);
        assert_eq!(group(true), ["4", "5"]);
    }
}
