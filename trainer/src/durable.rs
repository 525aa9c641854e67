//! Files that outlast a crash of the machine.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{
    TrainerError,
    failpoint::{failpoint, failpoint_half_done},
};

/// What the system said of a path.
pub(crate) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> TrainerError {
    let path = path.to_owned();
    move |source| TrainerError::Io { path, source }
}

/// A path's neighbour: its name with an ending.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Waits until a file's content is on the disk.
pub(crate) fn sync_file(path: &Path) -> Result<(), TrainerError> {
    // Some systems sync only what may be written.
    let file = OpenOptions::new().read(true).write(true).open(path);
    sync_open_file(&file.map_err(io_at(path))?, path)
}

/// The same of a file that is open.
pub(crate) fn sync_open_file(file: &File, path: &Path) -> Result<(), TrainerError> {
    file.sync_all().map_err(io_at(path))?;
    #[cfg(test)]
    note(Noted::SyncedFile(path));
    Ok(())
}

/// Waits until a folder's names are on the disk.
pub(crate) fn sync_folder(path: &Path) -> Result<(), TrainerError> {
    if cfg!(unix) {
        let synced = File::open(path).and_then(|folder| folder.sync_all());
        synced.map_err(io_at(path))?;
        #[cfg(test)]
        note(Noted::SyncedFolder(path));
    }
    Ok(())
}

/// The folder that a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes a folder with those that it lies in, and waits until their names are on the disk.
pub(crate) fn create_folder(path: &Path) -> Result<(), TrainerError> {
    if path.is_dir() {
        return Ok(());
    }
    if parent(path) != path {
        create_folder(parent(path))?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_at(path)(error));
        }
        _ => (),
    }
    sync_folder(parent(path))
}

/// Writes a file and waits until it is on the disk. Passes three places: with half of it written, all of it, and synced.
pub(crate) fn write_synced(
    path: &Path,
    content: &[u8],
    [half, written, synced]: [&'static str; 3],
) -> Result<(), TrainerError> {
    let mut file = File::create(path).map_err(io_at(path))?;
    failpoint_half_done(half, || {
        let _ = file.write_all(&content[..content.len() / 2]);
    });
    file.write_all(content).map_err(io_at(path))?;
    failpoint(written);
    sync_open_file(&file, path)?;
    failpoint(synced);
    Ok(())
}

/// Writes a file beside and renames it, so that one of the two is there whole whatever happens.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), TrainerError> {
    let new = path.with_extension("tmp");
    let places = [
        "replacement-half",
        "replacement-written",
        "replacement-synced",
    ];
    write_synced(&new, content, places)?;
    fs::rename(&new, path).map_err(io_at(path))?;
    failpoint("replacement-renamed");
    sync_folder(parent(path))
}

/// Removes a file, or a folder with all that it holds, if it is there.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), TrainerError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

/// What a test's model of a disk is told of.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) enum Noted<'a> {
    /// A file's content is on the disk.
    SyncedFile(&'a Path),
    /// A folder's names are.
    SyncedFolder(&'a Path),
    /// A failpoint was passed: something may have been written, or has another name.
    Passed(&'static str),
}

#[cfg(test)]
type Observer = Box<dyn FnMut(Noted<'_>)>;

#[cfg(test)]
thread_local! {
    /// Who is told, of what this thread does.
    pub(crate) static OBSERVER: std::cell::RefCell<Option<Observer>> = const { std::cell::RefCell::new(None) };
}

#[cfg(test)]
pub(crate) fn note(noted: Noted<'_>) {
    OBSERVER.with_borrow_mut(|observer| {
        if let Some(observer) = observer {
            observer(noted);
        }
    });
}
