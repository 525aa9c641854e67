//! Problems from JSON lines.

mod fields;
mod lines;
mod position;

pub use lines::{DEFAULT_MAX_LINE_BYTES, load_problems, load_problems_capped};
use position::Position;
