//! GGUF files made here, and what their import writes.
#![allow(clippy::unwrap_used, reason = "a broken test fails")]

use std::{collections::BTreeMap, fs, io::Cursor, path::Path};

use burn::tensor::{DType, Device};
use candle_core::{
    Device as CandleDevice, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use policy::{Family, ImportSummary, Policy, PolicyError, SaveDtype, Tokenizer, import_gguf};
use serde_json::{Value as Json, json};

/// Rows of 256 values hold whole blocks of every type.
const HIDDEN: usize = 256;
const INNER: usize = 512;
const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const LAYERS: usize = 2;

/// A file under construction: metadata, and tensors in float32 with the type that they are stored in.
struct Model {
    metadata: Vec<(String, Value)>,
    tensors: BTreeMap<String, (Vec<f32>, Vec<usize>, GgmlDType)>,
}

/// Values that differ from each other, a tensor from the next too.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 + seed * 101) % 1009) as f32 / 1009.0 - 0.5)
        .collect()
}

fn texts<T: AsRef<str>>(items: &[T]) -> Value {
    Value::Array(
        items
            .iter()
            .map(|item| Value::String(item.as_ref().into()))
            .collect(),
    )
}

/// The characters that byte-level vocabularies spell bytes with.
fn byte_characters() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut spare = 256;
    (0..256)
        .map(|byte| {
            let code = if printable(byte) { byte } else { spare };
            spare += u32::from(!printable(byte));
            char::from_u32(code).unwrap().to_string()
        })
        .collect()
}

/// 256 bytes, four merges, a control token, a user's token, one that fills up the embedding.
fn tokens() -> Vec<String> {
    let more = [
        "he",
        "ll",
        "hell",
        "hello",
        "<|im_end|>",
        "<think>",
        "[PAD262]",
    ];
    byte_characters()
        .into_iter()
        .chain(more.map(str::to_owned))
        .collect()
}

