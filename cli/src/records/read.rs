//! Rows out of text, whatever the format.

use anyhow::Result;
use serde_json::Value;

use super::Row;

/// A level more than any log has; deeper figures are nobody's.
const MAX_DEPTH: usize = 8;
/// So many bad lines are named one by one.
const NAMED_LINES: usize = 3;

/// The rows, and what was wrong.
pub(super) fn rows(text: &str) -> Result<(Vec<Row>, Vec<String>)> {
    let start = text.trim_start();
    let is_json = start.starts_with(['{', '[']);
    let whole = serde_json::from_str::<Value>(start).ok();
    let whole = whole.or_else(|| {
        let cleaned = is_json.then(|| without_non_finite(start))?;
        serde_json::from_str(&cleaned).ok()
    });
    if let Some(points) = whole.as_ref().and_then(points) {
        return Ok((points.iter().filter_map(flat).collect(), Vec::new()));
    }
    if is_json {
        Ok(lines(text))
    } else {
        table(text)
    }
}

/// An array of objects, an object's `points`, or the log of a `trainer_state.json`, as TRL writes it.
fn points(value: &Value) -> Option<&Vec<Value>> {
    let within = |key| value.get(key)?.as_array();
    let points = value.as_array().or_else(|| within("points"));
    points.or_else(|| within("log_history"))
}

/// JSON lines. A bad line is told of by its number.
fn lines(text: &str) -> (Vec<Row>, Vec<String>) {
    let mut rows = Vec::new();
    let mut bad = Vec::new();
    let last = text.lines().count();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        match object(line) {
            Some(row) => rows.push(row),
            None if number == last && !text.ends_with('\n') => {
                bad.push(format!("line {number}, the last, is cut off and left out"));
            }
            None => bad.push(format!(
                "line {number} is not a JSON object and is left out"
            )),
        }
    }
    (rows, shortened(bad))
}

/// A line's figures; Python writes NaN and Infinity, which JSON has no words for.
fn object(line: &str) -> Option<Row> {
    let value = serde_json::from_str(line);
    let value = value.or_else(|_| serde_json::from_str(&without_non_finite(line)));
    flat(&value.ok()?)
}

/// The line with bare NaN and Infinity as null; those within strings are left.
fn without_non_finite(line: &str) -> String {
    let mut found = String::with_capacity(line.len());
    let mut in_string = false;
    let mut rest = line;
    while let Some(next) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter();
        let word = word
            .filter(|_| !in_string)
            .find(|word| rest.starts_with(*word));
        if let Some(word) = word {
            found.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        found.push(next);
        rest = &rest[next.len_utf8()..];
        match next {
            '"' => in_string = !in_string,
            '\\' if in_string => {
                let escaped = rest.chars().next();
                found.extend(escaped);
                rest = &rest[escaped.map_or(0, char::len_utf8)..];
            }
            _ => (),
        }
    }
    found
}

/// An object's finite numbers by dotted key.
fn flat(value: &Value) -> Option<Row> {
    let mut row = Row::new();
    value.as_object()?;
    add_figures(value, "", MAX_DEPTH, &mut row);
    Some(row)
}

fn add_figures(value: &Value, key: &str, depth: usize, row: &mut Row) {
    if let Some(fields) = value.as_object().filter(|_| depth > 0) {
        for (name, value) in fields {
            let key = if key.is_empty() {
                name.clone()
            } else {
                format!("{key}.{name}")
            };
            add_figures(value, &key, depth - 1, row);
        }
    } else if let Some(number) = value.as_f64().filter(|number| number.is_finite()) {
        row.insert(key.to_owned(), number);
    }
}

/// What separates the values under a header: the one of these that it has most of outside quotes.
fn delimiter(text: &str) -> u8 {
    let header = text.lines().next().unwrap_or_default();
    let bare: String = header.split('"').step_by(2).collect();
    let count = |&byte: &u8| bare.bytes().filter(|other| *other == byte).count();
    // Of equals `max_by_key` takes the last: the comma, where there is none at all.
    let known = [b';', b'\t', b','];
    known.into_iter().max_by_key(count).unwrap_or(b',')
}

/// A cell's number; where semicolons separate, a comma may stand for the point.
fn number(cell: &str, delimiter: u8) -> Option<f64> {
    let read = cell.parse().ok();
    let is_comma = delimiter == b';' && cell.matches(',').count() == 1;
    read.or_else(|| is_comma.then(|| cell.replace(',', ".").parse().ok())?)
}

/// Separated values under a header.
fn table(text: &str) -> Result<(Vec<Row>, Vec<String>)> {
    let delimiter = delimiter(text);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let names = reader.headers()?.clone();
    let mut rows = Vec::new();
    let mut bad = Vec::new();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                bad.push(format!("{error}: left out"));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        if record.iter().any(|cell| cell.contains('\n')) {
            bad.push(format!(
                "line {line} has a cell that spans lines: is a quote missing?"
            ));
        }
        let cells = names.iter().zip(&record);
        let figures = cells.filter_map(|(name, cell)| Some((name, number(cell, delimiter)?)));
        let row: Row = figures
            .filter(|(_, figure)| figure.is_finite())
            .map(|(name, figure)| (name.to_owned(), figure))
            .collect();
        if row.is_empty() {
            bad.push(format!("line {line} has no figures and is left out"));
        } else {
            rows.push(row);
        }
    }
    Ok((rows, shortened(bad)))
}

/// The first notes, and how many more there are.
fn shortened(mut notes: Vec<String>) -> Vec<String> {
    let more = notes.len().saturating_sub(NAMED_LINES);
    notes.truncate(NAMED_LINES);
    if more > 0 {
        notes.push(format!("{more} more lines cannot be read and are left out"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_within_strings_stay() {
        let line = r#"{"a": NaN, "b": "NaN \" Infinity", "c": -Infinity, "d": [Infinity]}"#;
        let expected = r#"{"a": null, "b": "NaN \" Infinity", "c": null, "d": [null]}"#;
        assert_eq!(without_non_finite(line), expected);
    }
}
