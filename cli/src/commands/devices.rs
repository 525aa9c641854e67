//! `anneal devices`.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::json;

use super::print_json;
use crate::{args::DevicesArgs, device, device::BACKENDS};

pub(crate) fn run(args: &DevicesArgs) -> Result<()> {
    device::parse(&args.device.device)?;
    if args.json {
        let list: Vec<_> = BACKENDS
            .iter()
            .map(|(name, built)| json!({"backend": name, "built": built}))
            .collect();
        return print_json(&json!({
            "backends": list,
            "threads": rayon::current_num_threads(),
            "bf16_instructions": kernels::level().name(),
        }));
    }
    let mut stdout = io::stdout();
    for (name, built) in BACKENDS {
        let state = match (name, built) {
            ("flex", _) => format!(
                "CPU, {} threads, bf16 by {} (the default)",
                rayon::current_num_threads(),
                kernels::level().name()
            ),
            (_, true) => "in this build".to_owned(),
            (_, false) => format!("build with `--features {name}`"),
        };
        writeln!(stdout, "{name:<8} {state}")?;
    }
    Ok(())
}
