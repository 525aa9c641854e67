//! The `tojson` filter as transformers has it: Python's `json.dumps`, which models saw in training to the byte.

use std::fmt::Write as _;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

use super::{MAX_OUTPUT_BYTES, too_long};

/// Deeper values are refused, before they could exhaust the stack.
const MAX_DEPTH: usize = 100;

/// `json.dumps(value, ensure_ascii=False)`, with its other arguments.
#[allow(
    clippy::needless_pass_by_value,
    reason = "the engine hands keyword arguments over by value"
)]
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    arguments: Kwargs,
) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let default_comma = if indent.is_some() { "," } else { ", " };
    let [comma, colon] = match separators {
        None => [default_comma, ": "].map(String::from),
        Some(pair) => pair
            .try_into()
            .map_err(|_| refused("separators must be two strings"))?,
    };
    let mut writer = Writer {
        ensure_ascii: ensure_ascii
            .or(arguments.get("ensure_ascii")?)
            .unwrap_or(false),
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        comma,
        colon,
        output: String::new(),
    };
    arguments.assert_all_used()?;
    writer.value(value, 0)?;
    if writer.output.len() > MAX_OUTPUT_BYTES {
        return Err(refused(too_long()));
    }
    Ok(Value::from_safe_string(writer.output))
}

struct Writer {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<usize>,
    comma: String,
    colon: String,
    output: String,
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("tojson: {}", message.into()),
    )
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if self.output.len() > MAX_OUTPUT_BYTES {
            return Err(refused(too_long()));
        }
        if depth > MAX_DEPTH {
            return Err(refused(format!(
                "the value is nested deeper than {MAX_DEPTH}"
            )));
        }
        match value.kind() {
            ValueKind::None => self.output.push_str("null"),
            ValueKind::Bool => self
                .output
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.output.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            kind => return Err(refused(format!("{kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.output.push('[');
        let mut items = 0;
        for item in value.try_iter()? {
            self.before_item(items, depth);
            self.value(&item, depth + 1)?;
            items += 1;
        }
        self.close(']', items, depth);
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.output.push('{');
        let keys = value.try_iter()?.map(|key| Ok((key_text(&key)?, key)));
        let mut keys = keys.collect::<Result<Vec<(String, Value)>, Error>>()?;
        if self.sort_keys {
            keys.sort_by(|(left, _), (right, _)| left.cmp(right));
        }
        for (items, (text, key)) in keys.iter().enumerate() {
            self.before_item(items, depth);
            self.string(text);
            self.output.push_str(&self.colon);
            self.value(&value.get_item(key)?, depth + 1)?;
        }
        self.close('}', keys.len(), depth);
        Ok(())
    }

    fn before_item(&mut self, items: usize, depth: usize) {
        if items > 0 {
            self.output.push_str(&self.comma);
        }
        self.line(depth + 1);
    }

    fn close(&mut self, bracket: char, items: usize, depth: usize) {
        if items > 0 {
            self.line(depth);
        }
        self.output.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.output.push('\n');
            let spaces = indent.saturating_mul(depth).min(MAX_OUTPUT_BYTES);
            self.output.extend(std::iter::repeat_n(' ', spaces));
        }
    }

    fn string(&mut self, text: &str) {
        self.output.push('"');
        for character in text.chars() {
            // The rest is refused with the next value, or the end.
            if self.output.len() > MAX_OUTPUT_BYTES {
                break;
            }
            self.character(character);
        }
        self.output.push('"');
    }

    fn character(&mut self, character: char) {
        match character {
            '"' => self.output.push_str("\\\""),
            '\\' => self.output.push_str("\\\\"),
            '\n' => self.output.push_str("\\n"),
            '\r' => self.output.push_str("\\r"),
            '\t' => self.output.push_str("\\t"),
            '\u{8}' => self.output.push_str("\\b"),
            '\u{c}' => self.output.push_str("\\f"),
            c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => self.escape(c),
            c => self.output.push(c),
        }
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            let _ = write!(self.output, "\\u{unit:04x}");
        }
    }
}

/// Python writes keys that are not strings as their JSON.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().into()),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => Ok(number(key)),
        kind => Err(refused(format!("keys must be strings, not {kind}"))),
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => python_float(float),
        _ => value.to_string(),
    }
}

/// Python's `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 => {
            let text = value.to_string();
            if text.contains('.') {
                text
            } else {
                text + ".0"
            }
        }
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::python_float;

    #[test]
    fn floats_print_as_python_prints_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e22, "1.25e+22"),
            (1e100, "1e+100"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (value, expected) in cases {
            assert_eq!(python_float(value), expected);
        }
    }
}
