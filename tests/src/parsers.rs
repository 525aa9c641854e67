//! Every parser of input from outside, fed with bytes: what `fuzz/` runs, and what the tests replay its corpora with.
//!
//! A parser may refuse anything. It may not panic, hang or take memory without bound, and what it takes must hold the
//! promises that are asserted here. Each is entered as a run enters it: by its file in a folder, where it reads files.
#![allow(clippy::unwrap_used, reason = "what is wrong shall be found")]
#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use burn::tensor::{DType, Device};
use policy::{
    AdapterBase, CausalLm, ChatTemplate, LoraConfig, ModelConfig, Policy, SaveDtype, Tokenizer,
    import_adapter, import_gguf, load_weights, save_weights,
};
use reward::{ExternalReward, extract_answer, gold_is_readable, load_problems_capped, verify};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use trainer::{RolloutLine, RunState, SftConfig, TrainConfig, newest_checkpoint};

/// A parser's name, which is its corpus's too, and what reads an input.
pub type Parser = (&'static str, fn(&[u8]));

/// All of them, but for `records`, the logs of `anneal fit` and `anneal report`, which are the command's own.
pub const PARSERS: [Parser; 15] = [
    ("adapter", adapter),
    ("answer", answer),
    ("config", config),
    ("gguf", gguf),
    ("index", index),
    ("manifest", manifest),
    ("problems", problems),
    ("rollouts", rollouts),
    ("safetensors", safetensors),
    ("settings", settings),
    ("state", state),
    ("template", template),
    ("tokenizer", tokenizer),
    ("tokenizer_config", tokenizer_config),
    ("verify", verifier),
];

/// The longest line of problems that is read here; a run's is 16 MiB.
const MAX_LINE_BYTES: usize = 4096;

/// The folder in which a thread puts its inputs, made once.
fn with_folder<T>(run: impl FnOnce(&Path) -> T) -> T {
    thread_local!(static FOLDER: TempDir = tempfile::tempdir().unwrap());
    FOLDER.with(|folder| run(folder.path()))
}

/// Reads an input as the file of that name in a folder.
fn in_file<T>(name: &str, data: &[u8], run: impl FnOnce(&Path) -> T) -> T {
    with_folder(|folder| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, data).unwrap();
        let result = run(&path);
        fs::remove_file(&path).unwrap();
        result
    })
}

/// The smallest decoder there is: 3 tokens, a width of 2.
fn smallest() -> &'static ModelConfig {
    static SMALLEST: OnceLock<ModelConfig> = OnceLock::new();
    SMALLEST.get_or_init(|| {
        let config = json!({
            "model_type": "llama", "vocab_size": 3, "hidden_size": 2, "intermediate_size": 2,
            "num_hidden_layers": 1, "num_attention_heads": 1, "tie_word_embeddings": true,
        });
        ModelConfig::from_json(&config, Path::new("smallest")).unwrap()
    })
}

fn smallest_model() -> CausalLm {
    CausalLm::new(smallest(), &Device::flex())
}

/// Weights, of the smallest decoder. An input that begins with a brace is a header as far as its first line feed, whose
/// length is put before it, and then the tensors' bytes.
pub fn safetensors(data: &[u8]) {
    let with_length = data.starts_with(b"{").then(|| {
        let end = data.iter().position(|byte| *byte == b'\n');
        let (header, values) = data.split_at(end.unwrap_or(data.len()));
        let length = (header.len() as u64).to_le_bytes();
        [&length, header, values.get(1..).unwrap_or_default()].concat()
    });
    let data = with_length.as_deref().unwrap_or(data);
    in_file("weights/model.safetensors", data, |path| {
        let folder = path.parent().unwrap();
        if let Ok(model) = load_weights(smallest_model(), folder, DType::F32) {
            // What is taken is whole, so it can be written and read again.
            let copy = folder.with_file_name("copy");
            fs::create_dir_all(&copy).unwrap();
            save_weights(&model, &copy, SaveDtype::F32).unwrap();
            load_weights(smallest_model(), &copy, DType::F32).unwrap();
        }
    });
}

/// The list of a model's weights files, in a folder that has `a.safetensors`, which is whole.
pub fn index(data: &[u8]) {
    in_file("sharded/model.safetensors.index.json", data, |path| {
        let folder = path.parent().unwrap();
        let shard = folder.join("a.safetensors");
        if !shard.exists() {
            let whole = folder.join("model.safetensors");
            save_weights(&smallest_model(), folder, SaveDtype::F32).unwrap();
            fs::rename(whole, shard).unwrap();
        }
        let _ = load_weights(smallest_model(), folder, DType::F32);
    });
}

