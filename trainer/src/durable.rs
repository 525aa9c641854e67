//! Files that outlast a crash of the machine.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::TrainerError;

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
    let synced = file.and_then(|file| file.sync_all());
    synced.map_err(io_at(path))
}

/// Waits until a folder's names are on the disk.
pub(crate) fn sync_folder(path: &Path) -> Result<(), TrainerError> {
    if cfg!(unix) {
        let synced = File::open(path).and_then(|folder| folder.sync_all());
        return synced.map_err(io_at(path));
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

/// Writes a file and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, content: &[u8]) -> Result<(), TrainerError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(io_at(path))
}

/// Writes a file beside and renames it, so that one of the two is there whole whatever happens.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), TrainerError> {
    let new = path.with_extension("tmp");
    write_synced(&new, content)?;
    fs::rename(&new, path).map_err(io_at(path))?;
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
