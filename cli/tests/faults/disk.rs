//! Disks that are full, folders that cannot be written, and the modes of what is written.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{
    ANNEAL, Run, SETTINGS, anneal, assert_unbroken, checkpoint, kill_at, left, to_the_end,
};

/// The run's command under a shell's setting.
fn under(setting: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{setting}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, ANNEAL]).args(args);
    command
}

/// Newest step that is there, with no other step's writing left over.
fn newest_step(folder: &Path) -> u64 {
    assert_eq!(left(folder, ".tmp"), Vec::<String>::new());
    (1..=6)
        .rev()
        .find(|&step| checkpoint(folder, step).is_dir())
        .unwrap()
}

#[test]
fn a_file_that_cannot_grow_ends_the_run_and_keeps_what_was_saved() {
    // The weights have 3.2 MB, the optimizer's state 6.3: each is cut off in turn, at its start and near its end.
    for (kilobytes, file) in [
        (400, "model.safetensors"),
        (3_000, "model.safetensors"),
        (3_200, "optimizer.bpk"),
        (6_000, "optimizer.bpk"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        kill_at(&folder, 2);
        let limit = format!("trap '' XFSZ; ulimit -f {}", 2 * kilobytes);
        let resume = ["train", "--resume", folder.to_str().unwrap()];
        let said = Run::spawn(&mut under(&limit, &resume)).wait().refused();
        assert!(
            said.contains("File too large") || said.contains("os error 27"),
            "{said}"
        );
        let next = newest_step(&folder) + 1;
        assert!(said.contains(&format!("step-{next:06}.tmp")), "{said}");
        assert!(said.contains(file), "{said}");
        assert_names_room(&said);
        to_the_end(&folder);
        assert_unbroken(&folder, file);
    }
}

/// That a failure says what the checkpoint needs: 9.5 MB, and 6.3 while its optimizer is brought into order.
fn assert_names_room(said: &str) {
    let (_, rest) = said.split_once("needs ").unwrap_or_default();
    let bytes = rest.split(' ').next().unwrap_or_default().parse();
    let bytes: u64 = bytes.unwrap_or_else(|_| panic!("no bytes: {said}"));
    assert!((15_000_000..17_000_000).contains(&bytes), "{said}");
}

/// A small file system of its own.
struct Mount(PathBuf);

impl Mount {
    /// None where mounting is not allowed.
    fn new(path: &Path, megabytes: u32) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let mount = Self(path.to_owned());
        mount.mount(&format!("size={megabytes}m")).then_some(mount)
    }

    fn mount(&self, options: &str) -> bool {
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&self.0);
        command.output().is_ok_and(|output| output.status.success())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A test that fails must not leave it, and one that could not mount has nothing to take back.
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_ends_the_run_and_room_lets_it_go_on() {
    // Two checkpoints of 9.5 MB fit, and a part of the third.
    for megabytes in [22, 24, 27, 31] {
        let dir = tempfile::tempdir().unwrap();
        let Some(mount) = Mount::new(&dir.path().join("disk"), megabytes) else {
            println!("not allowed to mount a file system: only files' sizes were limited");
            return;
        };
        let folder = mount.0.join("run");
        let path = folder.to_str().unwrap();
        let start = [&["train", "--out", path], &SETTINGS[..]].concat();
        let said = Run::spawn(&mut anneal(&start)).wait().refused();
        assert!(
            said.contains("No space left on device"),
            "{megabytes} MB: {said}"
        );
        // What is full may be met by a step's lines too.
        if said.contains("checkpoints") {
            assert_names_room(&said);
        }
        let step = newest_step(&folder);
        assert!(step >= 1, "nothing was saved");
        assert!(mount.mount("remount,size=100m"));
        let said = to_the_end(&folder);
        assert!(
            said.contains(&format!("going on from step {step}\n")),
            "{said}"
        );
        assert_unbroken(&folder, &format!("{megabytes} MB"));
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    kill_at(&folder, 1);
    let checkpoints = folder.join("checkpoints");
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let is_root = rustix::process::geteuid().is_root();
    // Permissions do not bind root: another user runs it, a copy that that user can reach.
    let mut command = if is_root {
        let program = dir.path().join("anneal");
        fs::copy(ANNEAL, &program).unwrap();
        set_mode(dir.path(), 0o755);
        set_mode(&folder, 0o777);
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            set_mode(&path, if path.is_dir() { 0o777 } else { 0o666 });
        }
        let mut command = Command::new(program);
        command.uid(65_534).gid(65_534);
        command
    } else {
        Command::new(ANNEAL)
    };
    let leftover = checkpoints.join("step-000009.tmp");
    let _ = fs::remove_dir(&leftover);
    set_mode(&checkpoints, 0o555);
    let resume = ["train", "--resume", folder.to_str().unwrap()];
    let said = Run::spawn(command.args(resume)).wait();
    set_mode(&checkpoints, 0o755);
    let said = said.refused();
    assert!(
        said.contains("Permission denied") && said.contains("checkpoints"),
        "{said}"
    );
    to_the_end(&folder);
    assert_unbroken(&folder, "a read-only folder");
}

#[test]
fn files_have_the_modes_that_the_umask_leaves() {
    for (umask, mode) in [("022", 0o644), ("077", 0o600)] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let start = ["train", "--out", folder.to_str().unwrap()];
        let args = [&start[..], &SETTINGS[..], &["steps=1"]].concat();
        Run::spawn(&mut under(&format!("umask {umask}"), &args))
            .wait()
            .done();
        for entry in fs::read_dir(checkpoint(&folder, 1)).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(
                found,
                mode,
                "umask {umask}: {} has {found:o}",
                path.display()
            );
        }
    }
}
