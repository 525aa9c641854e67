//! SIGINT and SIGTERM, in every phase of a run.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Ended, Random, Run, anneal, assert_same, assert_unbroken, bits, checkpoint, left, times,
    to_the_end, train, unbroken,
};

const LIMIT: Duration = Duration::from_secs(10);

fn code(signal: Signal) -> i32 {
    if signal == Signal::INT { 130 } else { 143 }
}

/// Sends a signal and waits for the end, which must be in order and in time.
fn stop(run: Run, signal: Signal) -> String {
    let sent = Instant::now();
    run.signal(signal);
    let ended = run.wait();
    let took = sent.elapsed();
    assert!(took < LIMIT, "{took:?}: {}", ended.stderr);
    stopped(ended, signal)
}

fn stopped(ended: Ended, signal: Signal) -> String {
    let said = ended.stderr;
    assert_eq!(ended.status.code(), Some(code(signal)), "{said}");
    let name = if signal == Signal::INT {
        "SIGINT"
    } else {
        "SIGTERM"
    };
    assert!(said.contains(&format!("stopped by {name}")), "{said}");
    assert!(said.contains("anneal train --resume "), "{said}");
    assert!(
        !said.contains("error:") && !said.contains("panicked"),
        "{said}"
    );
    said
}

/// Steps whose figures stand in `metrics.jsonl` or, stopped in a validation, wait in the newest checkpoint; and that checkpoint's step.
fn steps(folder: &Path) -> (u64, u64) {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let names = left(folder, "");
    let saved = names
        .iter()
        .filter_map(|name| name.strip_prefix("step-")?.parse().ok());
    let written = text.lines().count().saturating_sub(1) as u64;
    let saved = saved.max().unwrap_or(0);
    let state = fs::read(checkpoint(folder, saved).join("trainer_state.json"));
    let state: Value = state.map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    let waits = state["pending"]["step"].as_u64() == Some(written + 1);
    (written + u64::from(waits), saved)
}

#[test]
fn a_run_stopped_at_any_moment_saves_and_ends_in_the_same_bits() {
    let mut random = Random::of("signals");
    let took = unbroken().1.as_millis() as u64;
    let mut hits = 0;
    while hits < times().div_ceil(2) {
        let signal = if hits % 2 == 0 {
            Signal::INT
        } else {
            Signal::TERM
        };
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let mut run = Run::spawn(&mut train(&folder));
        // From here on it watches for signals.
        assert!(run.wait_until(|| folder.join("metrics.jsonl").exists()));
        thread::sleep(Duration::from_millis(random.below(took)));
        if !run.is_running() {
            continue;
        }
        run.signal(signal);
        let ended = run.wait();
        if ended.status.success() {
            // It came after the last step.
            continue;
        }
        hits += 1;
        stopped(ended, signal);
        let (done, saved) = steps(&folder);
        assert_eq!(done, saved, "a whole step was not saved");
        to_the_end(&folder);
        assert_unbroken(&folder, &format!("stopped after step {saved}"));
    }
}

#[test]
fn a_stop_while_a_checkpoint_is_written_waits_for_it() {
    for signal in [Signal::INT, Signal::TERM] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let mut run = Run::spawn(&mut train(&folder));
        assert!(run.wait_until(|| !left(&folder, "1.tmp").is_empty()));
        let said = stop(run, signal);
        let (done, saved) = steps(&folder);
        assert!(saved >= 1 && done == saved, "{said}");
        to_the_end(&folder);
        assert_unbroken(&folder, "stopped in a save");
    }
}

/// A run of settings that make one phase long.
fn long(folder: &Path, settings: &[&str]) -> Run {
    let path = folder.to_str().unwrap();
    let size = [
        "train",
        "--out",
        path,
        "steps=3",
        "rollout.prompts_per_step=2",
        "rollout.group_size=8",
        "validation.problems=0",
        "checkpoint.every=0",
    ];
    let mut run = Run::spawn(&mut anneal(&[&size[..], settings].concat()));
    assert!(run.wait_until(|| folder.join("metrics.jsonl").exists()));
    run
}

#[test]
fn long_phases_are_abandoned() {
    let phases: [(&str, &[&str]); 2] = [
        (
            "generation",
            &["rollout.prompts_per_step=4096", "rollout.group_size=64"],
        ),
        ("validation", &["validation.problems=200000"]),
    ];
    for (phase, settings) in phases {
        for signal in [Signal::INT, Signal::TERM] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("run");
            let mut run = long(&folder, settings);
            thread::sleep(Duration::from_millis(400));
            assert!(run.is_running());
            let said = stop(run, signal);
            assert!(said.contains("no step is saved yet"), "{phase}: {said}");
            assert_eq!(steps(&folder).1, 0, "{phase}");
        }
    }
}

/// Updates that have begun are given some seconds; then the run ends with what was saved before.
#[test]
fn updates_without_end_are_abandoned_and_a_second_signal_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["update.epochs=100000", "checkpoint.rollouts=false"];
    let folder = dir.path().join("twice");
    let run = long(&folder, &settings);
    thread::sleep(Duration::from_secs(1));
    run.signal(Signal::INT);
    thread::sleep(Duration::from_secs(1));
    let mut run = run;
    assert!(run.is_running(), "it did not wait for its updates");
    let sent = Instant::now();
    run.signal(Signal::TERM);
    let ended = run.wait();
    assert_eq!(ended.status.code(), Some(143), "{}", ended.stderr);
    assert!(sent.elapsed() < Duration::from_secs(1));
    let folder = dir.path().join("once");
    let run = long(&folder, &settings);
    thread::sleep(Duration::from_secs(1));
    let said = stop(run, Signal::TERM);
    assert!(said.contains("no step is saved yet"), "{said}");
    assert_eq!(steps(&folder), (0, 0));
}

