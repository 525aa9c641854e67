//! Tokenizers: S5 of the table in RELIABILITY.md. What encodes a megabyte does so within the limits; what may not is refused.
//! Long runs of one character and ids beyond all bounds are in `tests/tests/tokenizer.rs`.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::assert_refused;

/// The bundled base, which may be damaged.
fn base() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/base");
    for entry in fs::read_dir(base).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn edit(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("tokenizer.json");
    let mut definition: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut definition);
    fs::write(&path, definition.to_string()).unwrap();
}

fn assert_generate_refused(dir: &Path, file_bytes: u64, words: &[&str]) {
    let model = dir.to_str().unwrap();
    assert_refused(&["generate", "--model", model, "1+1="], file_bytes, words);
}

fn assert_definition_refused(change: impl FnOnce(&mut Value), words: &[&str]) {
    let dir = base();
    edit(dir.path(), change);
    assert_generate_refused(dir.path(), 0, &[&["tokenizer.json"], words].concat());
}

/// Trains on one problem with a prompt of a megabyte, which no model's context has room for: it is encoded, and refused.
fn assert_megabyte_refused(change: impl FnOnce(&mut Value), text: &str, words: &[&str]) {
    let dir = base();
    edit(dir.path(), change);
    let data = dir.path().join("problems.jsonl");
    let prompt = format!("1{}", text.repeat((1 << 20) / text.len()));
    fs::write(&data, json!({"problem": prompt, "answer": "1"}).to_string()).unwrap();
    let out = dir.path().join("run");
    let [train, model] = [
        ("data.train", &data),
        ("model.path", &dir.path().to_owned()),
    ]
    .map(|(key, path)| format!("{key}={}", path.display()));
    let args = [
        "train",
        "--out",
        out.to_str().unwrap(),
        &train,
        &model,
        "data.instruction=",
    ];
    // A token has a text, offsets and marks of its own while it is encoded.
    assert_refused(&args, MEGABYTE_OF_TOKENS_BYTES, words);
}

const MEGABYTE_OF_TOKENS_BYTES: u64 = 768 << 20;

fn split(expression: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
}

#[test]
fn a_megabyte_is_encoded_at_once() {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    for text in ["1", " ", "1+", "<|endoftext|>", "<|pad|>1 "] {
        assert_megabyte_refused(|_| (), text, &["tokens", "context"]);
        assert_megabyte_refused(
            |definition| definition["pre_tokenizer"] = byte_level.clone(),
            text,
            &["tokens", "context"],
        );
    }
}

#[test]
fn expressions_that_may_take_hours() {
    for expression in [
        "(a+)+(?!b)",
        "(a|a)*\\1",
        "(?<=a)b",
        "(?:a{1000}){1000}",
        "(",
    ] {
        assert_definition_refused(
            |definition| definition["pre_tokenizer"] = split(expression),
            &["the expression"],
        );
    }
    // Linear for a match, and quadratic for all of them.
    let quadratic = |definition: &mut Value| definition["pre_tokenizer"] = split(".*[^0-9]|[0-9]");
    assert_megabyte_refused(quadratic, "1", &["1048577 bytes", "up to 65536"]);
    let strips = |definition: &mut Value| definition["added_tokens"][0]["lstrip"] = json!(true);
    assert_megabyte_refused(strips, "<|pad|>", &["up to 65536"]);
}

#[test]
fn texts_that_would_grow() {
    let replace = json!({"type": "Replace", "pattern": {"String": "1"}, "content": "11"});
    let replaces = vec![replace; 40];
    let sequence = json!({"type": "Sequence", "normalizers": replaces});
    assert_definition_refused(
        |definition| definition["normalizer"] = sequence,
        &["normalizer", "64-fold"],
    );
    let long = json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)});
    assert_definition_refused(|definition| definition["normalizer"] = long, &["64-fold"]);
}

#[test]
fn merges_that_make_no_token() {
    for merges in [
        json!([["1", "2"]]),
        json!(["1 2"]),
        json!([["1", "missing"]]),
    ] {
        assert_definition_refused(
            |definition| definition["model"]["merges"] = merges,
            &["the merge"],
        );
    }
}