impl Model {
    fn new(architecture: &str, tied: bool) -> Self {
        let mut model = Self {
            metadata: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let mut kinds = vec![1; 260];
        kinds.extend([3, 4, 5]);
        model.set("general.architecture", Value::String(architecture.into()));
        for (key, value) in [
            ("block_count", LAYERS),
            ("context_length", 512),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", INNER),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KEY_HEADS),
            ("attention.key_length", HEAD_DIM),
        ] {
            model.set(&format!("{architecture}.{key}"), Value::U32(value as u32));
        }
        model.set(
            &format!("{architecture}.attention.layer_norm_rms_epsilon"),
            Value::F32(1e-5),
        );
        model.set(
            &format!("{architecture}.rope.freq_base"),
            Value::F32(100_000.0),
        );
        model.set("tokenizer.ggml.model", Value::String("gpt2".into()));
        model.set("tokenizer.ggml.pre", Value::String("smollm".into()));
        model.set("tokenizer.ggml.tokens", texts(&tokens()));
        model.set(
            "tokenizer.ggml.token_type",
            Value::Array(kinds.into_iter().map(Value::I32).collect()),
        );
        model.set(
            "tokenizer.ggml.merges",
            texts(&["h e", "l l", "he ll", "hell o"]),
        );
        model.set("tokenizer.ggml.eos_token_id", Value::U32(260));
        model.set("tokenizer.ggml.eot_token_id", Value::U32(0));
        model.set(
            "tokenizer.chat_template",
            Value::String("{{ messages[0].content }}{{ eos_token }}".into()),
        );
        model.add("token_embd.weight", &[263, HIDDEN], GgmlDType::Q8_0);
        model.add("output_norm.weight", &[HIDDEN], GgmlDType::F32);
        if !tied {
            model.add("output.weight", &[263, HIDDEN], GgmlDType::Q6K);
        }
        let kinds = [
            [
                GgmlDType::F32,
                GgmlDType::F32,
                GgmlDType::F16,
                GgmlDType::Q4_0,
                GgmlDType::Q4_1,
                GgmlDType::Q5_0,
                GgmlDType::Q5_1,
            ],
            [
                GgmlDType::Q4K,
                GgmlDType::Q8_0,
                GgmlDType::BF16,
                GgmlDType::Q2K,
                GgmlDType::Q3K,
                GgmlDType::Q5K,
                GgmlDType::Q6K,
            ],
        ];
        for (layer, kinds) in kinds.into_iter().enumerate() {
            model.add_layer(layer, kinds);
        }
        model
    }

    fn add_layer(&mut self, layer: usize, kinds: [GgmlDType; 7]) {
        let [query, key] = [HEADS * HEAD_DIM, KEY_HEADS * HEAD_DIM];
        let shapes = [
            ("attn_q", [query, HIDDEN]),
            ("attn_k", [key, HIDDEN]),
            ("attn_v", [key, HIDDEN]),
            ("attn_output", [HIDDEN, query]),
            ("ffn_gate", [INNER, HIDDEN]),
            ("ffn_up", [INNER, HIDDEN]),
            ("ffn_down", [HIDDEN, INNER]),
        ];
        for ((name, shape), kind) in shapes.into_iter().zip(kinds) {
            // The one row width that K-quants do not divide.
            let kind = if name == "attn_output" {
                GgmlDType::Q4_0
            } else {
                kind
            };
            self.add(&format!("blk.{layer}.{name}.weight"), &shape, kind);
        }
        for name in ["attn_norm", "ffn_norm"] {
            self.add(
                &format!("blk.{layer}.{name}.weight"),
                &[HIDDEN],
                GgmlDType::F32,
            );
        }
    }

    fn add_to_layers(&mut self, name: &str, width: usize) {
        for layer in 0..LAYERS {
            self.add(&format!("blk.{layer}.{name}"), &[width], GgmlDType::F32);
        }
    }

    fn add(&mut self, name: &str, shape: &[usize], kind: GgmlDType) {
        let values = numbers(shape.iter().product(), self.tensors.len() + 1);
        self.tensors
            .insert(name.into(), (values, shape.into(), kind));
    }

    fn set(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(other, _)| other != key);
        self.metadata.push((key.into(), value));
    }

    fn quantized(&self, name: &str) -> QTensor {
        let (values, shape, kind) = &self.tensors[name];
        let tensor =
            Tensor::from_vec(values.clone(), shape.as_slice(), &CandleDevice::Cpu).unwrap();
        QTensor::quantize(&tensor, *kind).unwrap()
    }

    /// What the file holds of a tensor, row by row.
    fn stored(&self, name: &str) -> Vec<f32> {
        let tensor = self.quantized(name).dequantize(&CandleDevice::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let metadata: Vec<_> = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let tensors: Vec<_> = self
            .tensors
            .keys()
            .map(|name| (name, self.quantized(name)))
            .collect();
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        let mut bytes = Cursor::new(Vec::new());
        gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
        bytes.into_inner()
    }

    fn import(&self, folder: &Path, dtype: SaveDtype) -> Result<ImportSummary, PolicyError> {
        import_bytes(&self.bytes(), folder, dtype)
    }

    fn refusal(&self) -> String {
        refusal(&self.bytes())
    }
}

fn import_bytes(
    bytes: &[u8],
    folder: &Path,
    dtype: SaveDtype,
) -> Result<ImportSummary, PolicyError> {
    let file = folder.join("model.gguf");
    fs::write(&file, bytes).unwrap();
    import_gguf(&file, &folder.join("made/model"), dtype)
}

/// The message of an import that must fail, and must leave nothing behind.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = import_bytes(bytes, folder.path(), SaveDtype::F32)
        .unwrap_err()
        .to_string();
    assert_eq!(
        fs::read_dir(folder.path().join("made")).unwrap().count(),
        0,
        "{error}"
    );
    assert!(
        error.contains("model.gguf: ") && !error.contains('\n'),
        "{error}"
    );
    error
}