#[test]
fn a_reward_that_is_waited_for_does_not_hold_a_stop_up() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, slow) = (dir.path().join("run"), dir.path().join("slow"));
    let whole = dir.path().join("whole");
    // Scores by the request's length, but for its number; while the file `slow` is there, it takes half a minute.
    let script = format!(
        r#"while read -r line; do [ -e {slow} ] && touch {slow}.asked && sleep 30; rest=${{line#*,}}; id=$(printf %s "$line" | sed 's/^{{"id":\([0-9]*\).*/\1/'); echo "{{\"id\": $id, \"reward\": ${{#rest}}}}"; done"#,
        slow = slow.display()
    );
    let part = format!(
        "reward.parts=[{{type=\"external\", command=[\"sh\", \"-c\", {script:?}], timeout_seconds=60}}]"
    );
    long(&whole, &[&part]).wait().done();
    for signal in [Signal::INT, Signal::TERM] {
        fs::write(&slow, "").unwrap();
        let mut run = long(&folder, &[&part]);
        let asked = dir.path().join("slow.asked");
        assert!(run.wait_until(|| asked.exists()), "it was not asked");
        thread::sleep(Duration::from_millis(200));
        let said = stop(run, signal);
        assert!(said.contains("no step is saved yet"), "{said}");
        fs::remove_file(&slow).unwrap();
        fs::remove_file(&asked).unwrap();
        to_the_end(&folder);
        assert_same(&folder, &whole, "stopped in a reward");
        assert!(bits(&folder)["metrics.jsonl"].len() > 100);
        fs::remove_dir_all(&folder).unwrap();
    }
}

/// A comparison passes a signal on to its runs, which save, and starts no other; the same command goes on with them. Its
/// problems are in a file that it names from where it stands.
#[test]
fn a_comparison_that_is_stopped_goes_on_where_its_runs_were() {
    for (signal, jobs) in [(Signal::TERM, 2), (Signal::INT, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let settings = [
            "steps=60",
            "data.train=train.jsonl",
            "rollout.prompts_per_step=2",
            "rollout.max_new_tokens=8",
        ];
        let problems =
            (0..8).map(|n| format!("{{\"problem\": \"{n}+1=\", \"answer\": {}}}\n", n + 1));
        fs::write(dir.path().join("train.jsonl"), problems.collect::<String>()).unwrap();
        fs::write(
            dir.path().join("compare.toml"),
            format!(
                "seeds = [1]\njobs = {jobs}\nsettings = {settings:?}\n[[variants]]\nname = \"a\"\n[[variants]]\nname = \"b\"\n"
            ),
        )
        .unwrap();
        let command = || {
            let mut command = anneal(&["compare", "--config", "compare.toml", "--out", "out"]);
            command.current_dir(dir.path());
            command
        };
        let folders = ["a", "b"].map(|name| dir.path().join("out").join(name).join("seed-1"));
        let (going, waiting) = folders.split_at(jobs);
        let mut run = Run::spawn(&mut command());
        assert!(run.wait_until(|| going.iter().all(|folder| steps(folder).0 >= 1)));
        let sent = Instant::now();
        run.signal(signal);
        let ended = run.wait();
        assert!(sent.elapsed() < LIMIT, "{}", ended.stderr);
        assert_eq!(ended.status.code(), Some(code(signal)), "{}", ended.stderr);
        let said = ended.stderr;
        assert!(said.contains("the same command goes on"), "{said}");
        for folder in going {
            let (done, saved) = steps(folder);
            assert!(done == saved && (1..60).contains(&saved), "{done}, {saved}");
        }
        assert!(waiting.iter().all(|folder| !folder.exists()), "{said}");
        Run::spawn(&mut command()).wait().done();
        for folder in &folders {
            assert_eq!(steps(folder), (60, 60));
        }
        // All are there, and none is run again.
        let said = Run::spawn(&mut command()).wait().done();
        assert!(said.contains("2 of 2 runs are there already"), "{said}");
    }
}

#[test]
fn a_supervised_run_that_is_stopped_leaves_its_model() {
    for signal in [Signal::INT, Signal::TERM] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("taught");
        let (path, steps) = (out.to_str().unwrap(), "steps=100000");
        let settings = [steps, "batch_size=2", "validation_problems=0"];
        let args = [&["sft", "--out", path], &settings[..]].concat();
        let mut run = Run::spawn(&mut anneal(&args));
        // Its folder is made once it watches for signals.
        assert!(run.wait_until(|| fs::read_dir(dir.path()).unwrap().next().is_some()));
        thread::sleep(Duration::from_millis(300));
        let sent = Instant::now();
        run.signal(signal);
        let ended = run.wait();
        assert!(sent.elapsed() < LIMIT, "{}", ended.stderr);
        let said = ended.stderr;
        assert_eq!(ended.status.code(), Some(code(signal)), "{said}");
        assert!(
            said.contains("stopped by SIG") && said.contains("model.path="),
            "{said}"
        );
        assert!(out.join("model.safetensors").exists(), "{said}");
    }
}