/// An import, whose folder must open where there is one.
pub fn gguf(data: &[u8]) {
    in_file("model.gguf", data, |path| {
        let out = path.with_file_name("imported");
        if import_gguf(path, &out, SaveDtype::Bf16).is_ok() {
            Policy::load(&out, DType::F32, &Device::flex()).unwrap();
        }
        let _ = fs::remove_dir_all(out);
    });
}

/// The settings of an adapter whose tensors are whole, for the smallest decoder: what is merged must open.
pub fn adapter(data: &[u8]) {
    in_file("adapter/adapter_config.json", data, |path| {
        let folder = path.parent().unwrap();
        let (base, out) = (path.with_file_name("base"), path.with_file_name("merged"));
        if !base.exists() {
            fs::create_dir_all(&base).unwrap();
            let policy = Policy::new(smallest().clone(), None, 1, &Device::flex());
            policy.save(&base, SaveDtype::F32).unwrap();
            let lora = LoraConfig {
                rank: 1,
                ..LoraConfig::default()
            };
            let beside = tempfile::tempdir().unwrap();
            let adapted = policy.model.with_lora(&lora, 1);
            adapted
                .save_adapters(&lora, &AdapterBase::default(), beside.path())
                .unwrap();
            let tensors = "adapter_model.safetensors";
            fs::copy(beside.path().join(tensors), folder.join(tensors)).unwrap();
        }
        if import_adapter(folder, base.to_str(), &out, SaveDtype::F32).is_ok() {
            Policy::load(&out, DType::F32, &Device::flex()).unwrap();
        }
        let _ = fs::remove_dir_all(out);
    });
}

/// A model's configuration, which must come back from what it is saved as; its weights are asked for and not there.
pub fn config(data: &[u8]) {
    in_file("described/config.json", data, |path| {
        let folder = path.parent().unwrap();
        let Ok(config) = ModelConfig::load(folder) else {
            return;
        };
        let _ = (config.parameters(), config.eos_token_ids());
        let again = ModelConfig::from_json(&config.to_json("float32"), path).unwrap();
        assert_eq!(again.sliding_windows, config.sliding_windows);
        assert!(Policy::load(folder, DType::F32, &Device::flex()).is_err());
    });
}

/// Texts as models see them: words, digits, white space, other scripts, special tokens spelt out.
const TEXTS: [&str; 4] = [
    "",
    "Hello, world! It's 12.5 %\n\n\t  of  x² = é🙂 ",
    "<s></s><|endoftext|><|pad|>[UNK]##ing\u{2581}a",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaX",
];

fn use_tokenizer(folder: &Path) {
    let Ok(tokenizer) = Tokenizer::load(folder) else {
        return;
    };
    for text in TEXTS {
        if let Ok(ids) = tokenizer.encode(text, true) {
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            let _ = tokenizer.decode(&ids, false);
        }
    }
    let _ = tokenizer.decode(&[0, 1, 2, 3, 4, 5, 6, 7, u32::MAX], true);
    if let Some(template) = tokenizer.chat_template() {
        let _ = template.render(&[json!({"role": "user"})], true, &Map::new());
    }
}

/// A tokenizer's definition, with which texts are encoded and ids decoded.
pub fn tokenizer(data: &[u8]) {
    in_file("words/tokenizer.json", data, |path| {
        use_tokenizer(path.parent().unwrap());
    });
}

/// What stands beside a tokenizer's definition: special tokens and the chat template.
pub fn tokenizer_config(data: &[u8]) {
    in_file("characters/tokenizer_config.json", data, |path| {
        let folder = path.parent().unwrap();
        let definition = folder.join("tokenizer.json");
        if !definition.exists() {
            let other = folder.with_file_name("definition");
            fs::create_dir_all(&other).unwrap();
            Tokenizer::characters("abc").unwrap().save(&other).unwrap();
            fs::rename(other.join("tokenizer.json"), definition).unwrap();
        }
        use_tokenizer(folder);
    });
}