fn json_file(folder: &Path, name: &str) -> Json {
    serde_json::from_slice(&fs::read(folder.join("made/model").join(name)).unwrap()).unwrap()
}

/// A folder's tensors as float32.
fn weights(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(folder.join("made/model/model.safetensors")).unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &CandleDevice::Cpu).unwrap();
    let values = |tensor: Tensor| {
        tensor
            .to_dtype(candle_core::DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    tensors
        .into_iter()
        .map(|(name, tensor)| (name, values(tensor)))
        .collect()
}

/// Rows as the llama architecture keeps them, from rows as Hugging Face does: halves of a head become neighbours.
fn interleave(values: &[f32], heads: usize) -> Vec<f32> {
    let width = values.len() / (heads * HEAD_DIM);
    let mut rows = Vec::new();
    for head in 0..heads {
        for pair in 0..HEAD_DIM / 2 {
            for half in 0..2 {
                let row = head * HEAD_DIM + half * HEAD_DIM / 2 + pair;
                rows.extend_from_slice(&values[row * width..(row + 1) * width]);
            }
        }
    }
    rows
}

#[test]
fn a_llama_comes_back_as_it_was_before_its_conversion() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new("llama", true);
    let original = numbers(HEADS * HEAD_DIM * HIDDEN, 99);
    model.tensors.get_mut("blk.0.attn_q.weight").unwrap().0 = interleave(&original, HEADS);
    let summary = model.import(folder.path(), SaveDtype::F32).unwrap();
    assert_eq!(summary.family, Family::Llama);
    assert_eq!((summary.tensors, summary.vocab_size), (2 + 9 * LAYERS, 263));
    assert!(summary.has_chat_template);
    let weights = weights(folder.path());
    assert_eq!(weights["model.layers.0.self_attn.q_proj.weight"], original);
    for layer in 0..LAYERS {
        let found = |name: &str| &weights[&format!("model.layers.{layer}.{name}.weight")];
        let stored = |name: &str| model.stored(&format!("blk.{layer}.{name}.weight"));
        assert_eq!(
            interleave(found("self_attn.q_proj"), HEADS),
            stored("attn_q")
        );
        assert_eq!(
            interleave(found("self_attn.k_proj"), KEY_HEADS),
            stored("attn_k")
        );
        for (target, origin) in [
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
        ] {
            assert_eq!(*found(target), stored(origin), "{target}");
        }
    }
    assert_eq!(
        weights["model.embed_tokens.weight"],
        model.stored("token_embd.weight")
    );
    assert_eq!(
        weights["model.norm.weight"],
        model.stored("output_norm.weight")
    );
    Policy::load(
        &folder.path().join("made/model"),
        DType::F32,
        &Device::flex(),
    )
    .unwrap();
}

#[test]
fn the_configuration_says_what_the_metadata_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new("llama", true);
    model.set("llama.rope.dimension_count", Value::U32(HEAD_DIM as u32));
    model.set("tokenizer.ggml.bos_token_id", Value::U32(261));
    model.import(folder.path(), SaveDtype::F32).unwrap();
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 263,
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "head_dim": HEAD_DIM,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0,
        "rope_scaling": null, "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
        "tie_word_embeddings": true, "bos_token_id": 261, "eos_token_id": 260, "use_cache": true,
        "dtype": "float32",
    });
    assert_eq!(json_file(folder.path(), "config.json"), expected);
    let generation = json!({"bos_token_id": 261, "eos_token_id": [260, 0]});
    assert_eq!(
        json_file(folder.path(), "generation_config.json"),
        generation
    );
}

