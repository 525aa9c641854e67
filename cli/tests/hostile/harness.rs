//! The program under limits, and the smallest model that it loads.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// What a refusal may take beside the size of its file.
pub(crate) const MOST_MEGABYTES: u64 = 256;
/// Processor time, which another process's work does not add to.
const MOST_SECONDS: u64 = 2;

/// Runs `anneal` with at most so much memory and processor time.
pub(crate) fn limited(args: &[&str], megabytes: u64, seconds: u64) -> Output {
    let kilobytes = megabytes << 10;
    let script = format!("ulimit -t {seconds}; ulimit -d {kilobytes}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, env!("CARGO_BIN_EXE_anneal")])
        .args(args);
    let threads = command.env("RAYON_NUM_THREADS", "2");
    threads.stdin(Stdio::null()).output().unwrap()
}

/// The one line that a refusal says, which holds all of these words; `file_bytes` are those of the file at fault.
pub(crate) fn assert_refused(args: &[&str], file_bytes: u64, words: &[&str]) {
    let output = limited(args, MOST_MEGABYTES + (file_bytes >> 20), MOST_SECONDS);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert_eq!(status.code(), Some(1), "{words:?}: {status}: {stderr}");
    let is_error = |line: &&str| line.starts_with("error: ");
    let errors: Vec<&str> = stderr.lines().filter(is_error).collect();
    let [error] = errors[..] else {
        panic!("{words:?}: {stderr}");
    };
    for word in words {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
}

/// A folder with the smallest decoder there is: 3 tokens, a width of 2.
pub(crate) fn smallest() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration().to_string();
    fs::write(dir.path().join("config.json"), config).unwrap();
    let (header, data) = contents();
    let weights = file(header.to_string().as_bytes(), &data);
    fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    fs::write(
        dir.path().join("input.json"),
        "{\"input_ids\": [[0, 1, 2]]}",
    )
    .unwrap();
    dir
}

pub(crate) fn configuration() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 3, "hidden_size": 2, "intermediate_size": 2,
        "num_hidden_layers": 1, "num_attention_heads": 1, "tie_word_embeddings": true,
    })
}

/// Its weights: a header and the bytes behind it, all of float32.
pub(crate) fn contents() -> (Value, Vec<u8>) {
    let layer = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "input_layernorm",
        "post_attention_layernorm",
    ];
    let layer = layer.map(|name| format!("model.layers.0.{name}.weight"));
    let ends = ["model.embed_tokens.weight", "model.norm.weight"].map(str::to_owned);
    let mut header = Map::new();
    let mut end = 0;
    for name in ends.into_iter().chain(layer) {
        let shape = match name.as_str() {
            "model.embed_tokens.weight" => vec![3, 2],
            name if name.ends_with("norm.weight") => vec![2],
            _ => vec![2, 2],
        };
        let bytes = 4 * shape.iter().product::<usize>();
        let offsets = [end, end + bytes];
        let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
        header.insert(name, tensor);
        end += bytes;
    }
    let data = [0.5_f32.to_le_bytes()].concat().repeat(end / 4);
    (Value::Object(header), data)
}

/// A safetensors file.
pub(crate) fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// Scores with a folder's model, which fails at what is wrong in the folder.
pub(crate) fn assert_model_refused(dir: &Path, file_bytes: u64, words: &[&str]) {
    let input = dir.join("input.json");
    let (model, input) = (dir.to_str().unwrap(), input.to_str().unwrap());
    let args = ["score", "--model", model, "--input", input];
    assert_refused(&args, file_bytes, words);
}

#[test]
fn the_smallest_model_is_accepted_and_the_limits_are_felt() {
    let dir = smallest();
    let input = dir.path().join("input.json");
    let (model, input) = (dir.path().to_str().unwrap(), input.to_str().unwrap());
    let args = ["score", "--model", model, "--input", input];
    let output = limited(&args, MOST_MEGABYTES, MOST_SECONDS);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let pairs = dir.path().join("pairs.jsonl");
    let pair = json!({"gold": "5", "pred": "x".repeat(64 << 20)});
    fs::write(&pairs, pair.to_string()).unwrap();
    let verify = ["verify", "--input", pairs.to_str().unwrap()];
    assert!(limited(&verify, 1024, 20).status.success());
    let starved = limited(&verify, 32, 20);
    assert!(!starved.status.success(), "a limit that nothing feels");
}
