//! One file a command.

pub(crate) mod devices;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod score;
pub(crate) mod sft;
pub(crate) mod train;

use std::io::{self, Write};

use anyhow::Result;
use burn::tensor::{DType, Device};
use policy::{Policy, resolve_model};
use serde::Serialize;

/// Loads a model by folder or hub name, or the bundled base where none is named.
pub(crate) fn load_policy(name: Option<&str>, dtype: DType, device: &Device) -> Result<Policy> {
    match name.filter(|name| !name.is_empty()) {
        None => Ok(trainer::bundled_base(dtype, device)?),
        Some(name) => Ok(Policy::load(&resolve_model(name)?, dtype, device)?),
    }
}

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
