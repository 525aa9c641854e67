//! A folder that appears whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::PolicyError;

/// A folder under a temporary name beside its destination; dropped before it is published, it is removed.
#[derive(Debug)]
pub struct OutputFolder {
    destination: PathBuf,
    temporary: Option<PathBuf>,
}

impl OutputFolder {
    /// Makes the temporary folder, and its parents.
    ///
    /// # Errors
    /// The destination is in use or has no name, or the system refuses.
    pub fn create(destination: &Path) -> Result<Self, PolicyError> {
        Self::check_unused(destination)?;
        let Some(name) = destination.file_name() else {
            let what = "name for an output folder".into();
            return Err(PolicyError::NotFound {
                path: destination.to_owned(),
                what,
            });
        };
        let name = format!(".{}.{}.partial", name.display(), std::process::id());
        let temporary = destination.with_file_name(name);
        // A person knows the folder by the name that they gave it.
        let io = |source| PolicyError::Io {
            path: destination.to_owned(),
            source,
        };
        if let Some(parent) = temporary.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        // What a process of the same number left behind when it was killed.
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir(&temporary).map_err(io)?;
        Ok(Self {
            destination: destination.to_owned(),
            temporary: Some(temporary),
        })
    }

    /// Refuses a destination that is a file, or a folder that holds anything.
    ///
    /// # Errors
    /// [`PolicyError::OutputInUse`].
    pub fn check_unused(destination: &Path) -> Result<(), PolicyError> {
        if is_in_use(destination) {
            return Err(PolicyError::OutputInUse {
                path: destination.to_owned(),
            });
        }
        Ok(())
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.destination)
    }

    /// Gives the folder its name, once its content has reached the disk.
    ///
    /// # Errors
    /// The system refuses.
    pub fn publish(mut self) -> Result<(), PolicyError> {
        let io = |source| PolicyError::Io {
            path: self.destination.clone(),
            source,
        };
        sync(self.path()).map_err(io)?;
        // An empty folder may stand there; a rename onto it is refused on some systems.
        let _ = fs::remove_dir(&self.destination);
        fs::rename(self.path(), &self.destination).map_err(io)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_dir_all(temporary);
        }
    }
}

/// Whether something stands there already: a file, or a folder with something in it.
fn is_in_use(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.exists(),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Ok(())
}

/// Writes indented JSON.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), PolicyError> {
    let write = || File::create(path)?.write_all(format!("{value:#}\n").as_bytes());
    write().map_err(|source| PolicyError::Io {
        path: path.to_owned(),
        source,
    })
}
