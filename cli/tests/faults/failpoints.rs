//! The process ends at each place where something is half done.

use std::{collections::BTreeMap, fs, os::unix::process::ExitStatusExt, path::Path};

use trainer::newest_checkpoint;

use crate::harness::{
    Random, Run, assert_unbroken, copy, kill_at, times, to_the_end, train, unbroken,
};

const SIGABRT: i32 = 6;

/// The places that a run passes on its way, and how often it passes each.
fn places(folder: &Path) -> BTreeMap<String, u64> {
    let said = Run::spawn(train(folder).env("ANNEAL_FAILPOINT", "list"))
        .wait()
        .done();
    let mut places = BTreeMap::new();
    for place in said
        .lines()
        .filter_map(|line| line.strip_prefix("failpoint "))
    {
        *places.entry(place.to_owned()).or_default() += 1;
    }
    places
}

/// Ends the run at a place's `count`-th pass, and then goes on with it.
fn end_at(folder: &Path, place: &str, count: u64) {
    let at = format!("{place}:{count}");
    let ended = Run::spawn(train(folder).env("ANNEAL_FAILPOINT", &at)).wait();
    assert_eq!(
        ended.status.signal(),
        Some(SIGABRT),
        "{at}: {}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains(&format!("failpoint {place}\n")),
        "{at}"
    );
    let mut torn = |error: &trainer::TrainerError| unreachable!("{at}: {error}");
    let newest = newest_checkpoint(folder, &mut torn).unwrap();
    let said = to_the_end(folder);
    let from = newest.map(|(step, _)| match step {
        6 => "finished at step 6 of 6".to_owned(),
        step => format!("going on from step {step}\n"),
    });
    assert!(from.is_none_or(|from| said.contains(&from)), "{at}: {said}");
    assert_unbroken(folder, &at);
}

#[test]
fn a_run_that_ends_at_any_place_ends_in_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let listed = dir.path().join("listed");
    let places = places(&listed);
    assert_unbroken(&listed, "a run that lists its places");
    assert!(places.len() >= 35, "{places:?}");
    let mut random = Random::of("failpoints");
    let rounds = (times() / 10).max(1);
    for round in 0..rounds {
        for (place, &passes) in &places {
            // First in the middle of a run, where there is something to lose.
            let count = match round {
                0 => passes.div_ceil(2),
                _ => 1 + random.below(passes),
            };
            let folder = dir.path().join("run");
            end_at(&folder, place, count);
            fs::remove_dir_all(&folder).unwrap();
        }
    }
    println!("{} places, {rounds} times each", places.len());
}

/// The last checkpoint is whole then, and the run finished, with one checkpoint too many.
#[test]
fn what_a_finished_run_had_not_removed_yet_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let places = places(&dir.path().join("listed"));
    for place in ["checkpoint-committed", "old-renamed"] {
        let folder = dir.path().join(place);
        end_at(&folder, place, places[place]);
    }
}

#[test]
fn a_resume_that_ends_before_its_first_step_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let (killed, listed) = (dir.path().join("killed"), dir.path().join("listed"));
    kill_at(&killed, 3);
    copy(&killed, &listed);
    let before_the_first_step = |place: &str| {
        place.starts_with("replacement") || ["lock-taken", "folders-made"].contains(&place)
    };
    let mut ended = 0;
    for (place, passes) in places(&listed) {
        for count in 1..=passes {
            if before_the_first_step(&place) {
                let folder = dir.path().join("run");
                copy(&killed, &folder);
                end_at(&folder, &place, count);
                fs::remove_dir_all(&folder).unwrap();
                ended += 1;
            }
        }
    }
    assert!(ended >= 10, "{ended}");
    assert_unbroken(&unbroken().0, "the unbroken run");
}
