//! Runs that are not there yet, some at once, each in a process of its own: one thread a run computes more than all
//! threads on one run after the other.

use std::{
    collections::VecDeque,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use indicatif::ProgressBar;

use super::plan::{Planned, has_checkpoint};
use crate::{commands::say, progress, signals::Signals};

/// Between two looks at the runs.
const PAUSE: Duration = Duration::from_millis(300);

/// A run that goes on.
struct Running<'a> {
    run: &'a Planned,
    child: Child,
}

/// Runs them all, `jobs` at once. Where one fails, those that are going on are seen to their end, and no other starts; where
/// a signal comes, they save and end.
pub(super) fn run(runs: &[&Planned], jobs: usize, device: &str, signals: &Signals) -> Result<()> {
    let total: u64 = runs.iter().map(|run| run.steps).sum();
    let bar = progress::bar(total, "steps of all runs");
    let jobs = jobs.min(runs.len()).max(1);
    let threads = (rayon::current_num_threads() / jobs).max(1);
    let mut waiting: VecDeque<&Planned> = runs.iter().copied().collect();
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut ended = 0;
    let mut failed = None;
    let mut is_stopped = false;
    while !(waiting.is_empty() && running.is_empty()) {
        if signals.is_received() && !is_stopped {
            is_stopped = true;
            waiting.clear();
            end(&running);
        }
        while running.len() < jobs
            && let Some(run) = waiting.pop_front()
        {
            match start(run, threads, device) {
                Ok(child) => running.push(Running { run, child }),
                Err(error) => {
                    waiting.clear();
                    failed.get_or_insert(error);
                }
            }
        }
        thread::sleep(PAUSE);
        let mut going = Vec::new();
        for mut one in running {
            let failure = match one.child.try_wait() {
                Ok(None) => {
                    going.push(one);
                    continue;
                }
                Ok(Some(status)) if status.success() => {
                    ended += one.run.steps;
                    continue;
                }
                // It saved and ended, as it was told.
                Ok(Some(status)) if is_stopped && has_saved(status) => continue,
                Ok(Some(_)) => anyhow!(failure(one.run)),
                Err(error) => anyhow!(error),
            };
            waiting.clear();
            failed.get_or_insert(failure);
        }
        running = going;
        show(&bar, ended, &running);
    }
    bar.finish_and_clear();
    match failed {
        None if is_stopped => {
            let kept = "the runs that were going on are saved; the same command goes on with them";
            Err(signals.stopped(kept.to_owned()).into())
        }
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Asks the runs to save and end: once, as a second signal would end them at once.
#[cfg(unix)]
fn end(running: &[Running<'_>]) {
    use rustix::process::{Pid, Signal, kill_process};

    for one in running {
        // One that has ended already needs none.
        let _ = kill_process(Pid::from_child(&one.child), Signal::TERM);
    }
}

/// Their Ctrl-C is ours.
#[cfg(not(unix))]
fn end(_: &[Running<'_>]) {}

/// Whether a run ended because a signal asked it to, in good order.
fn has_saved(status: ExitStatus) -> bool {
    matches!(status.code(), Some(130 | 143))
}

fn show(bar: &ProgressBar, ended: u64, running: &[Running<'_>]) {
    let steps = running.iter().map(|one| steps_done(&one.run.folder));
    let steps: Vec<u64> = steps.collect();
    bar.set_position(ended + steps.iter().sum::<u64>());
    let each = running.iter().zip(steps);
    let each = each.map(|(one, step)| {
        format!(
            "{} seed {}: {step}/{}",
            one.run.name, one.run.seed, one.run.steps
        )
    });
    bar.set_message(each.collect::<Vec<_>>().join(", "));
}

/// Lines of the metrics after that of step 0.
fn steps_done(folder: &Path) -> u64 {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    (text.lines().count() as u64).saturating_sub(1)
}

/// Starts a run, or goes on with it from its newest checkpoint.
fn start(run: &Planned, threads: usize, device: &str) -> Result<Child> {
    let parent = run.folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let log = log_file(run);
    let file = File::options().create(true).append(true).open(&log);
    let file = file.with_context(|| log.display().to_string())?;
    let mut command = Command::new(env::current_exe().context("the program's own file")?);
    command.args(["train", "--device", device]);
    if has_checkpoint(&run.folder)? {
        command.arg("--resume").arg(&run.folder);
    } else {
        put_aside(&run.folder)?;
        command.arg("--out").arg(&run.folder);
        if let Some(config) = &run.config {
            command.arg("--config").arg(config);
        }
        command.args(&run.settings);
    }
    // A terminal's Ctrl-C comes to the comparison alone, which passes it on.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .context("cannot start a run")
}

fn log_file(run: &Planned) -> PathBuf {
    run.folder.with_extension("log")
}

/// Puts aside what a run left that ended before its first checkpoint.
fn put_aside(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let numbered = (1..).map(|n| folder.with_extension(format!("old-{n}")));
    let free = numbered.into_iter().find(|path| !path.exists());
    let free = free.context("no free name to put a folder aside")?;
    fs::rename(folder, &free).with_context(|| folder.display().to_string())?;
    say(&format!(
        "note: {} has no checkpoint to go on from; it is put aside as {}",
        folder.display(),
        free.display()
    ));
    Ok(())
}

/// What a failed run said last.
fn failure(run: &Planned) -> String {
    let log = log_file(run);
    let text = fs::read_to_string(&log).unwrap_or_default();
    let said = text.lines().rev().find(|line| line.starts_with("error:"));
    let said = said
        .or_else(|| text.lines().last())
        .unwrap_or("it said nothing");
    format!(
        "variant '{}', seed {}: {}; see {}",
        run.name,
        run.seed,
        said.trim_start_matches("error: "),
        log.display()
    )
}
