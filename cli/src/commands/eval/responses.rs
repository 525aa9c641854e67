//! The file of every response with its score.

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;
use trainer::Group;

/// A file that appears once all is written, and whose place is known to be writable before the work begins.
pub(super) struct ResponseFile<'a> {
    path: &'a Path,
    file: NamedTempFile,
}

impl<'a> ResponseFile<'a> {
    pub(super) fn create(path: &'a Path) -> Result<Self> {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        // Readable as any file is: what the process's mask leaves.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(parent.unwrap_or(Path::new(".")));
        let file = file.with_context(|| path.display().to_string())?;
        if path.is_dir() {
            bail!("{}: is a folder", path.display());
        }
        Ok(Self { path, file })
    }

    /// Writes a line a problem.
    pub(super) fn write<'b>(self, groups: impl Iterator<Item = &'b Group>) -> Result<()> {
        let place = || self.path.display().to_string();
        let mut writer = BufWriter::new(&self.file);
        for group in groups {
            serde_json::to_writer(&mut writer, group).with_context(place)?;
            writer.write_all(b"\n").with_context(place)?;
        }
        writer.flush().with_context(place)?;
        drop(writer);
        self.file.persist(self.path).with_context(place)?;
        Ok(())
    }
}
