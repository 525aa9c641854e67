//! Weights: S1 of the table in RELIABILITY.md.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
};

use serde_json::{Value, json};

use super::harness::{assert_model_refused, contents, file, smallest};

const FIRST: &str = "model.embed_tokens.weight";

/// The smallest model with other weights.
fn assert_bytes_refused(bytes: &[u8], words: &[&str]) {
    let dir = smallest();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let words = [&["model.safetensors"], words].concat();
    assert_model_refused(dir.path(), bytes.len() as u64, &words);
}

fn assert_header_refused(header: &str, words: &[&str]) {
    assert_bytes_refused(&file(header.as_bytes(), &contents().1), words);
}

/// The whole header, changed.
fn assert_change_refused(change: impl FnOnce(&mut Value), words: &[&str]) {
    let mut header = contents().0;
    change(&mut header);
    assert_header_refused(&header.to_string(), words);
}

#[test]
fn lengths_that_no_header_has() {
    let claim = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    assert_bytes_refused(b"", &["0 bytes", "truncated"]);
    assert_bytes_refused(&[0; 7], &["7 bytes", "truncated"]);
    assert_bytes_refused(&file(b"", &[]), &["does not begin with '{'"]);
    assert_bytes_refused(&claim(7), &["header of 7 bytes where 2"]);
    assert_bytes_refused(&claim(10), &["header of 10 bytes where 2"]);
    assert_bytes_refused(&claim(1 << 53), &["header of 9007199254740992 bytes"]);
    assert_bytes_refused(&claim(1 << 63), &["header of 9223372036854775808 bytes"]);
    assert_bytes_refused(&claim(u64::MAX), &["header of 18446744073709551615 bytes"]);
}

#[test]
fn a_header_beyond_the_format_s_bound_is_not_read() {
    let dir = smallest();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, 100_000_001_u64.to_le_bytes()).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    // Nothing of the gigabyte is read.
    assert_model_refused(
        dir.path(),
        0,
        &["model.safetensors", "header of 100000001 bytes"],
    );
}

#[test]
fn headers_that_are_no_header() {
    assert_bytes_refused(&file(b"\xff\xfe{}", &[]), &["does not begin with '{'"]);
    assert_bytes_refused(&file(b"{\"\xff\": 1}", &[]), &["not one of safetensors"]);
    let header = contents().0.to_string();
    assert_header_refused(&format!("  {header}"), &["does not begin with '{'"]);
    assert_header_refused("{\"a\": ", &["EOF"]);
    assert_header_refused("[]", &["does not begin with '{'"]);
    assert_header_refused(
        &format!("{}1", "{\"a\":".repeat(10_000)),
        &["not one of safetensors"],
    );
    assert_header_refused(
        &format!("{{\"a\":{}", "[".repeat(10_000)),
        &["not one of safetensors"],
    );
    let twice = header.replacen(
        '{',
        &format!("{{\"{FIRST}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}},"),
        1,
    );
    assert_header_refused(&twice, &[FIRST, "twice"]);
}

#[test]
fn tensors_that_do_not_fill_their_file() {
    let (header, data) = contents();
    let header = header.to_string();
    let more = [&data[..], &[0]].concat();
    assert_bytes_refused(
        &file(header.as_bytes(), &more),
        &["has 161 bytes of tensors", "160"],
    );
    let fewer = &data[..data.len() - 1];
    assert_bytes_refused(
        &file(header.as_bytes(), fewer),
        &["has 159 bytes of tensors", "160"],
    );
    let offsets = |begin: i64, end: i64| {
        move |header: &mut Value| header[FIRST]["data_offsets"] = json!([begin, end])
    };
    assert_change_refused(offsets(24, 48), &["bad header"]);
    assert_change_refused(offsets(4, 28), &["bad header"]);
    assert_change_refused(offsets(24, 0), &["bad header"]);
    assert_change_refused(offsets(-24, 0), &["not one of safetensors"]);
    assert_change_refused(offsets(0, i64::MAX), &["bad header"]);
    assert_change_refused(
        |header| header[FIRST]["data_offsets"] = json!([0.0, 24.0]),
        &["not one of safetensors"],
    );
}

