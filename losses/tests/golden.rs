//! Values and gradients of losses, advantages and KL estimators against the reference
//! implementations that each case's `reference` names.
#![allow(clippy::unwrap_used, reason = "a broken case file fails its test")]

use burn::tensor::{Device, Tensor, TensorData};
use losses::{
    AdvantageConfig, Aggregation, Denominator, DrGrpo, Grpo, GrpoScale, KlEstimator, LossConfig,
    LossInputs, ObjectiveConfig, PolicyObjective, Rloo, SelectionKey, SelectionView, kl_estimate,
};
use serde_json::Value;

/// The references are f64 and these tensors f32.
const RELATIVE_TOLERANCE: f64 = 1e-4;
const ABSOLUTE_FLOOR: f64 = 1e-5;

fn cases(prefixes: &[&str]) -> Vec<(String, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/golden");
    let mut cases: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        })
        .map(|path| {
            let case = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), case)
        })
        .collect();
    cases.sort_by(|(a, _), (b, _)| a.cmp(b));
    cases
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn flat(value: &Value) -> Vec<f32> {
    rows(value).concat().into_iter().map(|x| x as f32).collect()
}

fn tensor(value: &Value, device: &Device) -> Tensor<2> {
    let shape = [rows(value).len(), rows(value)[0].len()];
    Tensor::from_data(TensorData::new(flat(value), shape), device)
}

fn values(tensor: Tensor<2>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

#[track_caller]
fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (f, e)) in found.iter().zip(expected).enumerate() {
        let allowed = ABSOLUTE_FLOOR.max(RELATIVE_TOLERANCE * e.abs());
        assert!(
            (f - e).abs() <= allowed,
            "{what}[{index}]: {f}, expected {e}"
        );
    }
}

fn check_loss(name: &str, case: &Value) {
    let device = Device::flex().autodiff();
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let loss: LossConfig = serde_json::from_value(case["loss"].clone()).unwrap();
    let aggregation: Aggregation = serde_json::from_value(case["aggregation"].clone()).unwrap();
    let config = ObjectiveConfig {
        loss,
        aggregation,
        ..ObjectiveConfig::default()
    };
    let objective = PolicyObjective::new(config).unwrap();

    let mask = flat(&inputs["mask"]);
    let [log_probs, old_log_probs, advantages] =
        ["log_probs", "old_log_probs", "advantages"].map(|key| flat(&inputs[key]));
    let row_keys: Vec<u64> = (0..rows(&inputs["mask"]).len() as u64).collect();
    let view = SelectionView {
        log_probs: &log_probs,
        old_log_probs: &old_log_probs,
        advantages: &advantages,
        mask: &mask,
        row_keys: &row_keys,
    };
    let key = SelectionKey {
        seed: 0,
        step: 0,
        mini_batch: 0,
    };
    let selection = objective.select(&view, &key).unwrap();

    let leaf = tensor(&inputs["log_probs"], &device).require_grad();
    let batch = LossInputs {
        log_probs: leaf.clone(),
        old_log_probs: tensor(&inputs["old_log_probs"], &device),
        ref_log_probs: None,
        advantages: tensor(&inputs["advantages"], &device),
        mask: tensor(&inputs["mask"], &device),
    };
    let denominator: Denominator = objective.denominator(&mask, mask.len() / row_keys.len());
    let selected = selection.map(|selection| selection.to_tensor(row_keys.len(), &device));
    let output = objective.evaluate(&batch, selected, &denominator);

    let gradients = output.loss.backward();
    let sums = output.stats.read();
    let gradient = values(leaf.grad(&gradients).unwrap());
    let scalar = |key: &str| expected[key].as_f64();
    assert_close(
        name,
        &[output.loss.into_scalar()],
        &[scalar("loss").unwrap()],
    );
    let expected_gradient = rows(&expected["grad_log_probs"]).concat();
    assert_close(&format!("{name} gradient"), &gradient, &expected_gradient);

    // The references call Clip-Cov's share of selected tokens its clip fraction.
    let clip_fraction = match loss {
        LossConfig::ClipCov(_) => sums.selected_fraction(),
        _ => sums.clip_fraction(),
    };
    for (key, found) in [
        ("clip_fraction", clip_fraction),
        ("approx_kl", sums.approx_kl()),
        ("mean_abs_log_ratio", sums.mean_abs_log_ratio()),
    ] {
        if let Some(expected) = scalar(key) {
            assert_close(&format!("{name} {key}"), &[found], &[expected]);
        }
    }
}

