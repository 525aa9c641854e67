//! One file a command.

pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod devices;
pub(crate) mod eval;
pub(crate) mod fit;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod score;
pub(crate) mod sft;
pub(crate) mod train;
pub(crate) mod verify;

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

/// Writes a line of JSON to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(io::stdout().write_all(&line)?)
}

/// Writes a line for people to stderr.
pub(crate) fn say(line: &str) {
    // Messages are a courtesy: a closed stderr must not end a run.
    let _ = writeln!(io::stderr(), "{line}");
}
