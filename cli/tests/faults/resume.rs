//! Where a run goes on, and where it is not the same run any more.

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{
    Run, anneal, assert_same, bits, checkpoint, copy, kill_at, to_the_end, train_with, unbroken,
};

/// Eight problems: three epochs in twelve steps of two.
fn problems(path: &Path) {
    let line = |n: u32| {
        let terms = [17 + n, 91 - n, 23 + 2 * n, 60 + n];
        let sum: u32 = terms.iter().sum();
        let text = terms.map(|term| term.to_string()).join("+");
        format!("{{\"problem\": \"{text}=\\n\", \"answer\": \"{sum}\"}}\n")
    };
    fs::write(path, (1..=8).map(line).collect::<String>()).unwrap();
}

fn epochs(folder: &Path, data: &Path) -> String {
    let data = format!("data.train={}", data.display());
    let settings = [
        "steps=12",
        "data.instruction=",
        "data.prompt=plain",
        "rollout.oversampling=1",
        "rollout.max_sampling_rounds=1",
        "rollout.filter_groups=false",
        "checkpoint.keep=0",
        &data,
    ];
    Run::spawn(&mut train_with(folder, &settings)).wait().done()
}

#[test]
fn a_run_goes_on_from_any_of_its_steps() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, data) = (dir.path().join("whole"), dir.path().join("data.jsonl"));
    problems(&data);
    epochs(&whole, &data);
    let all = bits(&whole);
    for step in 1..12 {
        let folder = dir.path().join(step.to_string());
        copy(&whole, &folder);
        for later in step + 1..=12 {
            fs::remove_dir_all(checkpoint(&folder, later)).unwrap();
        }
        let said = epochs(&folder, &data);
        assert!(
            said.contains(&format!("going on from step {step}\n")),
            "{said}"
        );
        assert_same(&folder, &whole, &format!("from step {step}"));
        fs::remove_dir_all(&folder).unwrap();
    }
    let rows = std::str::from_utf8(&all["metrics.jsonl"]).unwrap().lines();
    let steps = rows.map(|row| serde_json::from_str::<Value>(row).unwrap()["step"].clone());
    assert!(steps.eq(0..=12), "rows are missing or double");
}

#[test]
fn a_finished_run_says_so_and_goes_on_with_more_steps() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    copy(&unbroken().0, &folder);
    let said = to_the_end(&folder);
    assert!(
        said.contains("finished at step 6 of 6") && said.contains("--steps N"),
        "{said}"
    );
    assert_same(&folder, &unbroken().0, "a finished run");
    let path = folder.to_str().unwrap();
    let more = anneal(&["train", "--resume", path, "--steps", "7"]);
    let said = Run::spawn(&mut { more }).wait().done();
    assert!(!said.contains("changed from here on"), "{said}");
    assert!(checkpoint(&folder, 7).is_dir());
}

#[test]
fn changed_settings_are_listed_and_changed_problems_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, data) = (dir.path().join("run"), dir.path().join("data.jsonl"));
    problems(&data);
    epochs(&folder, &data);
    let path = folder.to_str().unwrap();
    let resume = |more: &[&str]| {
        let args = [&["train", "--resume", path, "--steps", "13"], more].concat();
        Run::spawn(&mut anneal(&args)).wait()
    };
    let text = fs::read_to_string(&data).unwrap();
    fs::write(&data, text.replacen("\"answer\": \"", "\"answer\": \"1", 1)).unwrap();
    let before = bits(&folder);
    let said = resume(&[]).refused();
    assert!(said.contains("data.train has changed"), "{said}");
    assert!(bits(&folder) == before, "a refusal changed the run");
    let renamed = dir.path().join("new.jsonl");
    fs::copy(&data, &renamed).unwrap();
    let setting = format!("data.train={}", renamed.display());
    let said = resume(&[&setting, "rollout.temperature=0.9", "checkpoint.keep=3"]).done();
    assert!(
        said.contains("changed from here on: rollout.temperature: 1.0 → 0.9"),
        "{said}"
    );
    assert!(said.contains("changed from here on: data.train"), "{said}");
    assert!(!said.contains("checkpoint.keep:"), "{said}");
}

#[test]
fn a_run_without_a_checkpoint_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    kill_at(&folder, 1);
    fs::remove_dir_all(folder.join("checkpoints")).unwrap();
    let said = to_the_end(&folder);
    assert!(said.contains("no checkpoint yet"), "{said}");
    assert_same(&folder, &unbroken().0, "started again");
}

#[test]
fn the_best_step_is_kept_beside_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let settings = [
        "steps=8",
        "validation.every=1",
        "validation.problems=32",
        "checkpoint.every=0",
        "checkpoint.keep=1",
        "checkpoint.keep_best=true",
        "optimizer.learning_rate=1e-4",
    ];
    Run::spawn(&mut train_with(&folder, &settings))
        .wait()
        .done();
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let accuracy = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["validation_accuracy"].as_f64().unwrap()
    };
    let accuracies: Vec<f64> = text.lines().skip(1).map(accuracy).collect();
    let best = accuracies.iter().copied().fold(0.0, f64::max);
    // The first of several that are as good.
    let step = 1 + accuracies.iter().position(|&a| a >= best).unwrap() as u64;
    assert!(step < 8, "the last step is the best: {accuracies:?}");
    let state = fs::read_to_string(checkpoint(&folder, 8).join("trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["best"]["step"], step);
    assert!(checkpoint(&folder, step).is_dir());
    assert_eq!(fs::read_dir(folder.join("checkpoints")).unwrap().count(), 2);
}

/// The clock that dates files is set forth or back between a kill and the resume, the oldest files getting the latest dates.
#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "what the program must not read, a test sets"
)]
fn dates_of_files_decide_nothing() {
    const HOUR: u64 = 3600;
    let dir = tempfile::tempdir().unwrap();
    let killed = dir.path().join("killed");
    kill_at(&killed, 3);
    for (is_forth, seconds) in [
        (true, HOUR),
        (false, HOUR),
        (true, 8766 * HOUR),
        (false, 8766 * HOUR),
    ] {
        let folder = dir.path().join("run");
        copy(&killed, &folder);
        let mut set = 0;
        set_dates(&folder, &mut |file| {
            let then = file.metadata().unwrap().modified().unwrap();
            // Later ones get earlier dates.
            let shift = Duration::from_secs(seconds - set);
            let date = if is_forth { then + shift } else { then - shift };
            file.set_modified(date).unwrap();
            set += 1;
        });
        assert!(set > 20, "{set} files");
        to_the_end(&folder);
        assert_same(&folder, &unbroken().0, &format!("{seconds} s, {is_forth}"));
        fs::remove_dir_all(&folder).unwrap();
    }
}

fn set_dates(folder: &Path, set: &mut impl FnMut(&File)) {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            set_dates(&path, set);
        }
        set(&File::open(&path).unwrap());
    }
}
