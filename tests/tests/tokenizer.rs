//! Tokenizers and chat templates against transformers, and the character tokenizer's promises.
#![allow(clippy::unwrap_used, reason = "a broken test fails")]

use std::{fs, path::PathBuf};

use flate2::read::GzDecoder;
use policy::{PolicyError, Tokenizer};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("data/qwen3-tokenizer")
        .join(name)
}

/// The folder as it is published; its 11 MB definition is kept compressed.
fn qwen3_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut definition = GzDecoder::new(fs::File::open(data("tokenizer.json.gz")).unwrap());
    let mut file = fs::File::create(folder.path().join("tokenizer.json")).unwrap();
    std::io::copy(&mut definition, &mut file).unwrap();
    fs::copy(
        data("tokenizer_config.json"),
        folder.path().join("tokenizer_config.json"),
    )
    .unwrap();
    folder
}

fn ids(case: &Value) -> Vec<u32> {
    case["input_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

#[test]
fn qwen3_renders_and_encodes_as_in_transformers() {
    let folder = qwen3_folder();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let template = tokenizer.chat_template().unwrap();
    let expected: Value =
        serde_json::from_slice(&fs::read(data("expected.json")).unwrap()).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let text = match case["messages"].as_array() {
            Some(messages) => {
                let prompted = case["add_generation_prompt"].as_bool().unwrap();
                let arguments = case["template_arguments"].as_object().unwrap();
                let rendered = template.render(messages, prompted, arguments).unwrap();
                assert_eq!(rendered, case["rendered"].as_str().unwrap());
                rendered
            }
            None => case["text"].as_str().unwrap().to_owned(),
        };
        assert_eq!(
            tokenizer.encode(&text, false).unwrap(),
            ids(case),
            "{text:?}"
        );
        assert_eq!(tokenizer.decode(&ids(case), false).unwrap(), text);
    }
}

#[test]
fn qwen3_knows_its_special_tokens_and_its_size() {
    let folder = qwen3_folder();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.bos_token_id(), None);
    assert_eq!(tokenizer.eos_token_id(), Some(151_645));
    assert_eq!(tokenizer.pad_token_id(), Some(151_643));
    assert_eq!(tokenizer.token_id("</think>"), Some(151_668));
    assert_eq!(tokenizer.vocab_size(), 151_669);
    assert_eq!(
        tokenizer.decode(&[151_644, 13_048, 151_645], true).unwrap(),
        "Hi"
    );
    tokenizer.check_fits(151_936).unwrap();
    let error = tokenizer.check_fits(151_668).unwrap_err().to_string();
    assert!(
        error.contains("151668") && error.contains("tokenizer.json"),
        "{error}"
    );
}

#[test]
fn qwen3_is_saved_byte_for_byte() {
    let folder = qwen3_folder();
    let copy = tempfile::tempdir().unwrap();
    Tokenizer::load(folder.path())
        .unwrap()
        .save(copy.path())
        .unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let original = fs::read(folder.path().join(name)).unwrap();
        assert!(
            original == fs::read(copy.path().join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 2);
}

#[test]
fn long_runs_of_one_character_are_encoded_whole() {
    let folder = qwen3_folder();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    for character in [" ", "\n", "a", "1", "é", "!"] {
        let text = character.repeat(26_000) + "x";
        let ids = tokenizer.encode(&text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn the_template_file_comes_before_the_configuration_and_the_default_before_others() {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::characters("abc")
        .unwrap()
        .save(folder.path())
        .unwrap();
    let config = json!({"eos_token": {"content": "<|endoftext|>"}, "chat_template": [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "{{ messages[0] }}{{ eos_token }}"},
    ]});
    let config_path = folder.path().join("tokenizer_config.json");
    fs::write(config_path, config.to_string()).unwrap();
    let render = || {
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        tokenizer
            .chat_template()
            .unwrap()
            .render(&["a"], false, &Map::new())
            .unwrap()
    };
    assert_eq!(render(), "a<|endoftext|>");
    fs::write(folder.path().join("chat_template.jinja"), "from the file\n").unwrap();
    assert_eq!(render(), "from the file");
}

#[test]
fn character_tokenizers_keep_every_character() {
    let tokenizer = Tokenizer::characters("0123456789+=\n é🙂").unwrap();
    assert_eq!(tokenizer.vocab_size(), 18);
    assert_eq!(
        (tokenizer.pad_token_id(), tokenizer.eos_token_id()),
        (Some(0), Some(1))
    );
    for text in [
        "",
        " ",
        "\n",
        "  1 + 2\n\n=3 \n",
        "é🙂 é",
        "12<|endoftext|>",
        "<|pad|>7",
    ] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
    assert_eq!(
        tokenizer.encode("10\n<|endoftext|>", true).unwrap(),
        [3, 2, 14, 1]
    );
    assert_eq!(tokenizer.decode(&[3, 1, 0], true).unwrap(), "1");
}

#[test]
fn character_tokenizers_refuse_what_they_do_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::characters("01é").unwrap();
    tokenizer.save(folder.path()).unwrap();
    let reloaded = Tokenizer::load(folder.path()).unwrap();
    for (text, place) in [
        ("é1x0", "byte 3"),
        ("x", "byte 0"),
        ("0<|endoftext|> 1", "byte 14"),
    ] {
        for tokenizer in [&tokenizer, &reloaded] {
            let error = tokenizer.encode(text, false).unwrap_err();
            assert!(matches!(error, PolicyError::Encoding { .. }));
            assert!(error.to_string().contains(place), "{error}");
        }
    }
    assert_eq!(reloaded.encode("é10", false).unwrap(), [4, 3, 2]);
    assert!(Tokenizer::characters("").is_err());
    assert!(Tokenizer::characters("abca").is_err());
}

#[test]
fn ids_that_no_embedding_has_are_refused_without_room_being_made_for_them() {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::characters("ab")
        .unwrap()
        .save(folder.path())
        .unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut definition: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    definition["model"]["vocab"]["b"] = u32::MAX.into();
    fs::write(&path, definition.to_string()).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 1 << 32);
    assert!(
        tokenizer
            .check_fits(1 << 20)
            .unwrap_err()
            .to_string()
            .contains("4294967295")
    );
}

#[test]
fn broken_folders_are_refused_with_the_file_at_fault() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(refusal().contains("no tokenizer.json"));
    fs::write(folder.path().join("tokenizer.json"), "{\"model\": {}}").unwrap();
    assert!(
        refusal().contains("not a tokenizer definition"),
        "{}",
        refusal()
    );
    Tokenizer::characters("ab")
        .unwrap()
        .save(folder.path())
        .unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), "[").unwrap();
    assert!(
        refusal().contains("tokenizer_config.json: not valid JSON"),
        "{}",
        refusal()
    );
    fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    fs::write(folder.path().join("chat_template.jinja"), "{% if %}").unwrap();
    assert!(refusal().contains("chat template"), "{}", refusal());
}
