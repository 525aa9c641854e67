//! `anneal devices`.

use std::io::{self, Write};

use anyhow::Result;
use burn::tensor::DType;
use policy::{BACKENDS, DeviceReport, list_devices};
use serde_json::{Value, json};

use super::print_json;
use crate::{args::DevicesArgs, device};

pub(crate) fn run(args: &DevicesArgs) -> Result<()> {
    device::check(&args.device.device)?;
    let reports = list_devices();
    if args.json {
        let backends: Vec<_> = BACKENDS
            .iter()
            .map(|(name, built)| json!({"backend": name, "built": built}))
            .collect();
        return print_json(&json!({
            "backends": backends,
            "devices": reports.iter().map(record).collect::<Vec<_>>(),
            "threads": rayon::current_num_threads(),
            "bf16_instructions": kernels::level().name(),
            "int8_instructions": kernels::int8_level().name(),
        }));
    }
    let mut stdout = io::stdout();
    for report in &reports {
        writeln!(stdout, "{:<9} {}", report.name, line(report))?;
    }
    for (name, built) in BACKENDS {
        if !built {
            writeln!(stdout, "{name:<9} not in this build: `--features {name}`")?;
        } else if !reports.iter().any(|report| backend(report) == name) {
            writeln!(stdout, "{name:<9} no device found")?;
        }
    }
    Ok(())
}

fn backend(report: &DeviceReport) -> &str {
    let name = report.name.split_once(':');
    name.map_or(&report.name, |(backend, _)| backend)
}

/// A device's description: its name, memory, types, and whether a product on it came out right.
fn line(report: &DeviceReport) -> String {
    let mut parts = Vec::new();
    if report.name == "flex" {
        let (bf16, int8) = (kernels::level().name(), kernels::int8_level().name());
        let threads = rayon::current_num_threads();
        parts.push(format!(
            "CPU, {threads} threads, bf16 by {bf16}, int8 by {int8} (the default)"
        ));
    } else {
        parts.push(report.model.clone());
        let memory = report.memory_bytes;
        parts.extend(memory.map(|bytes| format!("{:.1} GB", bytes as f64 / 1e9)));
        parts.push(dtypes(report).join(" "));
    }
    parts.push(match &report.failure {
        None => "a product came out right".to_owned(),
        Some(failure) => failure.clone(),
    });
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn dtypes(report: &DeviceReport) -> Vec<&'static str> {
    let name = |dtype: &DType| match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => "f32",
    };
    report.dtypes.iter().map(name).collect()
}

fn record(report: &DeviceReport) -> Value {
    json!({
        "device": report.name,
        "name": report.model,
        "memory_bytes": report.memory_bytes,
        "dtypes": dtypes(report),
        "verified": report.failure.is_none(),
        "failure": report.failure,
    })
}
