//! Two processes and one folder.

use std::{fs, time::Duration};

use rustix::process::Signal;

use crate::harness::{
    Run, SETTINGS, anneal, assert_unbroken, checkpoint, kill_at, to_the_end, train,
};

#[test]
fn a_second_process_is_refused_with_the_number_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let mut first = Run::spawn(&mut train(&folder));
    assert!(first.wait_until(|| checkpoint(&folder, 1).exists()));
    first.signal(Signal::STOP);
    let path = folder.to_str().unwrap();
    let out = [&["train", "--out", path], &SETTINGS[..]].concat();
    for args in [&["train", "--resume", path][..], &out] {
        let second = Run::spawn(&mut anneal(args)).wait();
        assert!(
            second.lasted < Duration::from_secs(1),
            "{:?}",
            second.lasted
        );
        let (said, holder) = (second.refused(), first.child.id());
        assert!(
            said.contains(&format!("process {holder} is at work")),
            "{said}"
        );
    }
    first.signal(Signal::CONT);
    first.wait().done();
    assert_unbroken(&folder, "beside a second process");
}

#[test]
fn a_lock_does_not_outlive_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    kill_at(&folder, 1);
    // The number of a process that lives, as a number that was given anew would be.
    let id = std::process::id().to_string();
    fs::write(folder.join(".lock"), id).unwrap();
    to_the_end(&folder);
    assert_unbroken(&folder, "after a stale lock");
}
