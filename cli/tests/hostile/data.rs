//! Problems: S7 of the table in RELIABILITY.md. Compressed and columnar files are not read at all.

use std::fs;

use super::harness::assert_refused;

/// Trains on problems of which the second cannot be read.
fn assert_line_refused(line: &[u8], words: &[&str]) {
    let good = b"{\"problem\": \"1+1=\", \"answer\": \"2\"}\n";
    assert_data_refused(&[good, line].concat(), &[&["line 2"], words].concat());
}

fn assert_data_refused(bytes: &[u8], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("problems.jsonl");
    fs::write(&data, bytes).unwrap();
    let out = dir.path().join("run");
    let setting = format!("data.train={}", data.display());
    let args = [
        "train",
        "--steps",
        "1",
        "--out",
        out.to_str().unwrap(),
        &setting,
    ];
    assert_refused(
        &args,
        bytes.len() as u64,
        &[&["problems.jsonl"], words].concat(),
    );
    assert!(!out.exists(), "a run folder was left behind");
}

#[test]
fn lines_that_are_too_long_or_too_deep() {
    let long = format!(
        "{{\"problem\": \"{}\", \"answer\": 1}}",
        "1".repeat(100 << 20)
    );
    assert_line_refused(long.as_bytes(), &["longer than 16777216 bytes"]);
    for opening in ["[", "{\"a\":", "{\"problem\":["] {
        assert_line_refused(opening.repeat(100_000).as_bytes(), &["not valid JSON"]);
    }
}

#[test]
fn bytes_that_are_no_text() {
    assert_line_refused(b"\0", &["not valid JSON"]);
    assert_line_refused(
        b"{\"problem\": \"1\0\", \"answer\": 1}",
        &["not valid JSON"],
    );
    assert_line_refused(b"{\"problem\": \"\xff\", \"answer\": 1}", &["not UTF-8"]);
    assert_line_refused(
        b"{\"problem\": \"\xed\xa0\x80\", \"answer\": 1}",
        &["not UTF-8"],
    );
    assert_line_refused(
        b"{\"problem\": \"\\ud800\", \"answer\": 1}",
        &["not valid JSON"],
    );
    // A mark of the byte order is skipped before the first line, and there alone.
    assert_line_refused(
        b"\xef\xbb\xbf{\"problem\": \"1\", \"answer\": 1}",
        &["not valid JSON"],
    );
}

#[test]
fn types_that_are_mixed() {
    for (line, words) in [
        (
            "[{\"problem\": \"1\", \"answer\": 1}]",
            "expected a JSON object",
        ),
        ("\"1+1=\"", "expected a JSON object"),
        (
            "{\"problem\": 5, \"answer\": 1}",
            "`problem` must be a string",
        ),
        (
            "{\"problem\": \"1\", \"answer\": {\"a\": 1}}",
            "`answer` must be",
        ),
        (
            "{\"problem\": \"1\", \"answer\": [[1]]}",
            "`answer` must be",
        ),
        (
            "{\"problem\": \"1\", \"answer\": 1, \"numbers\": [9223372036854775808]}",
            "`numbers` must be",
        ),
        ("{\"problem\": \"1\", \"answer\": 1e999}", "not valid JSON"),
        ("{\"problem\": \"1\", \"answer\": NaN}", "not valid JSON"),
        ("{\"problem\": \"1\", \"answer\": null}", "no answer"),
    ] {
        assert_line_refused(line.as_bytes(), &[words]);
    }
}

#[test]
fn files_of_another_kind() {
    assert_data_refused(b"\x1f\x8b\x08\0\0\0\0\0\0\x03", &["line 1", "not UTF-8"]);
    assert_data_refused(b"PK\x03\x04\x14\0\0\0", &["line 1", "not valid JSON"]);
    assert_data_refused(b"PAR1\x15\x04", &["problems.jsonl", "Parquet", "to_json"]);
    assert_data_refused(&b"\n".repeat(10 << 20), &["no problems"]);
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("run");
    let args = [
        "train",
        "--out",
        out.to_str().unwrap(),
        "data.train=/dev/zero",
    ];
    assert_refused(
        &args,
        0,
        &["/dev/zero", "line 1", "longer than 16777216 bytes"],
    );
}
