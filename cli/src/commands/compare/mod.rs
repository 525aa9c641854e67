//! `anneal compare`: several settings over several seeds, and one table.

mod plan;
mod results;
mod runner;

use std::{
    io::{Write, stdout},
    path::PathBuf,
};

use anyhow::{Result, bail};

use super::{print_json, say};
use crate::{
    args::CompareArgs,
    device,
    report::{Report, task_notes},
    signals::Signals,
};
use plan::{Plan, Planned};
use results::Comparison;

pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    device::check(&args.device.device)?;
    let signals = Signals::watch()?;
    let plan = Plan::load(args)?;
    let runs = plan.runs(&args.out)?;
    let (done, todo): (Vec<&Planned>, Vec<&Planned>) = runs.iter().partition(|run| run.is_done);
    if !done.is_empty() {
        say(&format!(
            "{} of {} runs are there already",
            done.len(),
            runs.len()
        ));
    }
    if plan.jobs > 1 && todo.len() > 1 && args.device.device != "flex" {
        say(&format!(
            "warning: {} runs at once share the memory of {}, and each plans as if it had all of it; --jobs 1, or set update.max_tokens \
             and update.memory=\"small\"",
            plan.jobs, args.device.device
        ));
    }
    runner::run(&todo, plan.jobs, &args.device.device, &signals)?;
    let comparison = Comparison::of(&plan.variants(), &runs)?;
    let page = args.out.join("report.html");
    let averages = comparison.averages(&runs)?;
    for note in task_notes(&averages) {
        say(&format!("warning: {note}"));
    }
    Report::compare(averages, comparison.table(), comparison.chart()).write(&page)?;
    if args.json {
        print_json(&comparison)?;
    } else {
        stdout().write_all(comparison.table().turned().text().as_bytes())?;
    }
    say(&format!("report in {}", page.display()));
    Ok(())
}

/// Refuses what cannot be a folder's name.
fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if name.is_empty() || !name.chars().all(is_plain) {
        bail!("variant '{name}': a name is letters, digits, '_' and '-', as it names a folder");
    }
    Ok(())
}

/// `OUT/VARIANT/seed-N`.
fn folder(out: &std::path::Path, variant: &str, seed: u64) -> PathBuf {
    out.join(variant).join(format!("seed-{seed}"))
}