#[test]
fn shapes_and_types_that_no_tensor_has() {
    let shape = |shape: Value| move |header: &mut Value| header[FIRST]["shape"] = shape;
    let dtype =
        |dtype: &'static str| move |header: &mut Value| header[FIRST]["dtype"] = json!(dtype);
    assert_change_refused(
        shape(json!([1_u64 << 32, 1_u64 << 32, 2])),
        &["bad header", "overflow"],
    );
    assert_change_refused(shape(json!([1_u64 << 40])), &["bad header"]);
    assert_change_refused(shape(json!([-3, 2])), &["not one of safetensors"]);
    assert_change_refused(shape(json!([2, 3])), &[FIRST, "[2, 3]", "[3, 2]"]);
    assert_change_refused(dtype("F99"), &["not one of safetensors", "F99"]);
    assert_change_refused(dtype("F4"), &["bad header"]);
    assert_change_refused(dtype("F16"), &["bad header"]);
    assert_change_refused(dtype("I32"), &[FIRST, "I32", "bf16"]);
    let odd = "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}";
    assert_bytes_refused(&file(odd.as_bytes(), &[0]), &["bad header"]);
}

#[test]
fn a_million_tensors_of_nothing() {
    let tensors = (0..1_000_000)
        .map(|n| format!("\"t{n}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"));
    let header = format!("{{{}}}", tensors.collect::<Vec<_>>().join(","));
    assert_bytes_refused(&file(header.as_bytes(), &[]), &["more than 131072 tensors"]);
}

#[test]
fn numbers_that_are_not_finite() {
    let (header, data) = contents();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut data = data.clone();
        data[20..24].copy_from_slice(&bad.to_le_bytes());
        let bytes = file(header.to_string().as_bytes(), &data);
        assert_bytes_refused(&bytes, &[FIRST, "not finite"]);
    }
}

#[test]
fn weights_that_are_no_file_of_the_folder() {
    let refused = |place: &dyn Fn(&Path), words: &[&str]| {
        let dir = smallest();
        let path = dir.path().join("model.safetensors");
        fs::remove_file(&path).unwrap();
        place(&path);
        assert_model_refused(dir.path(), 0, &[&["model.safetensors"], words].concat());
    };
    refused(
        &|path| symlink("/dev/zero", path).unwrap(),
        &["not a regular file"],
    );
    refused(
        &|path| fs::create_dir(path).unwrap(),
        &["not a regular file"],
    );
    let pipe = |path: &Path| {
        let status = Command::new("mkfifo").arg(path).status();
        assert!(status.unwrap().success());
    };
    refused(&pipe, &["not a regular file"]);
    let other = smallest();
    let outside = other.path().join("model.safetensors");
    refused(
        &|path| symlink(&outside, path).unwrap(),
        &["leads out of the model's folder"],
    );
}

/// The hub's cache: a snapshot is a folder of links to `blobs/`.
#[test]
fn the_hub_s_cache_is_followed() {
    let cache = tempfile::tempdir().unwrap();
    let [blobs, snapshot] = ["blobs", "snapshots/0123"].map(|name| cache.path().join(name));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let model = smallest();
    for (place, name) in ["config.json", "model.safetensors"].iter().enumerate() {
        fs::copy(model.path().join(name), blobs.join(place.to_string())).unwrap();
        symlink(format!("../../blobs/{place}"), snapshot.join(name)).unwrap();
    }
    let input = model.path().join("input.json");
    let (folder, input) = (snapshot.to_str().unwrap(), input.to_str().unwrap());
    let output = super::harness::limited(&["score", "--model", folder, "--input", input], 256, 2);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    // Beside `blobs/` nothing is followed.
    fs::rename(blobs.join("1"), cache.path().join("1")).unwrap();
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    symlink("../../1", snapshot.join("model.safetensors")).unwrap();
    let args = ["score", "--model", folder, "--input", input];
    super::harness::assert_refused(&args, 0, &["leads out of the model's folder"]);
}
