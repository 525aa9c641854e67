//! The files of a model's folder: regular ones, of a bounded size, that lie in the folder.
//!
//! A folder may come from anywhere. A link in it could name a device that never ends, a pipe on which a read waits
//! forever, or a private file whose content would be copied into every checkpoint.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::PolicyError;

/// A file's content.
///
/// # Errors
/// A file that is missing, not regular, outside of its folder or larger than `most_bytes`.
pub(crate) fn read(path: &Path, most_bytes: u64) -> Result<Vec<u8>, PolicyError> {
    let (file, bytes) = open(path)?;
    if bytes > most_bytes {
        return Err(PolicyError::TooLarge {
            path: path.to_owned(),
            bytes,
            most_bytes,
        });
    }
    let mut content = Vec::with_capacity(bytes as usize);
    // What has grown since shall not fill the memory.
    let read = file.take(most_bytes).read_to_end(&mut content);
    read.map_err(io(path))?;
    Ok(content)
}

/// The same, as JSON.
pub(crate) fn read_json(path: &Path, most_bytes: u64) -> Result<Value, PolicyError> {
    serde_json::from_slice(&read(path, most_bytes)?).map_err(|source| PolicyError::InvalidJson {
        path: path.to_owned(),
        source,
    })
}

/// An open file and its size.
///
/// # Errors
/// As [`read`], but for the size.
pub(crate) fn open(path: &Path) -> Result<(File, u64), PolicyError> {
    // Before it is opened: to open a pipe is to wait for its other end.
    let metadata = fs::metadata(path).map_err(io(path))?;
    if !metadata.is_file() {
        return Err(PolicyError::NotRegular {
            path: path.to_owned(),
        });
    }
    if !is_within(path).map_err(io(path))? {
        return Err(PolicyError::Outside {
            path: path.to_owned(),
        });
    }
    let file = File::open(path).map_err(io(path))?;
    let bytes = file.metadata().map_err(io(path))?.len();
    Ok((file, bytes))
}

/// Whether a file is where its folder is, links followed; the hub's cache keeps files in `blobs/`, and a folder of links
/// to them in `snapshots/COMMIT/`.
fn is_within(path: &Path) -> std::io::Result<bool> {
    let real = path.canonicalize()?;
    let folder = path.parent().unwrap_or(Path::new("")).join(".");
    let folder = folder.canonicalize()?;
    Ok(real.starts_with(&folder) || blobs(&folder).is_some_and(|blobs| real.starts_with(blobs)))
}

fn blobs(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.parent()?;
    (snapshots.file_name() == Some(OsStr::new("snapshots")))
        .then(|| snapshots.with_file_name("blobs"))
}

pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> PolicyError {
    move |source| PolicyError::Io {
        path: path.to_owned(),
        source,
    }
}
