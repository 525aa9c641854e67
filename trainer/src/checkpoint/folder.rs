//! A run's `checkpoints/`: what lies there, which one is the newest whole one, and what is removed.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::manifest::Manifest;
use crate::{
    TrainerError,
    durable::{beside, io_at, parent, remove_if_there, sync_folder},
    failpoint::{failpoint, failpoint_half_done},
};

/// The ending of what is being written or removed.
pub(crate) const UNFINISHED: &str = ".tmp";
/// The ending of a checkpoint that another one of the same step is replacing.
const REPLACED: &str = ".old";
/// The ending of a checkpoint that a resume passed over.
const DAMAGED: &str = ".damaged";

/// The step that a checkpoint's folder is named by.
pub(super) fn checkpoint_step(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("step-")?.parse().ok()
}

fn checkpoints(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// What lies in a folder; nothing where it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainerError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_at(folder))?,
    };
    entries
        .map(|entry| Ok(entry.map_err(io_at(folder))?.path()))
        .collect()
}

/// The checkpoints of a run, oldest first; damaged ones too.
///
/// # Errors
/// The folder cannot be read.
pub fn list_checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>, TrainerError> {
    let paths = entries(&checkpoints(run))?.into_iter();
    let mut found: Vec<_> = paths
        .filter_map(|path| Some((checkpoint_step(&path)?, path)))
        .collect();
    found.sort();
    Ok(found)
}

/// The newest checkpoint of a run whose every file is as it was written; `None` where there is none at all. Damaged ones
/// that are newer are told of.
///
/// # Errors
/// The folder cannot be read, or all of its checkpoints are damaged.
pub fn newest_checkpoint(
    run: &Path,
    on_damaged: &mut dyn FnMut(&TrainerError),
) -> Result<Option<(u64, PathBuf)>, TrainerError> {
    let all = list_checkpoints(run)?;
    let count = all.len();
    for (step, path) in all.into_iter().rev() {
        match verify(step, &path) {
            Ok(()) => return Ok(Some((step, path))),
            Err(error) => on_damaged(&error),
        }
    }
    if count == 0 {
        return Ok(None);
    }
    Err(TrainerError::Damaged {
        path: checkpoints(run),
        message: format!("none of its {count} checkpoints is whole; the run cannot go on"),
    })
}

/// Compares a checkpoint with its manifest, and its name with its step.
fn verify(step: u64, path: &Path) -> Result<(), TrainerError> {
    let manifest = Manifest::verify(path)?;
    if manifest.step == step {
        return Ok(());
    }
    Err(TrainerError::Damaged {
        path: path.to_owned(),
        message: format!("holds step {} under another step's name", manifest.step),
    })
}

/// Gives a sealed folder its name. What had that name before is there until then, and what replaced it after.
pub(super) fn commit(sealed: &Path, path: &Path) -> Result<(), TrainerError> {
    let replaced = beside(path, REPLACED);
    if path.exists() {
        remove_if_there(&replaced)?;
        fs::rename(path, &replaced).map_err(io_at(path))?;
    }
    fs::rename(sealed, path).map_err(io_at(path))?;
    failpoint("checkpoint-renamed");
    sync_folder(parent(path))?;
    failpoint("checkpoint-committed");
    remove_if_there(&replaced)
}