#[test]
fn the_vocabulary_encodes_and_decodes() {
    let folder = tempfile::tempdir().unwrap();
    Model::new("llama", true)
        .import(folder.path(), SaveDtype::Bf16)
        .unwrap();
    let tokenizer = Tokenizer::load(&folder.path().join("made/model")).unwrap();
    let text = "hello 12é\n<think><|im_end|>";
    let ids = tokenizer.encode(text, true).unwrap();
    let [space, one, two, newline] = [b' ', b'1', b'2', b'\n'].map(u32::from);
    assert_eq!(ids, [259, space, one, two, 0xc3, 0xa9, newline, 261, 260]);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hello 12é\n<think>");
    assert_eq!(
        (tokenizer.eos_token_id(), tokenizer.token_id("[PAD262]")),
        (Some(260), None)
    );
    let template = tokenizer.chat_template().unwrap();
    let rendered = template.render(&[json!({"content": "hi"})], true, &serde_json::Map::new());
    assert_eq!(rendered.unwrap(), "hi<|im_end|>");
    assert_eq!(json_file(folder.path(), "config.json")["dtype"], "bfloat16");
}

#[test]
fn qwens_keep_their_rows_and_have_their_biases_and_norms() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new("qwen2", false);
    model.set("tokenizer.ggml.pre", Value::String("qwen2".into()));
    model.add_to_layers("attn_q.bias", HEADS * HEAD_DIM);
    model.add_to_layers("attn_k.bias", KEY_HEADS * HEAD_DIM);
    model.add_to_layers("attn_v.bias", KEY_HEADS * HEAD_DIM);
    let summary = model.import(folder.path(), SaveDtype::F32).unwrap();
    assert_eq!(
        (summary.family, summary.tensors),
        (Family::Qwen2, 3 + 12 * LAYERS)
    );
    let found = weights(folder.path());
    let layer = "model.layers.1.self_attn.q_proj";
    assert_eq!(
        found[&format!("{layer}.weight")],
        model.stored("blk.1.attn_q.weight")
    );
    assert_eq!(
        found[&format!("{layer}.bias")],
        model.stored("blk.1.attn_q.bias")
    );
    assert_eq!(found["lm_head.weight"], model.stored("output.weight"));

    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new("qwen3", true);
    model.set("tokenizer.ggml.pre", Value::String("qwen2".into()));
    model.add_to_layers("attn_q_norm.weight", HEAD_DIM);
    model.add_to_layers("attn_k_norm.weight", HEAD_DIM);
    let summary = model.import(folder.path(), SaveDtype::F32).unwrap();
    assert_eq!(
        (summary.family, summary.tensors),
        (Family::Qwen3, 2 + 11 * LAYERS)
    );
    let found = weights(folder.path());
    assert_eq!(
        found["model.layers.0.self_attn.k_norm.weight"],
        model.stored("blk.0.attn_k_norm.weight")
    );
    Policy::load(
        &folder.path().join("made/model"),
        DType::F32,
        &Device::flex(),
    )
    .unwrap();
}

#[test]
fn biases_of_a_llama_are_put_in_order_with_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new("llama", true);
    for (name, width) in [("q", HEADS), ("k", KEY_HEADS), ("v", KEY_HEADS)] {
        model.add_to_layers(&format!("attn_{name}.bias"), width * HEAD_DIM);
    }
    model.add_to_layers("attn_output.bias", HIDDEN);
    model.import(folder.path(), SaveDtype::F32).unwrap();
    let found = weights(folder.path());
    let bias = &found["model.layers.1.self_attn.k_proj.bias"];
    assert_eq!(
        interleave(bias, KEY_HEADS),
        model.stored("blk.1.attn_k.bias")
    );
}

#[test]
fn a_sliding_window_makes_a_mistral() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new("llama", true);
    model.set("llama.attention.sliding_window", Value::U32(128));
    let summary = model.import(folder.path(), SaveDtype::F32).unwrap();
    assert_eq!(summary.family, Family::Mistral);
    assert_eq!(
        json_file(folder.path(), "config.json")["sliding_window"],
        128
    );
}

