//! Long runs: what they hold at their end is what they held near their start.

use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use crate::harness::{anneal, number};

/// Steps after which everything is in place: caches are full, and each buffer has been used.
const SETTLED: u64 = 100;
/// What a step may leave on the heap: it has a line in the summary and a point of the law.
const BYTES_A_STEP: f64 = 1024.0;
/// What may be resident more at the end than after [`SETTLED`] steps.
const GROWTH: f64 = 0.02;
/// A checkpoint every so many steps.
const SAVED_EVERY: u64 = 10;

/// What a process holds, the least that was seen in a stretch of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Held {
    files: usize,
    threads: usize,
    children: usize,
}

impl Held {
    fn of(process: u32) -> Option<Self> {
        let count = |what: &str| {
            Some(
                fs::read_dir(format!("/proc/{process}/{what}"))
                    .ok()?
                    .count(),
            )
        };
        let children = format!("/proc/{process}/task/{process}/children");
        Some(Self {
            files: count("fd")?,
            threads: count("task")?,
            children: fs::read_to_string(children)
                .ok()?
                .split_whitespace()
                .count(),
        })
    }

    fn least(self, other: Self) -> Self {
        Self {
            files: self.files.min(other.files),
            threads: self.threads.min(other.threads),
            children: self.children.min(other.children),
        }
    }
}

/// The most memory that was resident since the last call, in bytes.
fn peak_resident(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    // 5 sets the peak back to what is resident now.
    fs::write(format!("/proc/{process}/clear_refs"), "5").ok()?;
    Some(1024.0 * kilobytes)
}

fn steps_done(folder: &Path) -> u64 {
    let text = fs::read(folder.join("metrics.jsonl")).unwrap_or_default();
    let lines = text.split_inclusive(|&byte| byte == b'\n').count() as u64;
    lines.saturating_sub(1)
}

/// The slope of a line through points, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let products: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    products / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

/// The bytes that were in use at each checkpoint, as the program's log has them.
fn in_use(log: &str) -> Vec<(f64, f64)> {
    let figures = log
        .lines()
        .filter_map(|line| line.split_once("in_use_bytes="));
    let figures = figures.map(|(_, figure)| figure.trim().parse().unwrap());
    let steps = (1..).map(|n| (SAVED_EVERY * n) as f64);
    steps.zip(figures).collect()
}

/// `ANNEAL_SOAK_STEPS` steps, 300 where it is not set.
#[test]
fn a_long_run_holds_no_more_at_its_end() {
    let steps = number("ANNEAL_SOAK_STEPS", 300).max(3 * SETTLED);
    let dir = tempfile::tempdir().unwrap();
    let (folder, log) = (dir.path().join("run"), dir.path().join("log"));
    let mut child = anneal(&["train", "--out", folder.to_str().unwrap()])
        .args([
            &format!("steps={steps}"),
            &format!("checkpoint.every={SAVED_EVERY}"),
        ])
        .args([
            "rollout.prompts_per_step=2",
            "rollout.group_size=4",
            "rollout.oversampling=2",
            "rollout.max_new_tokens=24",
            "update.mini_batch_prompts=1",
            "validation.problems=4",
            "validation.every=50",
            "optimizer.learning_rate=1e-6",
        ])
        .env("ANNEAL_LOG", "anneal=debug")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let process = child.id();
    // The least that was held in each stretch of SETTLED steps, and the most that was resident.
    let mut stretches: Vec<(Held, f64)> = Vec::new();
    while child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(20));
        let stretch = (steps_done(&folder) / SETTLED) as usize;
        let Some((held, resident)) = Held::of(process).zip(peak_resident(process)) else {
            continue;
        };
        if stretch == stretches.len() {
            stretches.push((held, resident));
        } else if let Some(last) = stretches.last_mut() {
            *last = (last.0.least(held), last.1.max(resident));
        }
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(steps_done(&folder), steps);
    let log = fs::read_to_string(log).unwrap();
    let in_use: Vec<_> = in_use(&log)
        .into_iter()
        .filter(|&(step, _)| step >= SETTLED as f64)
        .collect();
    assert_eq!(
        in_use.len() as u64,
        (steps - SETTLED) / SAVED_EVERY + 1,
        "{log}"
    );
    let grows = slope(&in_use);
    // The last one may be of a single step.
    let whole = &stretches[1..(steps / SETTLED) as usize];
    let ((first, resident), (last, at_last)) = (whole[0], whole[whole.len() - 1]);
    println!(
        "{steps} steps: {grows:.0} bytes a step in use, {resident} → {at_last} bytes resident at most, {last:?}"
    );
    assert!(grows < BYTES_A_STEP, "{grows} bytes a step: {in_use:?}");
    assert!(
        at_last < (1.0 + GROWTH) * resident,
        "{resident} → {at_last}"
    );
    assert_eq!(last, first);
    assert_eq!(last.children, 0);
}
