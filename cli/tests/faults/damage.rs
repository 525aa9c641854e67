//! Checkpoints that are cut off or have flipped bits.

use std::{fs, path::Path};

use trainer::{TrainerError, newest_checkpoint};

use crate::harness::{
    Random, Run, assert_same, checkpoint, copy, left, times, to_the_end, train, unbroken,
};

const FILES: [&str; 8] = [
    "config.json",
    "manifest.json",
    "model.safetensors",
    "optimizer.bpk",
    "run_config.toml",
    "tokenizer.json",
    "tokenizer_config.json",
    "trainer_state.json",
];

/// A copy of the unbroken run, finished at step 6, with step 5 kept before it.
fn finished() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    copy(&unbroken().0, &folder);
    (dir, folder)
}

/// The step that is found, and what was said of those passed over.
fn newest(folder: &Path) -> (u64, String) {
    let mut damaged = String::new();
    let mut note = |error: &TrainerError| damaged.push_str(&error.to_string());
    let found = newest_checkpoint(folder, &mut note).unwrap();
    (found.unwrap().0, damaged)
}

#[test]
fn every_cut_and_every_flipped_bit_is_found() {
    let (_dir, folder) = finished();
    assert_eq!(newest(&folder), (6, String::new()));
    let mut random = Random::of("damage");
    let names = fs::read_dir(checkpoint(&folder, 6)).unwrap();
    assert_eq!(names.count(), FILES.len(), "a file is not tested");
    let mut tried = 0;
    for name in FILES {
        let path = checkpoint(&folder, 6).join(name);
        let whole = fs::read(&path).unwrap();
        let mut try_with = |content: &[u8], what: String| {
            fs::write(&path, content).unwrap();
            let (step, said) = newest(&folder);
            assert!(step == 5 && said.contains(name), "{name}, {what}: {said}");
            tried += 1;
        };
        let length = whole.len() as u64;
        for nth in 0..times().min(length) {
            let cut = nth * length / times();
            try_with(&whole[..cut as usize], format!("cut at {cut}"));
        }
        let mut flipped = whole.clone();
        for _ in 0..2 * times() {
            let bit = random.below(8 * length);
            let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
            flipped[byte] ^= mask;
            try_with(&flipped, format!("bit {bit} flipped"));
            flipped[byte] ^= mask;
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(newest(&folder), (6, String::new()));
    println!("{tried} damaged files, all found");
}

#[test]
fn a_run_goes_on_from_the_checkpoint_before_a_damaged_one() {
    for name in [
        "manifest.json",
        "model.safetensors",
        "optimizer.bpk",
        "trainer_state.json",
    ] {
        let (_dir, folder) = finished();
        let path = checkpoint(&folder, 6).join(name);
        let mut content = fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&path, content).unwrap();
        let said = to_the_end(&folder);
        assert!(
            said.contains("warning: passed over") && said.contains(name),
            "{said}"
        );
        assert!(said.contains("going on from step 5"), "{said}");
        // What was damaged is kept for whoever wants to look at it.
        assert_eq!(left(&folder, ".damaged"), ["step-000006.damaged"]);
        fs::remove_dir_all(folder.join("checkpoints/step-000006.damaged")).unwrap();
        // Step 6 is made again, and 4 is gone in both.
        assert_same(&folder, &unbroken().0, name);
    }
}

#[test]
fn a_run_with_damaged_checkpoints_alone_is_refused_and_left_as_it_is() {
    let (_dir, folder) = finished();
    for step in [5, 6] {
        let path = checkpoint(&folder, step).join("optimizer.bpk");
        let length = fs::metadata(&path).unwrap().len();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length / 3)
            .unwrap();
    }
    let said = Run::spawn(&mut train(&folder)).wait().refused();
    assert!(
        said.contains("none of its 2 checkpoints is whole"),
        "{said}"
    );
    assert!(said.matches("passed over").count() == 2, "{said}");
    assert!(checkpoint(&folder, 5).is_dir() && checkpoint(&folder, 6).is_dir());
}