#[test]
fn parts_that_the_library_panics_at() {
    let strip = json!({"type": "Strip", "content": "1", "start": 0, "stop": 3});
    assert_definition_refused(|definition| definition["decoder"] = strip, &["Strip"]);
    let fixed = json!({"type": "FixedLength", "length": 0});
    assert_definition_refused(
        |definition| definition["pre_tokenizer"] = fixed,
        &["FixedLength"],
    );
    let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    assert_definition_refused(
        |definition| definition["normalizer"] = precompiled,
        &["Precompiled"],
    );
}

#[test]
fn ids_that_the_embedding_does_not_have() {
    let beyond = &["embedding has", "4294967295"];
    assert_definition_refused(
        |definition| definition["model"]["vocab"]["new"] = json!(u32::MAX),
        beyond,
    );
    assert_definition_refused(
        |definition| definition["model"]["vocab"]["new"] = json!(1_u64 << 32),
        &["not a tokenizer definition"],
    );
    assert_definition_refused(
        |definition| definition["model"]["vocab"]["new"] = json!(-1),
        &["not a tokenizer definition"],
    );
    // Put around every text by the definition, and in no vocabulary.
    let around =
        json!({"type": "BertProcessing", "sep": ["<|pad|>", u32::MAX], "cls": ["<|pad|>", 0]});
    assert_definition_refused(|definition| definition["post_processor"] = around, beyond);
}

#[test]
fn gaps_and_tokens_of_one_id_are_no_harm() {
    let dir = base();
    edit(dir.path(), |definition| {
        let vocab = definition["model"]["vocab"].as_object_mut().unwrap();
        let (kept, last) = (
            vocab["1"].clone(),
            vocab.keys().next_back().unwrap().clone(),
        );
        vocab.insert(last, kept);
    });
    let model = dir.path().to_str().unwrap();
    let args = [
        "generate",
        "--model",
        model,
        "--max-new-tokens",
        "4",
        "1+1=",
    ];
    let output = super::harness::limited(&args, super::harness::MOST_MEGABYTES, 2);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
}

#[test]
fn files_that_are_no_definition() {
    let refused = |place: &dyn Fn(&Path), words: &[&str]| {
        let dir = base();
        let path = dir.path().join("tokenizer.json");
        fs::remove_file(&path).unwrap();
        place(&path);
        assert_generate_refused(dir.path(), 0, &[&["tokenizer.json"], words].concat());
    };
    refused(
        &|path| fs::write(path, "[".repeat(1 << 20)).unwrap(),
        &["not a tokenizer definition"],
    );
    refused(
        &|path| File::create(path).unwrap().set_len(1 << 33).unwrap(),
        &["8589934592 bytes"],
    );
    refused(
        &|path| symlink("/dev/zero", path).unwrap(),
        &["not a regular file"],
    );
    let secret = tempfile::NamedTempFile::new().unwrap();
    refused(
        &|path| symlink(secret.path(), path).unwrap(),
        &["leads out of the model's folder"],
    );
}

/// Every checkpoint has a copy of the tokenizer's files.
#[test]
fn no_private_file_is_copied_into_a_run() {
    let dir = base();
    let secret = tempfile::NamedTempFile::new().unwrap();
    for name in ["chat_template.jinja", "merges.txt", "tokenizer.model"] {
        let path = dir.path().join(name);
        symlink(secret.path(), &path).unwrap();
        assert_generate_refused(dir.path(), 0, &[name, "leads out of the model's folder"]);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_template_that_never_ends_is_given_up() {
    let dir = base();
    let template = "{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}\
                    {% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.s == ns.t }}";
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let model = dir.path().to_str().unwrap();
    // The engine's thread has a large stack, of which nothing is used; it works for five seconds.
    let output = super::harness::limited(&["generate", "--model", model, "1+1="], 1024, 20);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("error: chat template: it worked for more than 5 s"),
        "{stderr}"
    );
}
