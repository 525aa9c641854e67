//! Bounds on printing nested values.
//!
//! The engine's budget counts a list's items when it is made, so that a list which holds itself twice, forty times
//! over, is cheap to make; printing it would take 2^40 items. These are walked, within bounds, before they print.

use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter, value::ValueKind};

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

/// Python's `str`.
pub(super) fn string(value: &Value) -> Result<Value, Error> {
    require_bounded(value)?;
    Ok(value
        .to_str()
        .map_or_else(|| Value::from(value.to_string()), Value::from))
}

fn require_bounded(value: &Value) -> Result<(), Error> {
    let mut nodes = MAX_NODES;
    walk(value, 0, &mut nodes)
}

fn walk(value: &Value, depth: usize, nodes: &mut usize) -> Result<(), Error> {
    if !matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    ) {
        return Ok(());
    }
    for item in value.try_iter()? {
        let too_large = || Error::new(ErrorKind::OutOfFuel, "the value is too large to print");
        *nodes = nodes
            .checked_sub(1)
            .filter(|_| depth < MAX_DEPTH)
            .ok_or_else(too_large)?;
        let child = if value.kind() == ValueKind::Map {
            value.get_item(&item)?
        } else {
            item
        };
        walk(&child, depth + 1, nodes)?;
    }
    Ok(())
}
