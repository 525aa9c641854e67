//! `anneal import`.

use anyhow::{Result, bail};
use policy::{SaveDtype, import_adapter, import_gguf};

use super::say;
use crate::{args::ImportArgs, device};

pub(crate) fn run(args: &ImportArgs) -> Result<()> {
    device::check(&args.device.device)?;
    let dtype = if args.bf16 {
        SaveDtype::Bf16
    } else {
        SaveDtype::F32
    };
    let base = args.base.as_deref();
    let summary = if args.file.is_dir() {
        import_adapter(&args.file, base, &args.out, dtype)?
    } else if base.is_some() {
        bail!(
            "--base is for a PEFT adapter's folder; {} is none",
            args.file.display()
        );
    } else {
        import_gguf(&args.file, &args.out, dtype)?
    };
    say(&format!(
        "wrote {}: {:.1} M parameters, {} token ids, {}",
        args.out.display(),
        summary.parameters as f64 / 1e6,
        summary.vocab_size,
        if summary.has_chat_template {
            "a chat template"
        } else {
            "no chat template"
        }
    ));
    Ok(())
}