/// The divisors of Llama 3.2's frequencies, by the formula in its reference implementation.
fn llama3_divisors(theta: f64, factor: f64) -> Vec<f32> {
    let divisor = |i: usize| {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / HEAD_DIM as f64);
        if wavelength < 8192.0 / 4.0 {
            return 1.0;
        }
        if wavelength > 8192.0 {
            return factor;
        }
        let smooth = (8192.0 / wavelength - 1.0) / 3.0;
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    (0..HEAD_DIM / 2).map(|i| divisor(i) as f32).collect()
}

#[test]
fn rotary_scaling_is_found_in_its_tensor_and_in_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new("llama", true);
    model.add("rope_freqs.weight", &[HEAD_DIM / 2], GgmlDType::F32);
    model.tensors.get_mut("rope_freqs.weight").unwrap().0 = llama3_divisors(100_000.0, 32.0);
    model.import(folder.path(), SaveDtype::F32).unwrap();
    let expected = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    assert_eq!(
        json_file(folder.path(), "config.json")["rope_scaling"],
        expected
    );
    model.tensors.get_mut("rope_freqs.weight").unwrap().0[8] *= 1.01;
    assert!(model.refusal().contains("rope_freqs.weight"));

    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new("llama", true);
    model.set("llama.rope.scaling.type", Value::String("linear".into()));
    model.set("llama.rope.scaling.factor", Value::F32(2.0));
    model.import(folder.path(), SaveDtype::F32).unwrap();
    let expected = json!({"rope_type": "linear", "factor": 2.0});
    assert_eq!(
        json_file(folder.path(), "config.json")["rope_scaling"],
        expected
    );
    model.set("llama.rope.scaling.type", Value::String("yarn".into()));
    assert!(model.refusal().contains("'yarn'"));
}

#[test]
fn llama_3_begins_texts_with_its_first_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new("llama", true);
    model.set("tokenizer.ggml.pre", Value::String("llama-bpe".into()));
    model.set("tokenizer.ggml.bos_token_id", Value::U32(260));
    model.import(folder.path(), SaveDtype::F32).unwrap();
    let tokenizer = Tokenizer::load(&folder.path().join("made/model")).unwrap();
    assert_eq!(tokenizer.encode("hello", true).unwrap(), [260, 259]);
    assert_eq!(tokenizer.encode("hello", false).unwrap(), [259]);
}

/// A vocabulary of sentencepiece's kind; scores decide that `ab` is joined before `bc`.
fn sentencepiece() -> Model {
    let mut model = Model::new("llama", true);
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let pieces = ["\u{2581}", "a", "b", "c", "ab", "bc", "\u{2581}ab"].map(str::to_owned);
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>"]
        .map(str::to_owned)
        .into_iter()
        .chain(bytes)
        .chain(pieces)
        .collect();
    let mut scores = vec![0.0; 259];
    scores.extend([-4.0, -5.0, -6.0, -7.0, -1.0, -2.0, -3.0]);
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    kinds.extend([1; 7]);
    model.metadata.retain(|(key, _)| !key.contains("ggml"));
    model.set("tokenizer.ggml.model", Value::String("llama".into()));
    model.set("tokenizer.ggml.tokens", texts(&tokens));
    model.set(
        "tokenizer.ggml.scores",
        Value::Array(scores.into_iter().map(Value::F32).collect()),
    );
    model.set(
        "tokenizer.ggml.token_type",
        Value::Array(kinds.into_iter().map(Value::I32).collect()),
    );
    model.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    model.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    model.set("tokenizer.ggml.unknown_token_id", Value::U32(0));
    model.add(
        "token_embd.weight",
        &[tokens.len(), HIDDEN],
        GgmlDType::Q8_0,
    );
    model
}

