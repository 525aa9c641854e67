//! Python's methods of strings. Those that make much of little are done within bounds; the others are the engine's.

use minijinja::{Error, ErrorKind, State, Value, value::ValueKind};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::{MAX_OUTPUT_BYTES, limits::require_bounded, too_long};

/// More than any column of a table has.
const MAX_WIDTH_DIGITS: usize = 3;

pub(super) fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    if let (ValueKind::String, Some(text)) = (value.kind(), value.as_str()) {
        match method {
            // The engine's filters do the same and count what they make.
            "replace" if arguments.len() == 2 => {
                let arguments = [value, &arguments[0], &arguments[1]].map(Clone::clone);
                return state.apply_filter("replace", &arguments);
            }
            "replace" => {
                let lengths = arguments.iter().filter_map(|value| value.as_str());
                let longest = lengths.map(str::len).max().unwrap_or(0);
                let times = arguments.get(2).and_then(Value::as_i64).unwrap_or(0);
                let times = usize::try_from(times).unwrap_or(text.len()).min(text.len());
                require_room(times.saturating_mul(longest))?;
            }
            "join" if arguments.len() == 1 => {
                let items = count(&arguments[0])?;
                require_room(items.saturating_mul(text.len()))?;
            }
            "format" => check_format(text, arguments)?,
            _ => {}
        }
    }
    arguments.iter().try_for_each(require_bounded)?;
    unknown_method_callback(state, value, method, arguments)
}

fn count(list: &Value) -> Result<usize, Error> {
    require_bounded(list)?;
    Ok(list.len().unwrap_or(0))
}

fn require_room(bytes: usize) -> Result<(), Error> {
    if bytes <= MAX_OUTPUT_BYTES {
        return Ok(());
    }
    Err(Error::new(ErrorKind::OutOfFuel, too_long()))
}

/// Every field may name the longest argument, and be as wide as it says.
fn check_format(text: &str, arguments: &[Value]) -> Result<(), Error> {
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    if numbers
        .map(str::len)
        .any(|digits| digits > MAX_WIDTH_DIGITS)
        && text.contains('{')
    {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "format: a field is too wide",
        ));
    }
    let fields = text.matches('{').count();
    let lengths = arguments.iter().map(|argument| {
        require_bounded(argument)?;
        Ok(argument.as_str().map_or(0, str::len))
    });
    let longest = lengths.collect::<Result<Vec<usize>, Error>>()?;
    let longest = longest.into_iter().max().unwrap_or(0);
    require_room(fields.saturating_mul(longest.max(10_usize.pow(MAX_WIDTH_DIGITS as u32))))
}
