//! What a checkpoint's files must be: written last, and looked at before any of them is read.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    TrainerError,
    durable::{io_at, sync_file, sync_folder, write_synced},
    failpoint::failpoint,
};

/// The manifest's name in a checkpoint.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The form of checkpoints that this version writes.
const FORMAT: u32 = 1;
/// A manifest has a line or two for each of a dozen files.
const MOST_BYTES: u64 = 1 << 20;

/// A checkpoint's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// The form of the checkpoint.
    format: u32,
    /// Steps done.
    pub(crate) step: u64,
    /// Of the configuration that the run had.
    config_sha256: String,
    /// By their paths in the checkpoint, with `/`.
    files: BTreeMap<String, Entry>,
}

/// A file as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// The manifest as it stands in its file, with a hash of its own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    manifest: Manifest,
    sha256: String,
}

impl Manifest {
    /// Brings all of a checkpoint's files to the disk, and the manifest after them.
    pub(crate) fn seal(
        folder: &Path,
        step: u64,
        config_sha256: String,
    ) -> Result<(), TrainerError> {
        let mut files = BTreeMap::new();
        take_in(folder, "", &mut files)?;
        failpoint("files-synced");
        let manifest = Self {
            format: FORMAT,
            step,
            config_sha256,
            files,
        };
        let path = folder.join(MANIFEST);
        let places = ["manifest-half", "manifest-written", "manifest-synced"];
        write_synced(&path, &manifest.text(&path)?, places)?;
        sync_folder(folder)?;
        failpoint("checkpoint-sealed");
        Ok(())
    }

    /// The file's content: the same manifest gives the same bytes always, so that none can change unseen.
    fn text(&self, path: &Path) -> Result<Vec<u8>, TrainerError> {
        let json = |error: serde_json::Error| damaged(path, error.to_string());
        let own = serde_json::to_vec(self).map_err(json)?;
        let sealed = Sealed {
            manifest: self.clone(),
            sha256: sha256(&own),
        };
        let mut text = serde_json::to_vec_pretty(&sealed).map_err(json)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads a checkpoint's manifest and compares every file with it.
    ///
    /// # Errors
    /// The first file that is missing or is not as it was written.
    pub(crate) fn verify(folder: &Path) -> Result<Self, TrainerError> {
        let manifest = Self::read(&folder.join(MANIFEST))?;
        for (name, entry) in &manifest.files {
            let path = folder.join(name);
            let is_inside = Path::new(name)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !is_inside {
                return Err(damaged(&path, "lies outside of the checkpoint".into()));
            }
            entry.compare(&path)?;
        }
        Ok(manifest)
    }

    fn read(path: &Path) -> Result<Self, TrainerError> {
        let file = File::open(path).map_err(io_at(path))?;
        let mut text = Vec::new();
        let read = file.take(MOST_BYTES).read_to_end(&mut text);
        read.map_err(io_at(path))?;
        let sealed: Sealed = serde_json::from_slice(&text)
            .map_err(|error| damaged(path, format!("is no manifest: {error}")))?;
        let manifest = sealed.manifest;
        if manifest.text(path)? != text {
            return Err(damaged(path, "is not as it was written".into()));
        }
        if manifest.format > FORMAT {
            let message = format!(
                "has format {}; this version reads {FORMAT}",
                manifest.format
            );
            return Err(damaged(path, message));
        }
        Ok(manifest)
    }
}

impl Entry {
    fn of(path: &Path) -> Result<Self, TrainerError> {
        let mut file = File::open(path).map_err(io_at(path))?;
        let mut hash = Sha256::new();
        let bytes = io::copy(&mut file, &mut hash).map_err(io_at(path))?;
        Ok(Self {
            bytes,
            sha256: hex(&hash.finalize()),
        })
    }

    fn compare(&self, path: &Path) -> Result<(), TrainerError> {
        let found = fs::metadata(path).map_err(io_at(path))?.len();
        if found != self.bytes {
            let message = format!("has {found} bytes, and was written with {}", self.bytes);
            return Err(damaged(path, message));
        }
        if Self::of(path)? != *self {
            return Err(damaged(path, "is not as it was written (SHA-256)".into()));
        }
        Ok(())
    }
}

/// Takes down a folder's files, and syncs them and it.
fn take_in(
    folder: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, Entry>,
) -> Result<(), TrainerError> {
    for entry in fs::read_dir(folder).map_err(io_at(folder))? {
        let entry = entry.map_err(io_at(folder))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = format!("{prefix}{}", name.to_string_lossy());
        if path.is_dir() {
            take_in(&path, &format!("{name}/"), files)?;
        } else {
            files.insert(name, Entry::of(&path)?);
            sync_file(&path)?;
            failpoint("file-synced");
        }
    }
    sync_folder(folder)
}

fn damaged(path: &Path, message: String) -> TrainerError {
    TrainerError::Damaged {
        path: path.to_owned(),
        message,
    }
}

/// SHA-256 in hexadecimal, as `sha256sum` prints it.
pub(crate) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// The same of a file.
pub(crate) fn sha256_of_file(path: &Path) -> Result<String, TrainerError> {
    Ok(Entry::of(path)?.sha256)
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    digits.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("critic")).unwrap();
        fs::write(dir.path().join("a.bin"), [1, 2, 3]).unwrap();
        fs::write(dir.path().join("critic/b.bin"), b"abc").unwrap();
        Manifest::seal(dir.path(), 7, sha256(b"")).unwrap();
        dir
    }

    fn refusal(dir: &tempfile::TempDir) -> String {
        Manifest::verify(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_sealed_folder_verifies_with_its_hashes() {
        let dir = sealed();
        let manifest = Manifest::verify(dir.path()).unwrap();
        assert_eq!((manifest.step, manifest.files.len()), (7, 2));
        // FIPS 180-2's own example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(manifest.files["critic/b.bin"].sha256, abc);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        for name in [MANIFEST, "a.bin", "critic/b.bin"] {
            let dir = sealed();
            let path = dir.path().join(name);
            let whole = fs::read(&path).unwrap();
            for bit in 0..8 * whole.len() {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, flipped).unwrap();
                assert!(Manifest::verify(dir.path()).is_err(), "{name}: bit {bit}");
            }
            for length in 0..whole.len() {
                fs::write(&path, &whole[..length]).unwrap();
                assert!(Manifest::verify(dir.path()).is_err(), "{name}: {length}");
            }
            fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
            assert!(Manifest::verify(dir.path()).is_err(), "{name}: a byte more");
            fs::remove_file(&path).unwrap();
            assert!(refusal(&dir).contains(name));
        }
    }

    #[test]
    fn a_later_format_and_a_path_outside_are_refused() {
        let rewrite = |edit: &dyn Fn(&mut Manifest)| {
            let dir = sealed();
            let path = dir.path().join(MANIFEST);
            let mut manifest = Manifest::read(&path).unwrap();
            edit(&mut manifest);
            fs::write(&path, manifest.text(&path).unwrap()).unwrap();
            refusal(&dir)
        };
        assert!(rewrite(&|manifest| manifest.format = 2).contains("format 2"));
        for outside in ["../a.bin", "/etc/hostname", "critic/../../a"] {
            let refused = rewrite(&|manifest| {
                let entry = manifest.files["a.bin"].clone();
                manifest.files.insert(outside.into(), entry);
            });
            assert!(refused.contains("outside"), "{refused}");
        }
    }
}
