//! Checkpoints of each format that was released, and what has changed since one was written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Ended, Run, anneal, bits, checkpoint, copy};

/// A copy of the run that `tests/data/checkpoints/` keeps of a format, with its files of problems: two steps of a policy
/// of 240 parameters, with a group that waits for the third.
fn kept(format: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/checkpoints");
    copy(&data.join(format), dir.path());
    let run = dir.path().join("run");
    (dir, run)
}

/// Goes on for two steps, with other settings.
fn resume(dir: &Path, more: &[&str]) -> Ended {
    let args = [&["train", "--resume", "run", "--steps", "4"], more].concat();
    Run::spawn(anneal(&args).current_dir(dir)).wait()
}

#[test]
fn a_run_of_every_format_goes_on() {
    for format in ["format-1"] {
        let (dir, run) = kept(format);
        let before = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let said = resume(dir.path(), &[]).done();
        assert!(said.contains("going on from step 2\n"), "{said}");
        assert!(!said.contains("changed from here on"), "{said}");
        let after = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert!(after.starts_with(&before), "{format}: lines changed");
        let lines: Vec<Value> = after
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!((0..=4).eq(lines.iter().map(|line| line["step"].as_u64().unwrap())));
        for line in &lines[1..] {
            assert!(line["grad_norm"].as_f64().is_some_and(f64::is_finite));
            assert!(
                line["entropy_token_mean"]
                    .as_f64()
                    .is_some_and(f64::is_finite)
            );
        }
        // Step 3 samples one problem less: a group of step 2 was carried over.
        assert_eq!(lines[3]["groups_kept"], 2);
        assert!(checkpoint(&run, 4).is_dir());
    }
}

/// Replaces the first of some text in a file.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// The same in the run's checkpoint.
fn edit_saved(dir: &Path, name: &str, [from, to]: [&str; 2]) {
    edit(&checkpoint(&dir.join("run"), 2).join(name), from, to);
}

#[test]
fn what_changed_since_a_checkpoint_is_refused() {
    type Change = fn(&Path);
    let changes: [(&str, Change, &[&str], &str); 7] = [
        (
            "problems",
            |dir| edit(&dir.join("train.jsonl"), "32", "33"),
            &[],
            "data.train has changed",
        ),
        (
            "held-out problems",
            |dir| edit(&dir.join("validation.jsonl"), "32", "33"),
            &[],
            "data.validation has changed",
        ),
        (
            "problems that are gone",
            |dir| fs::remove_file(dir.join("train.jsonl")).unwrap(),
            &[],
            "train.jsonl",
        ),
        (
            "the tokenizer",
            |dir| edit_saved(dir, "tokenizer.json", ["\"1\"", "\"2\""]),
            &[],
            "tokenizer.json",
        ),
        (
            "the model's configuration",
            |dir| edit_saved(dir, "config.json", ["true", "null"]),
            &[],
            "config.json",
        ),
        (
            "the manifest's format",
            |dir| edit_saved(dir, "manifest.json", ["\"format\": 1", "\"format\": 2"]),
            &[],
            "manifest.json",
        ),
        (
            "the model",
            |_| (),
            &["model.path=another"],
            "a run goes on with its own model",
        ),
    ];
    for (what, change, settings, expected) in changes {
        let (dir, run) = kept("format-1");
        change(dir.path());
        let before = bits(&run);
        let said = resume(dir.path(), settings).refused();
        assert!(said.contains(expected), "{what}: {said}");
        assert!(bits(&run) == before, "{what}: a refusal changed the run");
    }
}

#[test]
fn settings_that_changed_since_a_checkpoint_are_told_of() {
    let expected = "changed from here on: rollout.temperature: 1.0 → 0.9";
    let (dir, _) = kept("format-1");
    let said = resume(dir.path(), &["rollout.temperature=0.9"]).done();
    assert!(said.contains(expected), "{said}");
    let (dir, run) = kept("format-1");
    edit(
        &run.join("config.toml"),
        "temperature = 1.0",
        "temperature = 0.9",
    );
    let said = resume(dir.path(), &[]).done();
    assert!(said.contains(expected), "{said}");
}
