//! Power lost at any moment of a run: what was not synced is gone, zeroed, or on the disk in another order.
//!
//! A small run is watched through the notes that `durable` and the failpoints give in tests. At each of them the run's
//! folder is taken down, with what of it was synced; afterwards it is built anew as a disk could have it.
#![cfg(unix)]

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use burn::tensor::{DType, Device};
use policy::Policy;
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::newest_checkpoint;
use crate::{
    Event, RunFolder, RunLock, TrainConfig, Trainer,
    durable::{Noted, OBSERVER},
    tiny,
};

type Inode = u64;
type Content = Rc<Vec<u8>>;
type Names = BTreeMap<OsString, Inode>;

/// What an inode holds.
#[derive(Debug, Clone, Default)]
struct Held {
    content: Content,
    names: Rc<Names>,
}

/// What becomes of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    /// Neither names nor contents are there.
    Dropped,
    /// The names are there, and zeros where contents should be.
    Zeroed,
    /// Each name and each content is there or not, or by half.
    Reordered,
}

/// A moment of the run.
struct Moment {
    place: &'static str,
    /// The last step whose checkpoint was said to be saved.
    committed: u64,
    shown: HashMap<Inode, Held>,
    synced: HashMap<Inode, Held>,
}

/// A folder as the system shows it, and what of it is on the disk for certain.
struct Recording {
    root: PathBuf,
    shown: HashMap<Inode, Held>,
    synced: HashMap<Inode, Held>,
    folders: HashSet<Inode>,
    /// Open, so that no number is given to a second file.
    open: HashMap<Inode, File>,
    committed: u64,
    moments: Vec<Moment>,
}

impl Recording {
    fn new(root: &Path) -> Self {
        let mut recording = Self {
            root: root.to_owned(),
            shown: HashMap::new(),
            synced: HashMap::new(),
            folders: HashSet::new(),
            open: HashMap::new(),
            committed: 0,
            moments: Vec::new(),
        };
        recording.look(root);
        recording
    }

    fn note(&mut self, noted: Noted<'_>) {
        let root = self.root.clone();
        self.look(&root);
        let place = match noted {
            Noted::SyncedFile(path) | Noted::SyncedFolder(path) if path.starts_with(&self.root) => {
                let inode = fs::metadata(path).unwrap().ino();
                self.synced.insert(inode, self.shown[&inode].clone());
                "a sync"
            }
            Noted::SyncedFile(_) | Noted::SyncedFolder(_) => return,
            Noted::Passed(place) => {
                self.committed += u64::from(place == "checkpoint-committed");
                place
            }
        };
        self.moments.push(Moment {
            place,
            committed: self.committed,
            shown: self.shown.clone(),
            synced: self.synced.clone(),
        });
    }

    /// Takes down what lies at a path. What is not there any more stays known: its name may outlast it.
    fn look(&mut self, path: &Path) -> Inode {
        let file = File::open(path).unwrap();
        let metadata = file.metadata().unwrap();
        let inode = metadata.ino();
        let mut held = Held::default();
        if metadata.is_dir() {
            self.folders.insert(inode);
            let entries = fs::read_dir(path).unwrap().map(Result::unwrap);
            let names = entries.map(|entry| (entry.file_name(), self.look(&entry.path())));
            held.names = Rc::new(names.collect());
        } else {
            let content = fs::read(path).unwrap();
            let known = self.shown.get(&inode).map(|held| Rc::clone(&held.content));
            held.content = match known {
                Some(known) if *known == content => known,
                _ => Rc::new(content),
            };
        }
        self.open.entry(inode).or_insert(file);
        self.shown.insert(inode, held);
        inode
    }
}

/// A disk after the power is back.
struct After<'a> {
    moment: &'a Moment,
    folders: &'a HashSet<Inode>,
    loss: Loss,
    random: ChaCha8Rng,
}