fn check_losses(prefix: &str, count: usize) {
    let cases = cases(&[prefix]);
    assert_eq!(cases.len(), count, "cases of {prefix}");
    for (name, case) in cases {
        check_loss(&name, &case);
    }
}

#[test]
fn ppo_clip() {
    check_losses("ppo_clip_", 12);
}

#[test]
fn ppo_clip_with_the_dual_clip() {
    check_losses("verl_ppo_clip_", 3);
}

#[test]
fn clip_cov() {
    check_losses("clip_cov_", 12);
}

#[test]
fn kl_cov() {
    check_losses("kl_cov_", 12);
}

#[test]
fn kl_estimators() {
    let device = Device::flex().autodiff();
    let cases = cases(&["kl_abs_", "kl_kl_", "kl_mse_", "kl_low_var_kl_"]);
    assert_eq!(cases.len(), 12);
    for (name, case) in cases {
        let (inputs, expected) = (&case["inputs"], &case["expected"]);
        let estimator: KlEstimator = serde_json::from_value(case["kl"]["type"].clone()).unwrap();
        let leaf = tensor(&inputs["log_probs"], &device).require_grad();
        let reference = tensor(&inputs["ref_log_probs"], &device);
        let estimate = kl_estimate(leaf.clone(), reference, estimator, None);
        let gradients = estimate.clone().sum().backward();
        assert_close(&name, &values(estimate), &rows(&expected["kl"]).concat());
        let gradient = values(leaf.grad(&gradients).unwrap());
        assert_close(
            &format!("{name} gradient"),
            &gradient,
            &rows(&expected["grad_log_probs"]).concat(),
        );
    }
}

fn advantage_config(estimator: &Value) -> AdvantageConfig {
    match (
        estimator["type"].as_str().unwrap(),
        estimator["scale_by_std"].as_bool(),
    ) {
        ("grpo", Some(true)) => {
            let epsilon = estimator["epsilon"].as_f64().unwrap();
            AdvantageConfig::Grpo(Grpo {
                scale: GrpoScale::Group,
                epsilon,
            })
        }
        ("grpo", Some(false)) => AdvantageConfig::DrGrpo(DrGrpo {}),
        ("rloo", _) => AdvantageConfig::Rloo(Rloo {}),
        other => panic!("no such estimator: {other:?}"),
    }
}

#[test]
fn advantages() {
    let cases = cases(&["adv_grpo_", "adv_dr_grpo_", "adv_rloo_"]);
    assert_eq!(cases.len(), 9);
    for (name, case) in cases {
        let (inputs, mask) = (&case["inputs"], rows(&case["inputs"]["mask"]));
        let group_of: Vec<usize> = serde_json::from_value(inputs["group"].clone()).unwrap();
        // A group's rows follow each other, so that flattened groups are the rows again.
        assert!(group_of.is_sorted());
        let mut groups = vec![Vec::new(); group_of.last().unwrap() + 1];
        for (group, rewards) in group_of.iter().zip(rows(&inputs["token_rewards"])) {
            groups[*group].push(rewards.iter().sum::<f64>());
        }
        let found = advantage_config(&case["estimator"])
            .advantages(&groups)
            .unwrap()
            .concat();
        let broadcast: Vec<f64> = mask
            .iter()
            .zip(found)
            .flat_map(|(row, advantage)| row.iter().map(move |m| advantage * m))
            .collect();
        assert_close(
            &name,
            &broadcast,
            &rows(&case["expected"]["advantages"]).concat(),
        );
    }
}
