//! Tiny runs in processes of their own, and what they leave.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const ANNEAL: &str = env!("CARGO_BIN_EXE_anneal");

/// Below a second a run, with groups that are carried from step to step.
pub(crate) const SETTINGS: [&str; 8] = [
    "steps=6",
    "rollout.prompts_per_step=2",
    "rollout.group_size=8",
    "rollout.oversampling=2",
    "update.mini_batch_prompts=1",
    "validation.problems=4",
    "validation.every=2",
    "checkpoint.every=1",
];

/// How often what is random is done.
pub(crate) fn times() -> u64 {
    number("ANNEAL_FAULTS", 10)
}

pub(crate) fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |text| text.parse().unwrap())
}

/// Numbers that follow from a seed (`SplitMix64`).
pub(crate) struct Random(u64);

impl Random {
    /// A test's own numbers, whose seed it tells of.
    pub(crate) fn of(test: &str) -> Self {
        let seed = number("ANNEAL_FAULTS_SEED", 1);
        println!("{test}: ANNEAL_FAULTS_SEED={seed}");
        let name = test.bytes().map(u64::from);
        Self(name.fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte)))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

/// A process of a run.
pub(crate) struct Run {
    pub(crate) child: Child,
    started: Instant,
}

/// How a process ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
    pub(crate) lasted: Duration,
}

impl Run {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            started: Instant::now(),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for something to be so, while the process runs; whether it came to be.
    pub(crate) fn wait_until(&mut self, mut is_so: impl FnMut() -> bool) -> bool {
        while self.is_running() {
            if is_so() {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    pub(crate) fn wait(mut self) -> Ended {
        let mut stderr = String::new();
        let pipe = self.child.stderr.as_mut().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        Ended {
            status: self.child.wait().unwrap(),
            stderr,
            lasted: self.started.elapsed(),
        }
    }
}

impl Ended {
    /// It did what it was asked to.
    pub(crate) fn done(self) -> String {
        assert!(self.status.success(), "{:?}: {}", self.status, self.stderr);
        self.stderr
    }

    /// It refused with one line.
    pub(crate) fn refused(self) -> String {
        let errors = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{}", self.stderr);
        assert_eq!(self.status.code(), Some(1), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }
}

pub(crate) fn anneal(args: &[&str]) -> Command {
    let mut command = Command::new(ANNEAL);
    command.args(args);
    command
}

/// The command that begins a run of [`SETTINGS`] in a folder, or goes on with it.
pub(crate) fn train(folder: &Path) -> Command {
    train_with(folder, &[])
}

pub(crate) fn train_with(folder: &Path, more: &[&str]) -> Command {
    let path = folder.to_str().unwrap();
    if folder.join("config.toml").exists() {
        return anneal(&["train", "--resume", path]);
    }
    anneal(&[&["train", "--out", path], &SETTINGS[..], more].concat())
}

/// Begins a run or goes on with it, to its end.
pub(crate) fn to_the_end(folder: &Path) -> String {
    Run::spawn(&mut train(folder)).wait().done()
}

/// A run that nothing happened to: its folder, and how long it took.
pub(crate) fn unbroken() -> &'static (PathBuf, Duration) {
    static RUN: OnceLock<(TempDir, PathBuf, Duration)> = OnceLock::new();
    static FOUND: OnceLock<(PathBuf, Duration)> = OnceLock::new();
    FOUND.get_or_init(|| {
        let (_, path, took) = RUN.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("run");
            let ended = Run::spawn(&mut train(&path)).wait();
            let took = ended.lasted;
            ended.done();
            (dir, path, took)
        });
        (path.clone(), *took)
    })
}

/// What a run left, by path: metrics without the clock's, and every other file but the report and the lock to the bit.
pub(crate) fn bits(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    collect(folder, folder, &mut files);
    for unlike in [".lock", "report.html"] {
        files.remove(unlike);
    }
    if let Some(text) = files.get_mut("metrics.jsonl") {
        *text = without_times(text);
    }
    files
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
}

fn without_times(metrics: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    for line in std::str::from_utf8(metrics).unwrap().lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let figures = line.as_object_mut().unwrap();
        figures.retain(|key, _| !key.ends_with("_seconds"));
        serde_json::to_writer(&mut kept, &line).unwrap();
        kept.push(b'\n');
    }
    kept
}

/// That two runs left the same, file for file.
pub(crate) fn assert_same(found: &Path, expected: &Path, what: &str) {
    let (found, expected) = (bits(found), bits(expected));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{what}");
    for (name, bytes) in &found {
        assert!(*bytes == expected[name], "{what}: {name} differs");
    }
}

/// That a run left what the unbroken one did.
pub(crate) fn assert_unbroken(folder: &Path, what: &str) {
    assert_same(folder, &unbroken().0, what);
}

pub(crate) fn checkpoint(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("checkpoints/step-{step:06}"))
}

/// Names in `checkpoints/` that end in something.
pub(crate) fn left(folder: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(folder.join("checkpoints"))
        .into_iter()
        .flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(ending)).collect()
}

/// Begins a run, or goes on with it, and kills it once a step's checkpoint is there.
pub(crate) fn kill_at(folder: &Path, step: u64) {
    let mut run = Run::spawn(&mut train(folder));
    let path = checkpoint(folder, step);
    assert!(run.wait_until(|| path.exists()), "step {step} did not come");
    run.signal(Signal::KILL);
    assert_killed(&run.wait());
}

pub(crate) fn assert_killed(ended: &Ended) {
    let signal = std::os::unix::process::ExitStatusExt::signal(&ended.status);
    assert_eq!(signal, Some(9), "{:?}: {}", ended.status, ended.stderr);
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
