//! Bad input: one clear `error:` line, exit code 1, nothing half-written.
#![allow(clippy::unwrap_used, reason = "a broken test fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

fn anneal(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_anneal"))
        .args(args)
        .output()
        .unwrap()
}

/// Runs and expects one `error:` line that holds every one of the words.
fn assert_refused(args: &[&str], words: &[&str]) {
    let output = anneal(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{args:?}: {stderr}");
    let others = stderr.lines().filter(|line| !line.starts_with("error: "));
    assert!(
        others.clone().all(|line| line.starts_with("hint: ")),
        "{args:?}: {stderr}"
    );
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(
            errors[0].contains(word),
            "{args:?}: '{word}' is not in: {}",
            errors[0]
        );
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/data/models")
        .join(name)
}

/// A copy of a tiny model that may be damaged.
fn model(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

fn assert_model_refused(dir: &Path, words: &[&str]) {
    let input = golden("llama-tied").join("expected.json");
    let args = [
        "score",
        "--model",
        dir.to_str().unwrap(),
        "--input",
        input.to_str().unwrap(),
    ];
    assert_refused(&args, words);
}

#[test]
fn folders_that_are_no_model() {
    assert_refused(
        &["generate", "--model", "no/such/folder", "hello"],
        &["no/such/folder"],
    );
    let empty = tempfile::tempdir().unwrap();
    assert_model_refused(empty.path(), &["config.json"]);
}

#[test]
fn configurations_that_no_model_has() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &[&str]); 12] = [
        (
            |c| c["model_type"] = json!("mamba"),
            &["model_type", "mamba", "llama"],
        ),
        (
            |c| drop(c.as_object_mut().unwrap().remove("hidden_size")),
            &["hidden_size", "missing"],
        ),
        (
            |c| c["num_hidden_layers"] = json!(1_000_000_000),
            &["num_hidden_layers"],
        ),
        (|c| c["vocab_size"] = json!(1_u64 << 40), &["vocab_size"]),
        (
            |c| c["num_key_value_heads"] = json!(3),
            &["num_key_value_heads"],
        ),
        (
            |c| c["num_attention_heads"] = json!(-4),
            &["num_attention_heads", "-4"],
        ),
        (|c| c["rms_norm_eps"] = json!(0), &["rms_norm_eps"]),
        (
            |c| c["rope_parameters"] = json!({"rope_type": "yarn"}),
            &["rope_type", "yarn"],
        ),
        (
            |c| c["rope_parameters"] = json!({"rope_type": 5}),
            &["rope_type", "5"],
        ),
        (|c| c["head_dim"] = json!(0), &["head_dim"]),
        (
            |c| {
                c["model_type"] = json!("qwen2");
                c["layer_types"] = json!(["linear_attention", "full_attention"]);
            },
            &["layer_types", "linear_attention"],
        ),
        (|c| c["hidden_act"] = json!("gelu"), &["hidden_act", "gelu"]),
    ];
    for (edit, words) in cases {
        let dir = model("llama-tied");
        edit_config(dir.path(), edit);
        assert_model_refused(dir.path(), words);
    }
    let dir = model("llama-tied");
    fs::write(dir.path().join("config.json"), "{\"model_type\": ").unwrap();
    assert_model_refused(dir.path(), &["config.json", "JSON"]);
}

#[test]
fn weights_that_do_not_fit() {
    let dir = model("llama-tied");
    let file = dir.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert_model_refused(dir.path(), &["model.safetensors"]);
    fs::write(&file, [255; 64]).unwrap();
    assert_model_refused(dir.path(), &["model.safetensors"]);
    fs::remove_file(&file).unwrap();
    assert_model_refused(dir.path(), &["model.safetensors"]);

    let dir = model("llama-tied");
    edit_config(dir.path(), |config| config["num_hidden_layers"] = json!(3));
    assert_model_refused(dir.path(), &["model.layers.2", "missing"]);
    let dir = model("llama-tied");
    edit_config(dir.path(), |config| config["num_hidden_layers"] = json!(1));
    assert_model_refused(dir.path(), &["model.layers.1", "no place for"]);
    let dir = model("llama-tied");
    edit_config(dir.path(), |config| config["intermediate_size"] = json!(64));
    assert_model_refused(dir.path(), &["model.layers.0.mlp", "shape", "128", "64"]);
}

