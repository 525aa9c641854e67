//! Rules that work on lines and markers.

const THINK_END: &str = "</think>";
const HASHES: &str = "####";

/// What follows the last `</think>`, or everything where there is none.
pub(crate) fn after_thinking(response: &str) -> &str {
    response
        .rfind(THINK_END)
        .map_or(response, |at| &response[at + THINK_END.len()..])
}

/// The last line that is not blank.
pub(crate) fn last_line(text: &str) -> Option<&str> {
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
}

/// What follows `####` in the last line that begins so and goes on like an expression: Markdown
/// headings of the fourth level go on with a word.
pub(super) fn after_hashes(text: &str) -> Option<&str> {
    text.lines().rev().find_map(|line| {
        let rest = line.trim_start().strip_prefix(HASHES)?.trim();
        rest.starts_with(begins_expression).then_some(rest)
    })
}

fn begins_expression(character: char) -> bool {
    character.is_ascii_digit() || "+-.$\\(".contains(character)
}