/// A chat template, over a conversation with everything that templates ask for.
pub fn template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else {
        return;
    };
    let special = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let Ok(mut template) = ChatTemplate::new(source, special.as_object().unwrap()) else {
        return;
    };
    template.set_clock(Some(0));
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "What is 1+1?\n"}),
        json!({"role": "assistant", "content": "<think>2</think>", "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [1.5, null]}}},
        ]}),
        json!({"role": "tool", "content": "2"}),
    ];
    let arguments =
        json!({"tools": [{"name": "add", "parameters": {"a": {}}}], "enable_thinking": false});
    let _ = template.render(&messages, true, arguments.as_object().unwrap());
}

/// A file of problems.
pub fn problems(data: &[u8]) {
    in_file("problems.jsonl", data, |path| {
        let problems = load_problems_capped(path, MAX_LINE_BYTES);
        for problem in problems.into_iter().flatten() {
            let _ = gold_is_readable(&problem.answer);
            // A problem is handed on as JSON, to rewards and into a run's records.
            let text = serde_json::to_string(&problem).unwrap();
            assert_eq!(
                serde_json::from_str::<reward::Problem>(&text).unwrap(),
                problem
            );
        }
    });
}

/// An answer in a response: the input's first line is the gold answer, the rest is the response.
pub fn verifier(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (gold, response) = text.split_once('\n').unwrap_or((text, text));
    let forward = verify(gold, response);
    assert_eq!(forward.correct, forward.reason.is_correct());
    let _ = verify(response, gold);
    if let Some(found) = extract_answer(response) {
        let again = verify(&found.text, &found.text);
        assert!(
            again.correct || again.pred_answer.as_deref() != Some(&again.gold_answer),
            "{:?} is not right of itself: {again:?}",
            found.text
        );
    }
}

/// A line from the program of an external reward, as the answer to request 7.
pub fn answer(data: &[u8]) {
    if let Some(score) = ExternalReward::read_answer(data, 7) {
        assert!(score.reward.is_none_or(f64::is_finite));
    }
}

/// A checkpoint's manifest, in a run that has two such files. An input that begins with `{"format"` is one without its
/// own hash, which is put around it: nobody guesses a hash.
pub fn manifest(data: &[u8]) {
    let sealed = data.starts_with(b"{\"format\"").then(|| seal(data));
    let data = sealed.flatten().unwrap_or_else(|| data.to_vec());
    let name = "run/checkpoints/step-000007/manifest.json";
    in_file(name, &data, |path| {
        fs::write(path.with_file_name("a.bin"), "abc").unwrap();
        let run = with_folder(|folder| folder.join("run"));
        let found = newest_checkpoint(&run, &mut |error| drop(error.to_string()));
        if let Ok(found) = found {
            let (step, folder) = found.unwrap();
            assert_eq!((step, folder.as_path()), (7, path.parent().unwrap()));
        }
    });
}

fn seal(manifest: &[u8]) -> Option<Vec<u8>> {
    let manifest: Value = serde_json::from_slice(manifest).ok()?;
    let digest = Sha256::digest(serde_json::to_vec(&manifest).ok()?);
    let digits = digest.iter().map(|byte| format!("{byte:02x}"));
    let sealed = json!({"manifest": manifest, "sha256": digits.collect::<String>()});
    Some(format!("{sealed:#}\n").into())
}

/// A run's state in a checkpoint.
pub fn state(data: &[u8]) {
    in_file("step-000007/trainer_state.json", data, |path| {
        if let Ok(state) = RunState::load(path.parent().unwrap()) {
            let text = serde_json::to_vec(&state).unwrap();
            fs::write(path, &text).unwrap();
            let again = RunState::load(path.parent().unwrap()).unwrap();
            assert_eq!(serde_json::to_vec(&again).unwrap(), text);
        }
    });
}

/// A line of a run's rollouts.
pub fn rollouts(data: &[u8]) {
    let _ = serde_json::from_slice::<RolloutLine<'_>>(data);
}

/// A configuration, of a run and of supervised training. What a run saves as its settings, it must read back.
pub fn settings(data: &[u8]) {
    in_file("run.toml", data, |path| {
        let _ = SftConfig::load(Some(path), &[]);
        let Ok(config) = TrainConfig::load(Some(path), &[]) else {
            return;
        };
        fs::write(path, config.to_toml().unwrap()).unwrap();
        assert_eq!(TrainConfig::load(Some(path), &[]).unwrap(), config);
    });
}

/// A parser's corpus: seeds, and whatever was found.
pub fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|_| panic!("no {}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds in {}", folder.display());
    paths
}