#[test]
fn tokenizers_that_are_damaged_or_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/base");
    for entry in fs::read_dir(base).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let model = dir.path().to_str().unwrap();
    let file = dir.path().join("tokenizer.json");
    let bytes = fs::read(&file).unwrap();
    for length in (0..bytes.len()).step_by(97) {
        fs::write(&file, &bytes[..length]).unwrap();
        assert_refused(&["generate", "--model", model, "1+1="], &["tokenizer.json"]);
    }
    fs::write(&file, &bytes).unwrap();
    edit_config(dir.path(), |config| config["eos_token_id"] = json!(99_999));
    assert_refused(
        &["generate", "--model", model, "1+1="],
        &["eos_token_id", "99999"],
    );
}

#[test]
fn rows_longer_than_the_context() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input.json");
    fs::write(&input, json!({"input_ids": [vec![1; 100_000]]}).to_string()).unwrap();
    let (model, input) = (golden("llama-tied"), input.to_str().unwrap());
    assert_refused(
        &[
            "score",
            "--model",
            model.to_str().unwrap(),
            "--input",
            input,
        ],
        &["100000", "context"],
    );
}

#[test]
fn indices_that_leave_their_folder() {
    for name in [
        "../outside.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "C:\\x",
        "",
    ] {
        let dir = model("qwen2-sharded");
        let path = dir.path().join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        index["weight_map"]["model.norm.weight"] = json!(name);
        fs::write(&path, index.to_string()).unwrap();
        assert_model_refused(dir.path(), &["index.json", "not a file of this folder"]);
    }
}

/// Trains on a file of problems that cannot be read: nothing comes after.
fn assert_data_refused(text: &[u8], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("problems.jsonl");
    fs::write(&data, text).unwrap();
    let out = dir.path().join("run");
    let setting = format!("data.train={}", data.display());
    assert_refused(
        &[
            "train",
            "--steps",
            "1",
            "--out",
            out.to_str().unwrap(),
            &setting,
        ],
        words,
    );
    assert!(!out.exists(), "a run folder was left behind");
}

#[test]
fn data_that_cannot_be_read() {
    let good = b"{\"problem\": \"1+1\", \"answer\": \"2\"}\n";
    let with = |tail: &[u8]| [good, tail].concat();
    assert_data_refused(&with(b"{\"problem\": \"1+\n"), &["problems.jsonl", "2"]);
    assert_data_refused(&with(b"{\"problem\": \"2+2\"}\n"), &["answer", "2"]);
    assert_data_refused(&with(b"{\"answer\": \"2\"}\n"), &["problems.jsonl", "2"]);
    assert_data_refused(b"", &["problems.jsonl"]);
    assert_data_refused(&with(b"\xff\xfe\n"), &["problems.jsonl", "2"]);
}