#[test]
fn sentencepiece_vocabularies_merge_by_score_and_fall_back_to_bytes() {
    let folder = tempfile::tempdir().unwrap();
    sentencepiece()
        .import(folder.path(), SaveDtype::F32)
        .unwrap();
    let tokenizer = Tokenizer::load(&folder.path().join("made/model")).unwrap();
    let [c, word] = [262, 265];
    assert_eq!(tokenizer.encode("abc", true).unwrap(), [1, word, c]);
    let byte = |byte: u32| 3 + byte;
    let ids = tokenizer.encode("ab é\n", false).unwrap();
    assert_eq!(ids, [word, 259, byte(0xc3), byte(0xa9), byte(10)]);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "ab é\n");
}

#[test]
fn what_is_not_read_is_said() {
    let with = |key: &str, value: Value| {
        let mut model = Model::new("llama", true);
        model.set(key, value);
        model.refusal()
    };
    let text = |text: &str| Value::String(text.into());
    assert!(with("general.architecture", text("gpt2")).contains("'gpt2' is not read"));
    assert!(with("general.architecture", Value::U32(1)).contains("must be a string"));
    assert!(with("tokenizer.ggml.model", text("t5")).contains("'t5' is not read"));
    assert!(with("tokenizer.ggml.pre", text("tekken")).contains("'tekken'"));
    assert!(with("tokenizer.ggml.eos_token_id", Value::U32(999)).contains("999"));
    assert!(with("tokenizer.ggml.merges", texts(&["x"])).contains("not a merge"));
    assert!(with("tokenizer.ggml.merges", texts(&["zz y"])).contains("tokenizer"));
    assert!(with("tokenizer.ggml.tokens", texts(&["a", "a"])).contains("2 tokens"));
    assert!(with("llama.expert_count", Value::U32(8)).contains("mixtures"));
    assert!(with("llama.rope.dimension_count", Value::U32(16)).contains("in part"));
    assert!(
        with(
            "llama.attention.head_count",
            Value::Array(vec![Value::U32(4)])
        )
        .contains("one whole")
    );
    assert!(with("llama.attention.head_count_kv", Value::U32(3)).contains("num_key_value_heads"));
    assert!(with("llama.block_count", Value::U32(3)).contains("blk.2"));
    assert!(with("llama.block_count", Value::U32(4000)).contains("4000 layers"));
    assert!(with("llama.block_count", Value::U32(1)).contains("belongs to no part"));
    assert!(with("llama.feed_forward_length", Value::U32(64)).contains("shape"));
    assert!(with("tokenizer.chat_template", text("{% if %}")).contains("chat template"));
}

