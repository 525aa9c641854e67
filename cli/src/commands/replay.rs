//! `anneal replay`: losses, advantages, KL and value losses of given cases, to compare with another implementation.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use losses::replay::{Case, RELATIVE_TOLERANCE, Replayed};
use serde_json::{Map, Value, json};

use super::{print_json, say};
use crate::{args::ReplayArgs, device};

pub(crate) fn run(args: &ReplayArgs) -> Result<()> {
    let device = device::parse(&args.device.device)?;
    let mut far_off = Vec::new();
    for path in &args.cases {
        let place = || path.display().to_string();
        let (replayed, expects_nothing) = replay(path, &device).with_context(place)?;
        if args.check && expects_nothing {
            bail!("{}: has nothing under 'expected' to check", place());
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        print_json(&line(&name, &replayed))?;
        if !replayed.is_equal() {
            far_off.push(name.into_owned());
        }
    }
    if args.check && !far_off.is_empty() {
        let (count, total) = (far_off.len(), args.cases.len());
        let names = far_off.join(", ");
        bail!("{count} of {total} cases differ by more than {RELATIVE_TOLERANCE}: {names}");
    }
    if args.check {
        say(&format!(
            "{} cases are equal to their reference",
            args.cases.len()
        ));
    }
    Ok(())
}

/// What the case gave, and whether it expects nothing.
fn replay(path: &Path, device: &Device) -> Result<(Replayed, bool)> {
    let case: Case = serde_json::from_str(&fs::read_to_string(path)?)?;
    Ok((case.replay(device)?, case.expected.is_empty()))
}

fn line(name: &str, replayed: &Replayed) -> Value {
    let output: Map<String, Value> = replayed
        .output
        .iter()
        .map(|(key, figures)| (key.clone(), json!(figures)))
        .collect();
    json!({
        "case": name,
        "output": output,
        "max_relative_error": replayed.max_relative_error,
    })
}