/// Clears away what a process that was killed left half written, half replaced or half removed.
pub(crate) fn tidy(run: &Path) -> Result<(), TrainerError> {
    for path in entries(&checkpoints(run))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(step) = name.strip_suffix(REPLACED) {
            let whole = path.with_file_name(step);
            if whole.exists() {
                remove_if_there(&path)?;
            } else {
                fs::rename(&path, &whole).map_err(io_at(&path))?;
            }
        } else if name.starts_with("step-") && name.ends_with(UNFINISHED) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// Puts aside the checkpoints after the one that a run goes on from: they are damaged.
pub(crate) fn put_aside_after(run: &Path, step: u64) -> Result<(), TrainerError> {
    for (_, path) in list_checkpoints(run)?.iter().filter(|(s, _)| *s > step) {
        let aside = beside(path, DAMAGED);
        remove_if_there(&aside)?;
        fs::rename(path, aside).map_err(io_at(path))?;
    }
    Ok(())
}

/// Removes all but the newest `keep` checkpoints and the best; 0 keeps all.
pub(crate) fn prune(run: &Path, keep: usize, best: Option<u64>) -> Result<(), TrainerError> {
    if keep == 0 {
        return Ok(());
    }
    let all = list_checkpoints(run)?;
    let surplus = all.len().saturating_sub(keep);
    for (_, path) in all[..surplus].iter().filter(|(s, _)| Some(*s) != best) {
        // Renamed first: what is half removed must not pass for a checkpoint.
        let going = beside(path, UNFINISHED);
        remove_if_there(&going)?;
        fs::rename(path, &going).map_err(io_at(path))?;
        failpoint("old-renamed");
        failpoint_half_done("old-half-removed", || {
            let files = entries(&going).unwrap_or_default();
            for file in &files[..files.len() / 2] {
                drop(fs::remove_file(file));
            }
        });
        remove_if_there(&going)?;
        failpoint("old-removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::manifest::sha256, *};

    /// A run with checkpoints of a single file each.
    fn run(steps: &[u64]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for &step in steps {
            let path = checkpoints(dir.path()).join(format!("step-{step:06}"));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("state"), step.to_string()).unwrap();
            Manifest::seal(&path, step, sha256(b"")).unwrap();
        }
        dir
    }

    fn steps(dir: &tempfile::TempDir) -> Vec<u64> {
        let all = list_checkpoints(dir.path()).unwrap();
        all.into_iter().map(|(step, _)| step).collect()
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        let paths = entries(&checkpoints(dir.path())).unwrap();
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<_> = paths.into_iter().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_whole_checkpoint_is_found_and_damage_is_named() {
        let dir = run(&[1, 2, 3]);
        let newest = |damaged: &mut Vec<String>| {
            let mut note = |error: &TrainerError| damaged.push(error.to_string());
            newest_checkpoint(dir.path(), &mut note).map(|found| found.map(|(step, _)| step))
        };
        let mut damaged = Vec::new();
        assert_eq!(newest(&mut damaged).unwrap(), Some(3));
        assert!(damaged.is_empty());
        let path = |step: u64| checkpoints(dir.path()).join(format!("step-{step:06}"));
        fs::write(path(3).join("state"), "4").unwrap();
        // A whole checkpoint under another name.
        fs::rename(path(2), path(5)).unwrap();
        assert_eq!(newest(&mut damaged).unwrap(), Some(1));
        assert!(damaged[0].contains("holds step 2") && damaged[1].contains("step-000003"));
        fs::remove_file(path(1).join(super::super::manifest::MANIFEST)).unwrap();
        assert!(
            newest(&mut damaged)
                .unwrap_err()
                .to_string()
                .contains("3 checkpoints")
        );
        assert_eq!(
            newest_checkpoint(&dir.path().join("none"), &mut |_| ()).unwrap(),
            None
        );
    }

    #[test]
    fn the_newest_and_the_best_are_kept() {
        for (keep, best, left) in [
            (0, None, vec![1, 2, 3, 4]),
            (1, None, vec![4]),
            (2, None, vec![3, 4]),
            (5, None, vec![1, 2, 3, 4]),
            (1, Some(2), vec![2, 4]),
            (2, Some(4), vec![3, 4]),
        ] {
            let dir = run(&[1, 2, 3, 4]);
            prune(dir.path(), keep, best).unwrap();
            assert_eq!(steps(&dir), left, "keep {keep}, best {best:?}");
        }
    }

    #[test]
    fn what_a_killed_process_left_is_cleared_away() {
        let dir = run(&[1, 2, 3]);
        let path = |name: &str| checkpoints(dir.path()).join(name);
        // Killed while it wrote step 4, removed step 1, and between the renames of step 2; a replaced step 3 was left.
        fs::create_dir(path("step-000004.tmp")).unwrap();
        fs::rename(path("step-000001"), path("step-000001.tmp")).unwrap();
        fs::rename(path("step-000002"), path("step-000002.old")).unwrap();
        fs::create_dir(path("step-000003.old")).unwrap();
        tidy(dir.path()).unwrap();
        assert_eq!(names(&dir), ["step-000002", "step-000003"]);
        put_aside_after(dir.path(), 2).unwrap();
        assert_eq!(names(&dir), ["step-000002", "step-000003.damaged"]);
        assert_eq!(steps(&dir), [2]);
    }

    #[test]
    fn a_checkpoint_replaces_one_of_its_name() {
        let (dir, new) = (run(&[1]), run(&[1]));
        let path = checkpoints(dir.path()).join("step-000001");
        let sealed = beside(&path, UNFINISHED);
        fs::rename(checkpoints(new.path()).join("step-000001"), &sealed).unwrap();
        fs::write(path.join("state"), "damaged").unwrap();
        commit(&sealed, &path).unwrap();
        assert_eq!(names(&dir), ["step-000001"]);
        assert_eq!(fs::read_to_string(path.join("state")).unwrap(), "1");
    }
}
