//! The bundled base: a small decoder that the library carries, made by `recipes/base.toml`.

use std::{fs, path::Path};

use burn::tensor::{DType, Device};
use policy::Policy;

use crate::TrainerError;

const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../base/config.json")),
    (
        "model.safetensors",
        include_bytes!("../base/model.safetensors"),
    ),
    ("tokenizer.json", include_bytes!("../base/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../base/tokenizer_config.json"),
    ),
];

/// Loads the bundled base.
///
/// # Errors
/// The system's folder for temporary files cannot be written: the files pass through it.
pub fn bundled_base(dtype: DType, device: &Device) -> Result<Policy, TrainerError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| TrainerError::Io { path, source }
    };
    let dir = tempfile::tempdir().map_err(io(&std::env::temp_dir()))?;
    for (name, bytes) in FILES {
        let path = dir.path().join(name);
        fs::write(&path, bytes).map_err(io(&path))?;
    }
    Ok(Policy::load(dir.path(), dtype, device)?)
}