#[test]
fn settings_that_do_not_exist_or_do_not_fit() {
    let refused = |setting: &str, words: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        assert_refused(&["train", "--out", out.to_str().unwrap(), setting], words);
        assert!(!out.exists(), "a run folder was left behind");
    };
    refused(
        "rollout.groupsize=4",
        &["rollout.groupsize", "rollout.group_size"],
    );
    refused(
        "loss.top_fractoin=0.1",
        &["loss.top_fractoin", "loss.top_fraction"],
    );
    refused(
        "rollout.group_size=0",
        &["rollout.group_size", "1..=16777216"],
    );
    refused(
        "rollout.prompts_per_step=100000000000",
        &["rollout.prompts_per_step"],
    );
    refused("validation.problems=100000000000", &["validation.problems"]);
    refused("validation.temperature=1e-5", &["validation.temperature"]);
    refused("rollout.group_size=1", &["rollout.filter_groups"]);
    refused("rollout.group_size=8.5", &["group_size", "8.5"]);
    refused("rollout.filter_groups=off", &["filter_groups", "off"]);
    refused("rollout.stop_strings=[1]", &["stop_strings"]);
    refused("steps=0", &["steps", "at least 1"]);
    refused("loss.aggregation=foo", &["foo", "token_mean"]);
    refused("rollout.oversampling=0.5", &["rollout.oversampling"]);
    refused("seed=18446744073709551615", &["seed"]);
    refused("model.dtype=f16", &["model.dtype", "bf16"]);
    refused("rollout.group_size=many", &["rollout.group_size"]);
    refused("rollout.temperature=-1", &["rollout.temperature"]);
    refused("rollout.top_p=0", &["rollout.top_p"]);
    refused("optimizer.learning_rate=nan", &["optimizer.learning_rate"]);
    refused("loss.type=magic", &["magic"]);
    refused("steps", &["key=value"]);
    refused("loss.reference_kl.coef=-1", &["loss.reference_kl.coef"]);
    refused(
        "entropy.ratio_clip.ratio_low=2",
        &["entropy.ratio_clip.ratio_low"],
    );
    refused("entropy.bonus.coeff=0.1", &["entropy.bonus.coef"]);
    refused("critic.clip=0", &["critic.clip"]);
    refused("advantage.type=magic", &["magic"]);
    refused("lora.rank=0", &["lora.rank"]);
    refused("lora.rank=129", &["lora.rank", "hidden_size", "128"]);
    refused("lora.alpha=0", &["lora.alpha", "1e-6"]);
    refused("lora.alpha=1e39", &["lora.alpha"]);
    refused("lora.targets=[]", &["lora.targets"]);
    refused("lora.targets=[\"q\"]", &["lora.targets", "q_proj"]);
    refused("lora.r=4", &["lora.r", "lora.rank"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    fs::write(&file, "[rollout]\ngroup_sise = 4\n").unwrap();
    let file = file.to_str().unwrap();
    assert_refused(
        &["train", "--config", file],
        &["run.toml", "group_sise", "rollout.group_size"],
    );
    assert_refused(&["train", "--config", "no.toml"], &["no.toml"]);
}

#[test]
fn adapters_that_cannot_be_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (adapter, out) = (dir.path().join("adapter"), dir.path().join("out"));
    fs::create_dir(&adapter).unwrap();
    let (path, to) = (adapter.to_str().unwrap(), out.to_str().unwrap());
    let base = golden("qwen3");
    let import = ["import", path, "--out", to];
    let refused = |words: &[&str]| {
        let with_base = [&import[..], &["--base", base.to_str().unwrap()]].concat();
        assert_refused(&with_base, words);
        assert!(!out.exists(), "a folder was left behind");
    };
    refused(&["adapter_config.json"]);
    let tensors = "adapter_model.safetensors";
    let saved = base.join("../../parity/qwen3-lora").join(tensors);
    let good = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 4.5, "base_model_name_or_path": "nowhere"});
    let write = |settings: &Value| {
        fs::write(adapter.join("adapter_config.json"), settings.to_string()).unwrap();
    };
    write(&good);
    refused(&[tensors]);
    fs::copy(saved, adapter.join(tensors)).unwrap();
    for (key, value, words) in [
        ("peft_type", json!("IA3"), ["peft_type", "IA3"]),
        ("r", json!(0), ["r is not", "1..=64"]),
        ("r", json!(2), ["lora_A", "[2, "]),
        ("lora_alpha", json!("much"), ["lora_alpha", "1e6"]),
        ("use_dora", json!(true), ["use_dora", "not supported"]),
        (
            "modules_to_save",
            json!(["lm_head"]),
            ["modules_to_save", "not supported"],
        ),
        ("bias", json!("all"), ["bias", "none"]),
        ("init_lora_weights", json!("pissa"), ["pissa", "beneath"]),
        (
            "layers_to_transform",
            json!([0]),
            ["layers_to_transform", "not supported"],
        ),
    ] {
        let mut settings = good.clone();
        settings[key] = value;
        write(&settings);
        refused(&words);
    }
    write(&good);
    assert_refused(&import, &["base_model_name_or_path", "nowhere", "--base"]);
    let file = dir.path().join("model.gguf");
    fs::write(&file, "GGUF").unwrap();
    let file = ["import", file.to_str().unwrap(), "--out", to, "--base", "x"];
    assert_refused(&file, &["--base", "adapter"]);
    let done = anneal(&[&import[..], &["--base", base.to_str().unwrap()]].concat());
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn adapters_go_on_over_the_model_that_they_began_with_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (base, run) = (dir.path().join("base"), dir.path().join("run"));
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/base");
    fs::create_dir(&base).unwrap();
    for entry in fs::read_dir(shipped).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, base.join(path.file_name().unwrap())).unwrap();
    }
    let (model, out) = (base.to_str().unwrap(), run.to_str().unwrap());
    let output = anneal(&[
        "train",
        "--model",
        model,
        "--out",
        out,
        "steps=1",
        "lora.rank=2",
        "rollout.prompts_per_step=2",
        "rollout.max_new_tokens=8",
        "rollout.filter_groups=false",
        "data.instruction=",
        "validation.problems=0",
        // Something to learn whatever the answers are.
        "entropy.bonus.coef=1",
        "optimizer.learning_rate=1e-3",
    ]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let resume = ["train", "--resume", out, "--steps", "2"];
    // Before there is a checkpoint, nothing tells one model from another.
    let kept = dir.path().join("kept");
    fs::rename(run.join("checkpoints"), &kept).unwrap();
    let other = golden("llama-tied");
    let place = format!("model.path={}", other.display());
    assert_refused(
        &[&resume[..], &[place.as_str()]].concat(),
        &["no checkpoint", "model.path"],
    );
    fs::rename(&kept, run.join("checkpoints")).unwrap();
    assert_refused(&[&resume[..], &["lora.rank=3"]].concat(), &["lora"]);
    // The run's own result in its place is a model of the same shape.
    let weights = "model.safetensors";
    let kept = fs::read(base.join(weights)).unwrap();
    fs::copy(
        run.join("checkpoints/step-000001").join(weights),
        base.join(weights),
    )
    .unwrap();
    assert_refused(&resume, &["step-000001", "another model", model]);
    fs::write(base.join(weights), kept).unwrap();
    // Somewhere else, and with another end of texts, which is the checkpoint's.
    let moved = dir.path().join("moved");
    fs::rename(&base, &moved).unwrap();
    edit_config(&moved, |config| config["eos_token_id"] = json!(3));
    assert_refused(&resume, &["step-000001", model, "model.path="]);
    let place = format!("model.path={}", moved.display());
    let output = anneal(&[&resume[..], &[place.as_str()]].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let ends = |step: &str| {
        let folder = run.join("checkpoints").join(step);
        let text = fs::read_to_string(folder.join("config.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["eos_token_id"].clone()
    };
    assert_eq!(ends("step-000002"), ends("step-000001"));
    let solutions = ["sft", "--out", out, "lora.rank=2"];
    assert_refused(&solutions, &["lora", "model.path"]);
}

#[test]
fn architectures_that_cannot_be_drawn() {
    for (setting, words) in [
        (
            "architecture.num_attention_heads=1000",
            &["head_dim", "1000"][..],
        ),
        (
            "architecture.num_hidden_layers=4000000",
            &["num_hidden_layers"],
        ),
        ("architecture.hidden_size=1000000", &["parameters"]),
        ("batch_size=100000000000", &["batch_size"]),
        ("model.dtype=f16", &["model.dtype"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("model");
        assert_refused(&["sft", "--out", out.to_str().unwrap(), setting], words);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{setting}");
    }
}

#[test]
fn prompts_longer_than_the_context() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("problems.jsonl");
    let problem = "1+".repeat(600) + "1=";
    fs::write(
        &data,
        json!({"problem": problem, "answer": "601"}).to_string(),
    )
    .unwrap();
    let setting = format!("data.train={}", data.display());
    let out = dir.path().join("run");
    let args = [
        "train",
        "--out",
        out.to_str().unwrap(),
        &setting,
        "data.instruction=",
    ];
    assert_refused(&args, &["tokens", "context"]);
    assert!(!out.exists(), "a run folder was left behind");
}

#[test]
fn output_folders_in_use_or_not_writable() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), "data").unwrap();
    let used = dir.path().to_str().unwrap();
    assert_refused(&["train", "--out", used], &["already"]);
    assert_refused(&["sft", "--out", used, "steps=1"], &["already"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let file = dir.path().join("precious");
    let below_a_file = file.join("run");
    assert_refused(
        &["train", "--out", below_a_file.to_str().unwrap()],
        &["precious"],
    );
}

#[test]
fn devices_that_this_build_lacks() {
    assert_refused(
        &["generate", "--device", "warp", "1+1="],
        &["warp", "flex", "cuda"],
    );
    assert_refused(&["generate", "--device", "flex:x", "1+1="], &["flex:x"]);
    if !cfg!(feature = "cuda") {
        assert_refused(
            &["generate", "--device", "cuda", "1+1="],
            &["--features cuda"],
        );
    }
}

#[test]
fn parts_that_do_not_go_together() {
    let refused = |settings: &[&str], words: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        let args = [&["train", "--out", out.to_str().unwrap()], settings].concat();
        assert_refused(&args, words);
        assert!(!out.exists(), "a run folder was left behind");
    };
    refused(
        &["loss.type=clip_cov", "entropy.kl_cov={}"],
        &["Clip-Cov", "KL-Cov", "covariance"],
    );
    refused(
        &["loss.type=gmpo", "entropy.top_entropy={}"],
        &["entropy.top_entropy", "gmpo"],
    );
    refused(
        &["loss.type=gmpo", "loss.aggregation=token_mean"],
        &["gmpo", "seq_mean_token_mean"],
    );
    refused(
        &[
            "advantage.type=pass_at_k",
            "rollout.group_size=1",
            "rollout.filter_groups=false",
        ],
        &["rollout.group_size", "at least 2"],
    );
    refused(
        &["entropy.bonus={}", "entropy.adaptive={}"],
        &["entropy.bonus", "entropy.adaptive"],
    );
}

#[test]
fn a_command_line_that_is_wrong() {
    for args in [
        &["train", "--no-such-option"][..],
        &["tarin"],
        &[],
        &["replay"],
    ] {
        let output = anneal(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{args:?}"
        );
    }
    assert_eq!(anneal(&["train", "--help"]).status.code(), Some(0));
}

#[test]
fn cases_that_cannot_be_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("case.json");
    let matrix = |value: f64| json!([[value, value], [value, value]]);
    let case = |change: &dyn Fn(&mut Value)| {
        let mut case = json!({
            "loss": {"type": "ppo_clip"},
            "aggregation": "token_mean",
            "inputs": {
                "log_probs": matrix(-1.0), "old_log_probs": matrix(-1.0),
                "advantages": matrix(1.0), "mask": matrix(1.0),
            },
            "expected": {"loss": -1.0},
        });
        change(&mut case);
        fs::write(&file, case.to_string()).unwrap();
    };
    let path = file.to_str().unwrap();
    let refused = |change: &dyn Fn(&mut Value), words: &[&str]| {
        case(change);
        assert_refused(&["replay", path], words);
    };
    case(&|_| ());
    assert_eq!(anneal(&["replay", "--check", path]).status.code(), Some(0));
    refused(
        &|case| case["inputs"]["mask"] = Value::Null,
        &["case.json", "inputs.mask"],
    );
    refused(
        &|case| case["inputs"]["mask"] = json!([[1.0, 1.0]]),
        &["inputs.mask", "2 rows of 2"],
    );
    refused(
        &|case| case["inputs"]["log_probs"][1][0] = json!(1e300),
        &["log-probability", "row 1", "token 0"],
    );
    refused(&|case| case["loss"]["type"] = json!("magic"), &["magic"]);
    refused(
        &|case| case["loss"]["clip_low"] = json!(-1.0),
        &["loss.clip_low"],
    );
    refused(
        &|case| case["expected"]["beauty"] = json!(1.0),
        &["expected.beauty"],
    );
    refused(
        &|case| case["loss"] = Value::Null,
        &["case.json", "'estimator'"],
    );
    case(&|case| case["expected"] = json!({}));
    assert_refused(&["replay", "--check", path], &["case.json", "expected"]);
    case(&|case| case["expected"]["loss"] = json!(-2.0));
    assert_refused(&["replay", "--check", path], &["1 of 1", "case"]);
    fs::write(&file, "{\"inputs\": ").unwrap();
    assert_refused(&["replay", path], &["case.json", "line 1"]);
    assert_refused(&["replay", "no-such-case.json"], &["no-such-case.json"]);
}

/// What a newcomer types first works, and says what it did about what could not.
#[test]
fn verdicts_are_lines_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("pairs.jsonl");
    let lines = [
        json!({"gold": "$\\frac12$", "pred": "so \\boxed{0.5}", "id": "first"}),
        json!({"gold": "7", "pred": "no idea"}),
        json!({"gold": "5", "pred": "\\boxed{10^{10^{10}}}"}),
    ];
    fs::write(&input, lines.map(|line| line.to_string()).join("\n\n")).unwrap();
    let path = input.to_str().unwrap();
    let output = anneal(&["verify", "--input", path]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected = [
        json!({"id": "first", "correct": true, "gold_answer": "\\frac12", "pred_answer": "0.5", "reason": "equal_number"}),
        json!({"id": 3, "correct": false, "gold_answer": "7", "pred_answer": null, "reason": "no_answer"}),
        json!({
            "id": 5, "correct": false, "gold_answer": "5", "pred_answer": "10^{10^{10}}",
            "reason": "undecided_number_too_large",
        }),
    ];
    assert_eq!(found, expected);
    fs::write(
        &input,
        "{\"gold\": \"5\", \"pred\": \"5\"}\n{\"gold\": 5}\n",
    )
    .unwrap();
    assert_refused(
        &["verify", "--input", path],
        &["pairs.jsonl", "line 2", "gold"],
    );
    assert_refused(&["verify", "--input", "no.jsonl"], &["no.jsonl"]);
}

#[test]
fn sets_by_name_are_answered_as_published() {
    let dir = tempfile::tempdir().unwrap();
    for (name, problem, answer) in [
        ("math500", "10+20+30+40=\n", "100"),
        ("aime24", "11+12+13+14=\n", "50"),
    ] {
        let line = json!({"problem": problem, "answer": answer}).to_string();
        fs::write(dir.path().join(format!("{name}.jsonl")), line).unwrap();
    }
    let folder = dir.path().to_str().unwrap();
    let output = anneal(&[
        "eval",
        "--data",
        "math500,aime24",
        "--data-dir",
        folder,
        "--max-new-tokens",
        "8",
    ]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let protocol = |set: usize| {
        let set = &report["sets"][set];
        (set["samples"].as_u64(), set["temperature"].as_f64())
    };
    assert_eq!(protocol(0), (Some(1), Some(0.0)));
    assert_eq!(protocol(1), (Some(32), Some(0.6)));
    assert!(report["overall"]["mean"]["value"].is_number());
    assert!(report["sets"][1]["majority_at"]["32"]["value"].is_number());
    assert_refused(
        &["eval", "--data", "aime25", "--data-dir", folder],
        &["aime25", "--data-dir"],
    );
    assert_refused(&["eval", "--data", "math501"], &["math501", "math500"]);
}

#[test]
fn a_gold_answer_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("problems.jsonl");
    fs::write(
        &data,
        "{\"id\": \"p7\", \"problem\": \"1+1=\", \"answer\": \"\\\\frac{1\"}\n",
    )
    .unwrap();
    let setting = format!("data.train={}", data.display());
    let out = dir.path().join("run");
    let args = ["train", "--out", out.to_str().unwrap(), &setting];
    assert_refused(&args, &["p7", "frac{1"]);
    assert!(!out.exists(), "a run folder was left behind");
    assert_refused(
        &["eval", "--data", data.to_str().unwrap()],
        &["problems.jsonl", "p7"],
    );
}

#[test]
fn an_evaluation_needs_no_settings() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("problems.jsonl");
    fs::write(
        &data,
        "{\"problem\": \"10+20+30+40=\\n\", \"answer\": \"100\"}\n",
    )
    .unwrap();
    let responses = dir.path().join("responses.jsonl");
    let output = anneal(&[
        "eval",
        "--data",
        data.to_str().unwrap(),
        "--samples",
        "2",
        "--temperature",
        "1",
        "--responses",
        responses.to_str().unwrap(),
    ]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("without an instruction"), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for figure in [
        &report["mean"],
        &report["greedy"],
        &report["pass_at"]["1"],
        &report["pass_at"]["2"],
        &report["majority_at"]["2"],
    ] {
        assert!(
            figure["value"].is_number() && figure["interval"][1].is_number(),
            "{report}"
        );
    }
    let line: Value = serde_json::from_str(&fs::read_to_string(&responses).unwrap()).unwrap();
    assert_eq!(line["samples"].as_array().unwrap().len(), 2);
    assert_eq!(anneal(&["eval", "--limit", "2"]).status.code(), Some(0));
    let below_a_file = data.join("responses.jsonl");
    assert_refused(
        &[
            "eval",
            "--limit",
            "1",
            "--responses",
            below_a_file.to_str().unwrap(),
        ],
        &["responses.jsonl"],
    );
    assert_refused(&["eval", "--limit", "0"], &["--limit"]);
    assert_refused(&["eval", "--temperature", "1e-6"], &["temperature"]);
    assert_refused(&["eval", "--top-p", "1.5"], &["top_p"]);
    assert_refused(&["eval", "--min-p", "-1"], &["min_p"]);
}
