//! GGUF files: S3 of the table in RELIABILITY.md, within the limits. All that headers can claim is in `tests/tests/gguf.rs`.

use std::fs;

use super::harness::assert_refused;

fn assert_gguf_refused(bytes: &[u8], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let [file, out] = ["model.gguf", "out"].map(|name| dir.path().join(name));
    fs::write(&file, bytes).unwrap();
    let args = [
        "import",
        file.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    assert_refused(
        &args,
        bytes.len() as u64,
        &[&["model.gguf"], words].concat(),
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "something was left"
    );
}

/// Version 3, its counts, then anything, and zeros behind it.
fn header(tensors: u64, entries: u64, rest: &[u8]) -> Vec<u8> {
    let counts = [tensors, entries].map(u64::to_le_bytes).concat();
    [b"GGUF\x03\0\0\0", &counts[..], rest, &[0; 64]].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn array(kind: u32, length: u64) -> Vec<u8> {
    [
        text("a"),
        9_u32.to_le_bytes().into(),
        kind.to_le_bytes().into(),
        length.to_le_bytes().into(),
    ]
    .concat()
}

/// The overflows that were reported of other readers: counts, lengths of texts and arrays, dimensions, types.
#[test]
fn claims_that_other_readers_believed() {
    assert_gguf_refused(&header(u64::MAX, 0, &[]), &["tensors"]);
    assert_gguf_refused(&header(0, u64::MAX, &[]), &["metadata entries"]);
    assert_gguf_refused(&header(0, 1, &u64::MAX.to_le_bytes()), &["claims"]);
    assert_gguf_refused(&header(0, 1, &array(8, u64::MAX)), &["values"]);
    assert_gguf_refused(&header(0, 1, &array(4, u64::MAX / 2)), &["values"]);
    let tensor = |dims: &[u64], kind: u32| {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let count = (dims.len() as u32).to_le_bytes();
        [
            text("t"),
            count.into(),
            dims_bytes,
            kind.to_le_bytes().into(),
            vec![0; 8],
        ]
        .concat()
    };
    assert_gguf_refused(&header(1, 0, &tensor(&[1 << 62, 4, 4], 0)), &["shape"]);
    assert_gguf_refused(&header(1, 0, &tensor(&[1; 1000], 0)), &["1000 dimensions"]);
    assert_gguf_refused(
        &header(1, 0, &tensor(&[32], u32::MAX)),
        &["type 4294967295"],
    );
}

/// Each value of a byte takes the room of the largest once it is read.
#[test]
fn four_million_values_are_the_most() {
    let values = |count: usize| {
        let rest = [array(0, count as u64), vec![0; count]].concat();
        header(0, 1, &rest)
    };
    assert_gguf_refused(&values(1 << 22), &["tokenizer.ggml.model", "missing"]);
    assert_gguf_refused(&values((1 << 22) + 1), &["more than 4194304 values"]);
}

#[test]
fn files_that_are_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let args = |file| ["import", file, "--out", out.to_str().unwrap()];
    assert_refused(&args("/dev/zero"), 0, &["/dev/zero", "not a regular file"]);
    let folder = dir.path().to_str().unwrap();
    assert_refused(&args(folder), 0, &["no adapter_config.json"]);
}
