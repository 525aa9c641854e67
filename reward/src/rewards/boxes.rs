//! Counting boxes.

const OPENING: &str = r"\boxed{";

/// How many complete `\boxed{…}` with contents stand in a text, nested ones included.
///
/// One pass with a stack, so that the time is linear whatever is left open.
pub(super) fn count_boxes(text: &str) -> usize {
    let bytes = text.as_bytes();
    // For every open brace, where the contents begin if it is a box's.
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut count = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if bytes[at..].starts_with(OPENING.as_bytes()) => {
                at += OPENING.len();
                open.push(Some(at));
                continue;
            }
            // The escaped character is no brace of ours.
            b'\\' => at += 1,
            b'{' => open.push(None),
            b'}' => {
                let contents = open.pop().flatten().map(|start| &bytes[start..at]);
                count += usize::from(contents.is_some_and(|bytes| !bytes.trim_ascii().is_empty()));
            }
            _ => {}
        }
        at += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_boxes_are_counted() {
        for (text, expected) in [
            ("", 0),
            (r"\boxed{7}", 1),
            (r"\boxed{\frac{1}{2}} and \boxed{2}", 2),
            (r"\boxed{\boxed{7}}", 2),
            (r"\boxed{7", 0),
            (r"\boxed{3} but \boxed{4", 1),
            (r"\boxed{ }", 0),
            (r"\boxed{\}}", 1),
            (r"\boxed{\}", 0),
            ("boxed{7}", 0),
            (r"}} \boxed{é}", 1),
            (r"\", 0),
        ] {
            assert_eq!(count_boxes(text), expected, "{text}");
        }
    }

    #[test]
    fn many_open_boxes_end_quickly() {
        let start = std::time::Instant::now();
        assert_eq!(count_boxes(&OPENING.repeat(200_000)), 0);
        let nested = format!("{}7{}", OPENING.repeat(100_000), "}".repeat(100_000));
        assert_eq!(count_boxes(&nested), 100_000);
        // Linear work takes milliseconds; quadratic work would take minutes.
        assert!(start.elapsed().as_secs() < 10);
    }
}
