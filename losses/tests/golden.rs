//! Values and gradients of losses, advantages, KL estimators and the value loss against the
//! reference implementations that each case's `reference` names.
#![allow(clippy::unwrap_used, reason = "a broken case file fails its test")]

use losses::replay::{Case, RELATIVE_TOLERANCE};

fn check(prefix: &str, count: usize) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/golden");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with(prefix) {
            continue;
        }
        found += 1;
        let case: Case = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert!(
            case.expected.len() >= 2,
            "{name} expects a value and a gradient, or two figures"
        );
        let replayed = case
            .replay(&burn::tensor::Device::flex())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let error = replayed.max_relative_error;
        assert!(
            replayed.is_equal(),
            "{name}: relative error {error}, allowed {RELATIVE_TOLERANCE}"
        );
    }
    assert_eq!(found, count, "cases of {prefix}");
}

#[test]
fn ppo_clip() {
    check("ppo_clip_", 12);
}

#[test]
fn ppo_clip_with_the_dual_clip() {
    check("verl_ppo_clip_", 3);
}

#[test]
fn clip_cov() {
    check("clip_cov_", 12);
}

#[test]
fn kl_cov() {
    check("kl_cov_", 12);
}

#[test]
fn gpg() {
    check("verl_gpg_", 3);
}

#[test]
fn gspo() {
    check("verl_gspo_", 3);
}

#[test]
fn cispo() {
    check("verl_cispo_", 3);
}

#[test]
fn sapo() {
    check("verl_sapo_", 3);
}

#[test]
fn gmpo() {
    check("verl_gmpo_", 3);
}

#[test]
fn kl_estimators() {
    for prefix in ["kl_abs_", "kl_kl_", "kl_mse_", "kl_low_var_kl_"] {
        check(prefix, 3);
    }
}

#[test]
fn value_loss() {
    check("value_", 3);
}

#[test]
fn advantages() {
    let estimators = [
        "grpo",
        "dr_grpo",
        "rloo",
        "reinforce_pp_baseline",
        "remax",
        "gae",
    ];
    for estimator in estimators {
        check(&format!("adv_{estimator}_"), 3);
    }
    // The plain form, whose names begin like those of the baseline form.
    check("adv_reinforce_pp_", 6);
}