#[test]
fn an_output_folder_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("made/model");
    fs::create_dir_all(&output).unwrap();
    let model = Model::new("llama", true);
    model.import(folder.path(), SaveDtype::F32).unwrap();
    assert_eq!(fs::read_dir(folder.path().join("made")).unwrap().count(), 1);
    let before = fs::read(output.join("config.json")).unwrap();
    let error = model.import(folder.path(), SaveDtype::Bf16).unwrap_err();
    assert!(matches!(error, PolicyError::OutputInUse { .. }));
    assert_eq!(fs::read(output.join("config.json")).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn weights_have_the_mode_of_other_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    Model::new("llama", true)
        .import(folder.path(), SaveDtype::F32)
        .unwrap();
    let mode = |name: &str| {
        fs::metadata(folder.path().join("made/model").join(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("model.safetensors"), mode("config.json"));
}

#[test]
fn truncated_files_are_refused() {
    let bytes = Model::new("llama", true).bytes();
    // The last tensor's padding may be missing; its data ends at most that much before.
    let data_end = bytes.len() - 32;
    let places = (0..256).chain((1..64).map(|part| data_end * part / 64));
    for place in places {
        refusal(&bytes[..place]);
    }
}

#[test]
fn damaged_headers_never_panic() {
    let bytes = sentencepiece().bytes();
    let header_end = bytes.len().min(16_000);
    let folder = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for place in (0..512).chain((512..header_end).step_by(61)) {
        let mut damaged = bytes.clone();
        damaged[place] = !damaged[place];
        let result = import_bytes(&damaged, folder.path(), SaveDtype::Bf16);
        refused += u32::from(result.is_err());
        let _ = fs::remove_dir_all(folder.path().join("made"));
    }
    assert!(refused > 400, "{refused}");
}

/// A header by hand: version 3, its counts, then anything.
fn header(tensors: u64, entries: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes.extend(rest);
    bytes.resize(bytes.len() + 64, 0);
    bytes
}

fn key(name: &str, kind: u32) -> Vec<u8> {
    let mut bytes = (name.len() as u64).to_le_bytes().to_vec();
    bytes.extend(name.bytes());
    bytes.extend(kind.to_le_bytes());
    bytes
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = key(name, dims.len() as u32);
    bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn hostile_headers_are_refused() {
    let array = |kind: u32, length: u64| {
        [
            key("a", 9),
            kind.to_le_bytes().to_vec(),
            length.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let string = [key("a", 8), u64::MAX.to_le_bytes().to_vec()].concat();
    let alignment =
        |value: u32| [key("general.alignment", 4), value.to_le_bytes().to_vec()].concat();
    let twice = [key("a", 0), vec![1], key("a", 0), vec![1]].concat();
    let same = |offsets: [u64; 2]| {
        [
            tensor("a", &[8], 0, offsets[0]),
            tensor("b", &[8], 0, offsets[1]),
        ]
        .concat()
    };
    let cases = [
        (b"GGUX".to_vec(), "not a GGUF file"),
        (Vec::new(), "0 are left"),
        (b"GGUF\0\0\0\x03".to_vec(), "big-endian"),
        (b"GGUF\x07\0\0\0".to_vec(), "version 7"),
        (header(u64::MAX, 0, &[]), "tensors"),
        (header(0, u64::MAX, &[]), "metadata entries"),
        (header(0, 1, &u64::MAX.to_le_bytes()), "claims"),
        (header(0, 1, &string), "claims"),
        (header(0, 1, &array(8, u64::MAX)), "values"),
        (header(0, 1, &array(0, 1 << 40)), "values"),
        (header(0, 1, &array(0, 1 << 20)), "claims"),
        (header(0, 1, &array(9, 1)), "arrays of arrays"),
        (header(0, 1, &array(77, 1)), "value type 77"),
        (header(0, 1, &alignment(0)), "alignment"),
        (header(0, 1, &alignment(33)), "alignment"),
        (header(0, 1, &alignment(1 << 31)), "alignment"),
        (header(0, 2, &twice), "twice"),
        (header(1, 0, &tensor("t", &[], 0, 0)), "dimensions"),
        (header(1, 0, &tensor("t", &[1; 5], 0, 0)), "dimensions"),
        (header(1, 0, &tensor("t", &[0, 4], 0, 0)), "shape"),
        (
            header(1, 0, &tensor("t", &[1 << 32, 1 << 32], 0, 0)),
            "shape",
        ),
        (header(1, 0, &tensor("t", &[1 << 40], 0, 0)), "truncated"),
        (header(1, 0, &tensor("t", &[33], 2, 0)), "whole blocks"),
        (header(1, 0, &tensor("t", &[32], 99, 0)), "type 99"),
        (header(1, 0, &tensor("t", &[4], 0, 31)), "multiple"),
        (
            header(1, 0, &tensor("t", &[4], 0, u64::MAX - 31)),
            "truncated",
        ),
        (header(2, 0, &same([0, 0])), "shares bytes"),
    ];
    for (bytes, expected) in cases {
        let message = refusal(&bytes);
        assert!(
            message.contains(expected),
            "{message} should name {expected}"
        );
    }
}
