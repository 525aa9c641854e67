//! SIGKILL at any moment.

use std::{os::unix::process::ExitStatusExt, path::Path, thread, time::Duration};

use rustix::process::Signal;

use crate::harness::{
    Random, Run, assert_unbroken, kill_at, left, times, to_the_end, train, unbroken,
};

/// When to kill.
enum Moment {
    /// So long after the start.
    After(Duration),
    /// So long after a checkpoint's writing is first seen.
    InSave(Duration),
}

/// Kills a process of the run; `false` where it was over before.
fn kill(folder: &Path, moment: &Moment) -> bool {
    let mut run = Run::spawn(&mut train(folder));
    match *moment {
        Moment::After(time) => thread::sleep(time),
        Moment::InSave(time) => {
            if run.wait_until(|| !left(folder, ".tmp").is_empty()) {
                thread::sleep(time);
            }
        }
    }
    if run.is_running() {
        // One that ends now has not been waited for: the number is still its own.
        run.signal(Signal::KILL);
    }
    run.wait().status.signal() == Some(9)
}

#[test]
fn a_run_killed_at_any_moment_ends_in_the_same_bits() {
    let mut random = Random::of("kills");
    let took = unbroken().1.as_millis() as u64;
    let (mut killed, mut in_save, mut runs) = (0, 0, 0);
    while killed < times() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        // One kill, two or three on the way to the end, some of them during a resume.
        for _ in 0..=random.below(3) {
            let moment = if random.below(3) == 0 {
                Moment::InSave(Duration::from_micros(random.below(20_000)))
            } else {
                Moment::After(Duration::from_millis(random.below(took)))
            };
            killed += u64::from(kill(&folder, &moment));
            in_save += u64::from(!left(&folder, ".tmp").is_empty());
        }
        to_the_end(&folder);
        assert_unbroken(&folder, &format!("run {runs}"));
        runs += 1;
    }
    println!("{killed} kills of {runs} runs, {in_save} within a checkpoint's writing or removal");
    assert!(in_save > 0, "no kill came while a checkpoint was written");
}

#[test]
fn the_third_resume_is_as_exact_as_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    for step in [1, 2, 4] {
        kill_at(&folder, step);
    }
    to_the_end(&folder);
    assert_unbroken(&folder, "three resumes");
}
