//! The law's fit against scipy's `curve_fit` on two given runs.
#![allow(clippy::unwrap_used, reason = "a broken case file fails its test")]

use entropy::{LawPoint, forecast};
use serde_json::Value;

/// scipy stops its iterations near a relative 1e-8; the intervals inherit it.
const RELATIVE_TOLERANCE: f64 = 1e-6;

fn assert_close(path: &str, found: &Value, expected: &Value) {
    match expected {
        Value::Object(fields) => {
            for (key, value) in fields {
                assert_close(&format!("{path}.{key}"), &found[key], value);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                assert_close(&format!("{path}[{index}]"), &found[index], value);
            }
        }
        _ => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            let error = ((found - expected) / expected).abs();
            assert!(
                error < RELATIVE_TOLERANCE,
                "{path}: {found}, expected {expected}"
            );
        }
    }
}

fn check(name: &str) {
    let path = format!(
        "{}/../tests/data/fit/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let case: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let points: Vec<LawPoint> = serde_json::from_value(case["points"].clone()).unwrap();
    let found = forecast(&points, case["first"].as_f64().unwrap()).unwrap();
    assert_close(
        name,
        &serde_json::to_value(found).unwrap(),
        &case["expected"],
    );
}

#[test]
fn a_run_of_240_steps_and_its_first_15_percent() {
    check("given_0");
}

#[test]
fn a_noisy_run_of_60_steps_and_its_first_30_percent() {
    check("given_1");
}
