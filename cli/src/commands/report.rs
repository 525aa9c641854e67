//! `anneal report`: a page, or pictures, of one run or several.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::say;
use crate::{args::ReportArgs, device, report::Report};

pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    device::check(&args.device.device)?;
    let report = Report::of(&args.runs)?;
    for note in report.notes() {
        say(&format!("note: {note}"));
    }
    if let Some(folder) = &args.charts {
        let written = report.write_charts(folder)?;
        if written.is_empty() {
            bail!("nothing to draw: the figures have none of the keys that charts show");
        }
        say(&format!("{} charts in {}", written.len(), folder.display()));
        if args.out.is_none() {
            return Ok(());
        }
    }
    if report.is_empty() {
        bail!("nothing to show: no line has a figure, and there are no rollouts");
    }
    let out = out(args);
    report.write(&out)?;
    say(&format!("report in {}", out.display()));
    Ok(())
}

/// Beside the figures of a single run; here, of several.
fn out(args: &ReportArgs) -> PathBuf {
    match (&args.out, &args.runs[..]) {
        (Some(out), _) => out.clone(),
        (None, [run]) if run.is_dir() => run.join("report.html"),
        _ => PathBuf::from("report.html"),
    }
}
