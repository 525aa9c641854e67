//! A model's configuration: S4 of the table in RELIABILITY.md. Whatever sizes it claims, nothing is made of that size before
//! the weights are seen to have it. Fields that are merely wrong are in `bad_input.rs`.

use std::{fs, fs::File};

use serde_json::{Value, json};

use super::harness::{assert_model_refused, configuration, smallest};

fn assert_config_refused(text: &str, words: &[&str]) {
    let dir = smallest();
    fs::write(dir.path().join("config.json"), text).unwrap();
    assert_model_refused(dir.path(), text.len() as u64, words);
}

fn assert_field_refused(field: &str, value: Value, words: &[&str]) {
    let mut config = configuration();
    config[field] = value;
    assert_config_refused(&config.to_string(), words);
}

#[test]
fn sizes_that_no_model_has() {
    assert_field_refused(
        "num_attention_heads",
        json!(3),
        &["head_dim", "hidden_size 2 over 3"],
    );
    assert_field_refused(
        "num_key_value_heads",
        json!(0),
        &["num_key_value_heads", "1..="],
    );
    assert_field_refused(
        "num_hidden_layers",
        json!(1_000_000_000),
        &["num_hidden_layers", "4096"],
    );
    assert_field_refused("vocab_size", json!(1_u64 << 40), &["vocab_size"]);
    assert_field_refused("vocab_size", json!(u64::MAX), &["vocab_size"]);
    assert_field_refused("hidden_size", json!(-2), &["hidden_size", "-2"]);
    assert_field_refused("hidden_size", json!(2.5), &["hidden_size", "2.5"]);
    assert_field_refused("head_dim", json!(3), &["head_dim", "even"]);
}

/// Each is within its bounds, and all together would take exabytes.
#[test]
fn the_largest_sizes_are_compared_with_the_weights_and_not_made() {
    let mut config = configuration();
    for (field, size) in [
        ("vocab_size", 1 << 24),
        ("hidden_size", 1 << 20),
        ("intermediate_size", 1 << 20),
        ("num_hidden_layers", 1 << 12),
        ("num_attention_heads", 1 << 20),
        ("num_key_value_heads", 1 << 20),
        ("head_dim", 1 << 20),
        ("max_position_embeddings", 1 << 30),
        ("sliding_window", 1 << 30),
    ] {
        config[field] = json!(size);
    }
    assert_config_refused(
        &config.to_string(),
        &["model.embed_tokens.weight", "[3, 2]", "16777216"],
    );
}

#[test]
fn numbers_that_are_none() {
    assert_field_refused("rms_norm_eps", json!(0), &["rms_norm_eps", "positive"]);
    assert_field_refused("rms_norm_eps", json!(-1e-6), &["rms_norm_eps", "positive"]);
    assert_field_refused("rope_theta", json!("NaN"), &["rope_theta", "positive"]);
    let with = |field: &str| {
        configuration()
            .to_string()
            .replacen('{', &format!("{{{field},"), 1)
    };
    assert_config_refused(
        &with("\"rope_theta\":NaN"),
        &["config.json", "not valid JSON"],
    );
    assert_config_refused(
        &with("\"rope_theta\":1e999"),
        &["config.json", "not valid JSON"],
    );
}

#[test]
fn files_that_are_no_configuration() {
    assert_config_refused("", &["config.json", "not valid JSON"]);
    assert_config_refused(&"[".repeat(1 << 19), &["config.json", "not valid JSON"]);
    assert_config_refused("[]", &["config.json", "object"]);
    let dir = smallest();
    File::create(dir.path().join("config.json"))
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    assert_model_refused(dir.path(), 0, &["config.json", "104857600 bytes"]);
}

#[test]
fn generation_settings_are_bounded_too() {
    let dir = smallest();
    File::create(dir.path().join("generation_config.json"))
        .unwrap()
        .set_len(1 << 33)
        .unwrap();
    assert_model_refused(
        dir.path(),
        0,
        &["generation_config.json", "8589934592 bytes"],
    );
}