impl After<'_> {
    fn build(&mut self, inode: Inode, path: &Path) {
        let shown = self.moment.shown.get(&inode).cloned().unwrap_or_default();
        let synced = self.moment.synced.get(&inode).cloned().unwrap_or_default();
        if self.folders.contains(&inode) {
            fs::create_dir_all(path).unwrap();
            for (name, inode) in self.names(&shown.names, &synced.names) {
                self.build(inode, &path.join(name));
            }
        } else {
            let content = self.content(&shown.content, &synced.content);
            fs::write(path, content).unwrap();
        }
    }

    fn names(&mut self, shown: &Names, synced: &Names) -> Names {
        match self.loss {
            Loss::Dropped => synced.clone(),
            Loss::Zeroed => shown.clone(),
            Loss::Reordered => {
                let all: HashSet<&OsString> = shown.keys().chain(synced.keys()).collect();
                let mut all: Vec<_> = all.into_iter().collect();
                all.sort();
                let either = |name: &OsString| {
                    let names = if self.random.random() { shown } else { synced };
                    Some((name.clone(), *names.get(name)?))
                };
                all.into_iter().filter_map(either).collect()
            }
        }
    }

    fn content(&mut self, shown: &[u8], synced: &[u8]) -> Vec<u8> {
        if shown == synced {
            return shown.to_vec();
        }
        // What was appended is lost, and not what it was appended to.
        let kept = if shown.starts_with(synced) {
            synced.len()
        } else {
            0
        };
        let zeroed = || [&shown[..kept], &vec![0; shown.len() - kept]].concat();
        match self.loss {
            Loss::Dropped => synced.to_vec(),
            Loss::Zeroed => zeroed(),
            Loss::Reordered => match self.random.random_range(0..4) {
                0 => synced.to_vec(),
                1 => shown.to_vec(),
                2 => zeroed(),
                _ => shown[..kept + (shown.len() - kept) / 2].to_vec(),
            },
        }
    }
}

const STEPS: u64 = 4;

/// Runs [`STEPS`] steps in `runs/one` of a folder and takes down every moment.
fn record(root: &Path) -> Recording {
    let recording = Rc::new(RefCell::new(Recording::new(root)));
    let watching = Rc::clone(&recording);
    OBSERVER.set(Some(Box::new(move |noted| {
        watching.borrow_mut().note(noted);
    })));
    let mut trainer = Trainer::new(tiny::config(&["steps=4"]), tiny::policy()).unwrap();
    let mut folder = RunFolder::create(&root.join("runs/one"), trainer.config()).unwrap();
    trainer.run(&mut folder, &mut |_: Event<'_>| ()).unwrap();
    OBSERVER.set(None);
    Rc::into_inner(recording).unwrap().into_inner()
}

/// That a run goes on from the last step that was said to be saved, or from a later one.
fn check(root: &Path, committed: u64, what: &str) {
    let run = root.join("runs/one");
    if !run.join("config.toml").exists() {
        assert_eq!(committed, 0, "{what}: the run is lost");
        return;
    }
    let config = TrainConfig::load(Some(&run.join("config.toml")), &[]).unwrap();
    let newest = || {
        let mut torn = |error: &crate::TrainerError| unreachable!("{what}: {error}");
        newest_checkpoint(&run, &mut torn).unwrap()
    };
    let lock = RunLock::take(&run).unwrap();
    let (step, path) = newest().unwrap_or_default();
    assert!(
        step >= committed,
        "{what}: step {step} of {committed} is left"
    );
    let folder = RunFolder::go_on(lock, step, &config).unwrap();
    let lines = folder.metrics().unwrap();
    let steps = lines.iter().map(|line| line.step);
    let kept = if step == 0 { 0 } else { step + 1 };
    assert!(steps.eq(0..kept), "{what}: metrics");
    if step > 0 {
        assert_eq!(newest().unwrap_or_default().0, step);
        let policy = Policy::load(&path, DType::F32, &Device::flex().autodiff()).unwrap();
        let mut trainer = Trainer::new(config, policy).unwrap();
        trainer.load_state(&path).unwrap();
        assert_eq!(trainer.state().step, step);
    }
}

#[test]
fn what_was_saved_outlasts_the_power_at_every_moment() {
    let dir = tempfile::tempdir().unwrap();
    let recording = record(dir.path());
    let root = fs::metadata(dir.path()).unwrap().ino();
    let (mut built, mut gone_on) = (0, 0);
    for (index, moment) in recording.moments.iter().enumerate() {
        for loss in [Loss::Dropped, Loss::Zeroed, Loss::Reordered] {
            let after = tempfile::tempdir().unwrap();
            let mut disk = After {
                moment,
                folders: &recording.folders,
                loss,
                random: ChaCha8Rng::seed_from_u64(index as u64),
            };
            disk.build(root, after.path());
            let what = format!("moment {index} ({}), {loss:?}", moment.place);
            check(after.path(), moment.committed, &what);
            built += 1;
            gone_on += usize::from(moment.committed > 0);
        }
    }
    println!("{built} disks, {gone_on} of them with a checkpoint");
    assert_eq!(recording.committed, STEPS);
    assert!(built >= 300, "{built} disks");
    assert!(gone_on >= 200, "{gone_on} disks with a checkpoint");
}
