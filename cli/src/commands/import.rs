//! `anneal import`.

use anyhow::Result;
use policy::import_gguf;

use super::say;
use crate::args::ImportArgs;

pub(crate) fn run(args: &ImportArgs) -> Result<()> {
    let summary = import_gguf(&args.file, &args.out)?;
    say(&format!("wrote {}: {summary}", args.out.display()));
    Ok(())
}
