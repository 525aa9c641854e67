//! Bounds on printing nested values.
//!
//! The engine's budget counts a list's items when it is made, so that a list which holds itself twice, forty times
//! over, is cheap to make; printing it would take 2^40 items. These are walked, within bounds, before they print.

use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter, value::ValueKind};

use super::MAX_OUTPUT_BYTES;

/// More than any conversation's structure has.
const MAX_NODES: usize = 1 << 20;
/// The engine prints recursively.
const MAX_DEPTH: usize = 100;

/// Prints as Jinja does.
pub(super) fn formatter(
    output: &mut Output,
    state: &mut State,
    value: &Value,
) -> Result<(), Error> {
    require_bounded(value)?;
    escape_formatter(output, state, value)
}

/// Jinja's `pprint`, on what prints within bounds.
pub(super) fn pprint(value: &Value) -> Result<String, Error> {
    require_bounded(value)?;
    Ok(format!("{value:#?}"))
}

/// Python's `str`.
pub(super) fn string(value: &Value) -> Result<Value, Error> {
    require_bounded(value)?;
    Ok(value
        .to_str()
        .map_or_else(|| Value::from(value.to_string()), Value::from))
}

/// Refuses a value that prints as more than a conversation.
pub(super) fn require_bounded(value: &Value) -> Result<(), Error> {
    let mut room = Room {
        nodes: MAX_NODES,
        bytes: MAX_OUTPUT_BYTES,
    };
    let is_list = is_container(value);
    // A lone text is there already, and counted.
    if is_list { room.walk(value, 0) } else { Ok(()) }
}

fn is_container(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}

struct Room {
    nodes: usize,
    bytes: usize,
}

impl Room {
    fn walk(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.take(value, depth)?;
        if !is_container(value) {
            return Ok(());
        }
        for item in value.try_iter()? {
            if value.kind() == ValueKind::Map {
                self.walk(&item, depth + 1)?;
                self.walk(&value.get_item(&item)?, depth + 1)?;
            } else {
                self.walk(&item, depth + 1)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let bytes = value.as_str().map_or(0, str::len);
        let nodes = self.nodes.checked_sub(1).filter(|_| depth <= MAX_DEPTH);
        let rest = nodes.zip(self.bytes.checked_sub(bytes));
        let too_large = || Error::new(ErrorKind::OutOfFuel, "the value is too large to print");
        (self.nodes, self.bytes) = rest.ok_or_else(too_large)?;
        Ok(())
    }
}
