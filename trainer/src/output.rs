//! A folder that appears whole or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::TrainerError;

/// A folder being filled beside its final place; what is not committed vanishes.
#[derive(Debug)]
pub struct OutputFolder {
    beside: PathBuf,
    target: PathBuf,
    is_committed: bool,
}

impl OutputFolder {
    /// Makes the folder beside its final place.
    ///
    /// # Errors
    /// The final place holds something already, or its parent cannot be written.
    pub fn reserve(target: &Path) -> Result<Self, TrainerError> {
        check_unused(target)?;
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let beside = target.with_file_name(name);
        let io = |source| TrainerError::Io {
            path: beside.clone(),
            source,
        };
        if beside.exists() {
            fs::remove_dir_all(&beside).map_err(io)?;
        }
        fs::create_dir_all(&beside).map_err(io)?;
        Ok(Self {
            beside,
            target: target.to_owned(),
            is_committed: false,
        })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.beside
    }

    /// Moves the folder to its final place.
    ///
    /// # Errors
    /// The system refuses.
    pub fn commit(mut self) -> Result<(), TrainerError> {
        let io = |source| TrainerError::Io {
            path: self.target.clone(),
            source,
        };
        if self.target.exists() {
            fs::remove_dir(&self.target).map_err(io)?;
        }
        fs::rename(&self.beside, &self.target).map_err(io)?;
        self.is_committed = true;
        Ok(())
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if !self.is_committed {
            // Nothing useful can be done with a failure while giving up already.
            let _ = fs::remove_dir_all(&self.beside);
        }
    }
}

/// Refuses a folder that holds anything, or a path that is no folder.
pub(crate) fn check_unused(path: &Path) -> Result<(), TrainerError> {
    if !path.exists() {
        return Ok(());
    }
    let io = |source| TrainerError::Io {
        path: path.to_owned(),
        source,
    };
    if fs::read_dir(path).map_err(io)?.next().is_some() {
        return Err(TrainerError::OutputInUse {
            path: path.to_owned(),
        });
    }
    Ok(())
}
