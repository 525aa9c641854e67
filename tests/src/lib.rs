//! Test doubles and the golden data that the integration tests share.

pub mod parsers;

use std::path::PathBuf;

/// A file or folder of the golden data.
pub fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(name)
}
