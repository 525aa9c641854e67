//! The list of a model's weights files: S2 of the table in RELIABILITY.md. Names that leave the folder by themselves are in
//! `bad_input.rs`.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::harness::{assert_model_refused, contents, smallest};

/// The smallest model with its weights in `a.safetensors`.
fn sharded() -> TempDir {
    let dir = smallest();
    let [whole, shard] = ["model.safetensors", "a.safetensors"].map(|name| dir.path().join(name));
    fs::rename(whole, shard).unwrap();
    dir
}

fn write_index(dir: &Path, index: &str) {
    fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
}

/// Every tensor in `a.safetensors`, but for one of another name.
fn index_with(name: &str) -> String {
    let header = contents().0;
    let tensors = header.as_object().unwrap().keys().cloned();
    let mut map: Map<String, Value> = tensors
        .map(|tensor| (tensor, json!("a.safetensors")))
        .collect();
    map.insert("other".into(), json!(name));
    json!({"weight_map": map}).to_string()
}

#[test]
fn names_that_are_no_file_of_the_folder() {
    for name in [
        "..",
        "../a.safetensors",
        "/etc/passwd",
        "a\0.safetensors",
        "C:\\a.safetensors",
        "b/../a.safetensors",
        ".safetensors/",
        "//a.safetensors",
    ] {
        let dir = sharded();
        write_index(dir.path(), &index_with(name));
        assert_model_refused(dir.path(), 0, &["index.json", "not a file of this folder"]);
    }
}

#[test]
fn files_that_are_missing_or_lead_nowhere() {
    let dir = sharded();
    write_index(dir.path(), &index_with("b.safetensors"));
    assert_model_refused(dir.path(), 0, &["b.safetensors", "No such file"]);
    symlink("b.safetensors", dir.path().join("b.safetensors")).unwrap();
    assert_model_refused(dir.path(), 0, &["b.safetensors", "symbolic links"]);
    let other = sharded();
    fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    symlink(
        other.path().join("a.safetensors"),
        dir.path().join("b.safetensors"),
    )
    .unwrap();
    assert_model_refused(
        dir.path(),
        0,
        &["b.safetensors", "leads out of the model's folder"],
    );
}

#[test]
fn a_tensor_that_two_files_have() {
    let dir = sharded();
    fs::copy(
        dir.path().join("a.safetensors"),
        dir.path().join("b.safetensors"),
    )
    .unwrap();
    write_index(dir.path(), &index_with("b.safetensors"));
    assert_model_refused(
        dir.path(),
        0,
        &["b.safetensors", "which another file has too"],
    );
}

#[test]
fn indices_that_are_no_index() {
    let refused = |index: &str, words: &[&str]| {
        let dir = sharded();
        write_index(dir.path(), index);
        let words = [&["index.json"], words].concat();
        assert_model_refused(dir.path(), index.len() as u64, &words);
    };
    refused("", &["not valid JSON"]);
    refused("{\"weight_map\": []}", &["weight_map"]);
    refused("{\"weight_map\": {\"a\": 5}}", &["names 5"]);
    refused(&"{\"weight_map\":".repeat(100_000), &["not valid JSON"]);
}

#[test]
fn a_million_files() {
    let dir = sharded();
    let names = (0..1_000_000).map(|n| format!("\"t{n}\":\"{n}.safetensors\""));
    let index = format!(
        "{{\"weight_map\":{{{}}}}}",
        names.collect::<Vec<_>>().join(",")
    );
    write_index(dir.path(), &index);
    assert_model_refused(
        dir.path(),
        index.len() as u64,
        &["0.safetensors", "No such file"],
    );
}

#[test]
fn an_index_beyond_all_bounds_is_not_read() {
    let dir = sharded();
    let path = dir.path().join("model.safetensors.index.json");
    fs::File::create(&path).unwrap().set_len(1 << 33).unwrap();
    assert_model_refused(dir.path(), 0, &["index.json", "8589934592 bytes"]);
}
