//! Runs that must be equal: micro-batches and their batch, whatever padding holds, whatever the
//! order of rows.
#![allow(clippy::unwrap_used, reason = "a failure here fails its test")]

use burn::tensor::{Device, Tensor, TensorData};
use losses::{
    Aggregation, ClipCov, CovPenalty, KlCov, LossConfig, LossInputs, LossSums, ObjectiveConfig,
    PolicyObjective, PpoClip, ReferenceKl, Selection, SelectionKey, SelectionView,
};
use proptest::prelude::*;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// Sums of at most a hundred f32 terms in another order.
const REORDERED_SUM: f64 = 1e-5;
const KEY: SelectionKey = SelectionKey {
    seed: 11,
    step: 5,
    mini_batch: 2,
};
const AGGREGATIONS: [Aggregation; 4] = [
    Aggregation::TokenMean,
    Aggregation::SeqMeanTokenSum,
    Aggregation::SeqMeanTokenMean,
    Aggregation::SeqMeanTokenSumNorm,
];

#[derive(Debug, Clone)]
struct Row {
    key: u64,
    log_probs: Vec<f32>,
    old_log_probs: Vec<f32>,
    ref_log_probs: Vec<f32>,
    advantages: Vec<f32>,
    mask: Vec<f32>,
}

/// A batch with ragged rows, an empty one among them now and then.
fn batch(seed: u64, rows: usize, response_len: usize) -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = move || (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
    (0..rows)
        .map(|row| {
            let length = (uniform() * (response_len + 1) as f32) as usize;
            let advantage = uniform() * 4.0 - 2.0;
            let log_probs: Vec<f32> = (0..response_len).map(|_| -3.0 * uniform()).collect();
            let mut near = || log_probs.iter().map(|lp| lp + uniform() - 0.5).collect();
            Row {
                key: 1000 + row as u64,
                old_log_probs: near(),
                ref_log_probs: near(),
                advantages: vec![advantage; response_len],
                mask: (0..response_len).map(|t| f32::from(t < length)).collect(),
                log_probs,
            }
        })
        .collect()
}

fn objectives() -> Vec<PolicyObjective> {
    let losses = [
        LossConfig::PpoClip(PpoClip {
            dual_clip: Some(1.3),
            ..PpoClip::default()
        }),
        LossConfig::ClipCov(ClipCov {
            clip_low: 0.2,
            fraction: 0.1,
            cov_low: 0.1,
            ..ClipCov::default()
        }),
        LossConfig::KlCov(KlCov {
            top_fraction: 0.2,
            ..KlCov::default()
        }),
        LossConfig::KlCov(KlCov {
            top_fraction: 0.2,
            penalty: CovPenalty::K3,
            ..KlCov::default()
        }),
    ];
    let with = |loss, aggregation| {
        let config = ObjectiveConfig {
            loss,
            aggregation,
            constant_length_tokens: Some(7.0),
            reference_kl: Some(ReferenceKl {
                coef: 0.1,
                ..ReferenceKl::default()
            }),
        };
        PolicyObjective::new(config).unwrap()
    };
    losses
        .iter()
        .flat_map(|&loss| AGGREGATIONS.map(|aggregation| with(loss, aggregation)))
        .collect()
}

fn concat(rows: &[Row], field: fn(&Row) -> &Vec<f32>) -> Vec<f32> {
    rows.iter().flat_map(field).copied().collect()
}

fn tensor(rows: &[Row], field: fn(&Row) -> &Vec<f32>, device: &Device) -> Tensor<2> {
    let shape = [rows.len(), field(&rows[0]).len()];
    Tensor::from_data(TensorData::new(concat(rows, field), shape), device)
}

fn select(objective: &PolicyObjective, rows: &[Row]) -> Option<Selection> {
    let keys: Vec<u64> = rows.iter().map(|row| row.key).collect();
    let view = SelectionView {
        log_probs: &concat(rows, |r| &r.log_probs),
        old_log_probs: &concat(rows, |r| &r.old_log_probs),
        advantages: &concat(rows, |r| &r.advantages),
        mask: &concat(rows, |r| &r.mask),
        row_keys: &keys,
    };
    objective.select(&view, &KEY).unwrap()
}

#[derive(Debug)]
struct Outcome {
    loss: f64,
    gradient: Vec<f64>,
    sums: LossSums,
}

/// Selects over all rows, then evaluates them in micro-batches and adds up.
fn run(objective: &PolicyObjective, rows: &[Row], micro_batch_rows: usize) -> Outcome {
    let device = Device::flex().autodiff();
    let response_len = rows[0].mask.len();
    let denominator = objective.denominator(&concat(rows, |r| &r.mask), response_len);
    let selected = select(objective, rows).map(|s| s.to_tensor(rows.len(), &device));
    let mut outcome = Outcome {
        loss: 0.0,
        gradient: Vec::new(),
        sums: LossSums::default(),
    };
    for (index, micro) in rows.chunks(micro_batch_rows).enumerate() {
        let start = index * micro_batch_rows;
        let leaf = tensor(micro, |r| &r.log_probs, &device).require_grad();
        let inputs = LossInputs {
            log_probs: leaf.clone(),
            old_log_probs: tensor(micro, |r| &r.old_log_probs, &device),
            ref_log_probs: Some(tensor(micro, |r| &r.ref_log_probs, &device)),
            advantages: tensor(micro, |r| &r.advantages, &device),
            mask: tensor(micro, |r| &r.mask, &device),
        };
        let selected = selected.clone().map(|s| s.narrow(0, start, micro.len()));
        let output = objective.evaluate(&inputs, selected, &denominator);
        let gradients = output.loss.backward();
        outcome.loss += output.loss.into_scalar::<f64>();
        outcome
            .gradient
            .extend(leaf.grad(&gradients).unwrap().into_data().iter::<f64>());
        outcome.sums += output.stats.read();
    }
    outcome
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= REORDERED_SUM * expected.abs().max(1.0)
}

#[track_caller]
fn assert_equal(found: &Outcome, expected: &Outcome, what: &str) {
    assert!(
        close(found.loss, expected.loss),
        "{what}: {} and {}",
        found.loss,
        expected.loss
    );
    assert_eq!(found.gradient.len(), expected.gradient.len());
    for (f, e) in found.gradient.iter().zip(&expected.gradient) {
        assert!(close(*f, *e), "{what}: gradients {f} and {e}");
    }
    let counts = |sums: &LossSums| [sums.tokens, sums.clipped, sums.selected];
    let same = counts(&found.sums)
        .iter()
        .zip(counts(&expected.sums))
        .all(|(f, e)| close(*f, e));
    assert!(same, "{what}: {:?} and {:?}", found.sums, expected.sums);
    assert!(
        close(found.sums.approx_kl(), expected.sums.approx_kl()),
        "{what}"
    );
    assert!(
        close(
            found.sums.mean_reference_kl(),
            expected.sums.mean_reference_kl()
        ),
        "{what}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn micro_batches_add_up_to_their_batch(seed: u64, rows in 1_usize..7, len in 1_usize..9) {
        let rows = batch(seed, rows, len);
        for objective in objectives() {
            let whole = run(&objective, &rows, rows.len());
            for micro_batches in [2, 4] {
                let size = rows.len().div_ceil(micro_batches);
                let parts = run(&objective, &rows, size);
                assert_equal(&parts, &whole, &format!("{:?}", objective.config()));
            }
        }
    }

    #[test]
    fn padding_may_hold_anything(seed: u64, rows in 1_usize..5, len in 1_usize..9) {
        let clean = batch(seed, rows, len);
        let mut dirty = clean.clone();
        for row in &mut dirty {
            for t in (0..len).filter(|&t| row.mask[t] == 0.0) {
                row.log_probs[t] = f32::NAN;
                row.old_log_probs[t] = f32::NEG_INFINITY;
                row.ref_log_probs[t] = f32::INFINITY;
                row.advantages[t] = 1e30;
            }
        }
        for objective in objectives() {
            prop_assert_eq!(select(&objective, &dirty), select(&objective, &clean));
            let (dirty, clean) = (run(&objective, &dirty, 2), run(&objective, &clean, 2));
            assert_equal(&dirty, &clean, &format!("{:?}", objective.config()));
        }
    }

    #[test]
    fn the_order_of_rows_does_not_matter(seed: u64, rows in 2_usize..7, len in 1_usize..9) {
        let rows = batch(seed, rows, len);
        let mut rotated = rows.clone();
        rotated.rotate_left(1);
        for objective in objectives() {
            let mut selected = select(&objective, &rows).map(|s| s.mask).unwrap_or_default();
            if !selected.is_empty() {
                selected.rotate_left(len);
            }
            let again = select(&objective, &rotated).map(|s| s.mask).unwrap_or_default();
            prop_assert_eq!(&again, &selected);

            let mut whole = run(&objective, &rows, 2);
            whole.gradient.rotate_left(len);
            let what = format!("{:?}", objective.config());
            assert_equal(&run(&objective, &rotated, 2), &whole, &what);
        }
    }
}

/// With `log π = log π_old` every loss has REINFORCE's gradient, -A/N; Clip-Cov's less the
/// selected tokens. KL-Cov's penalty has none.
#[test]
fn ratio_one_gives_the_gradient_of_reinforce() {
    let mut rows = batch(3, 6, 8);
    for row in &mut rows {
        row.old_log_probs.clone_from(&row.log_probs);
    }
    let tokens = f64::from(concat(&rows, |r| &r.mask).iter().sum::<f32>());
    for mut config in objectives().iter().map(|objective| *objective.config()) {
        config.reference_kl = None;
        config.aggregation = Aggregation::TokenMean;
        let objective = PolicyObjective::new(config).unwrap();
        let selection = select(&objective, &rows);
        let taken_out = match (&selection, config.loss) {
            (Some(selection), LossConfig::ClipCov(_)) => selection.mask.clone(),
            _ => vec![0.0; rows.len() * 8],
        };
        let (advantages, mask) = (concat(&rows, |r| &r.advantages), concat(&rows, |r| &r.mask));
        let outcome = run(&objective, &rows, 3);
        for (index, found) in outcome.gradient.iter().enumerate() {
            let kept = f64::from(mask[index] * (1.0 - taken_out[index]));
            let expected = -f64::from(advantages[index]) * kept / tokens;
            assert!(
                (found - expected).abs() < 1e-7,
                "{config:?}: {found}, expected {expected}"
            );
        }
    }
}

/// A micro-batch's own selection differs from its share of the mini-batch's: what makes the
/// references' results depend on the micro-batch size.
#[test]
fn selecting_by_micro_batch_selects_more_tokens() {
    let rows = batch(4, 8, 16);
    let loss = LossConfig::KlCov(KlCov {
        top_fraction: 1e-3,
        ..KlCov::default()
    });
    let config = ObjectiveConfig {
        loss,
        ..ObjectiveConfig::default()
    };
    let objective = PolicyObjective::new(config).unwrap();
    let count = |rows: &[Row]| select(&objective, rows).unwrap().stats.count;
    assert_eq!(count(&rows), 1);
    assert_eq!(rows.chunks(2).map(count).sum::<usize>(), 4);
}

#[test]
fn statistics_add_up_on_the_device_as_on_the_host() {
    let rows = batch(5, 4, 8);
    let objective = &objectives()[0];
    let device = Device::flex();
    let evaluate = |rows: &[Row]| {
        let inputs = LossInputs {
            log_probs: tensor(rows, |r| &r.log_probs, &device),
            old_log_probs: tensor(rows, |r| &r.old_log_probs, &device),
            ref_log_probs: Some(tensor(rows, |r| &r.ref_log_probs, &device)),
            advantages: tensor(rows, |r| &r.advantages, &device),
            mask: tensor(rows, |r| &r.mask, &device),
        };
        let denominator = objective.denominator(&concat(rows, |r| &r.mask), 8);
        objective.evaluate(&inputs, None, &denominator).stats
    };
    let on_device = (evaluate(&rows[..2]) + evaluate(&rows[2..])).read();
    let mut on_host = evaluate(&rows[..2]).read();
    on_host += evaluate(&rows[2..]).read();
    assert!(close(on_device.k3, on_host.k3) && close(on_device.tokens, on_host.tokens));
    let tokens = concat(&rows, |r| &r.mask).iter().sum::<f32>();
    assert!(close(on_host.tokens, f64::from(tokens)) && on_host.clip_fraction() > 0.0);
}

#[test]
#[should_panic(expected = "this loss selects tokens")]
fn a_missing_selection_is_refused() {
    let rows = batch(6, 2, 4);
    let loss = LossConfig::KlCov(KlCov::default());
    let config = ObjectiveConfig {
        loss,
        ..ObjectiveConfig::default()
    };
    let objective = PolicyObjective::new(config).unwrap();
    let device = Device::flex();
    let inputs = LossInputs {
        log_probs: tensor(&rows, |r| &r.log_probs, &device),
        old_log_probs: tensor(&rows, |r| &r.old_log_probs, &device),
        ref_log_probs: None,
        advantages: tensor(&rows, |r| &r.advantages, &device),
        mask: tensor(&rows, |r| &r.mask, &device),
    };
    let denominator = objective.denominator(&concat(&rows, |r| &r.mask), 4);
    let _ = objective.evaluate(&inputs, None, &denominator);
}

/// The objective with a reference penalty is the one without, plus `coef·⟨k⟩`.
#[test]
fn the_reference_penalty_adds_its_mean_estimate() {
    let rows = batch(7, 5, 6);
    let plain = ObjectiveConfig::default();
    let penalty = ReferenceKl {
        coef: 0.25,
        ..ReferenceKl::default()
    };
    let penalised = ObjectiveConfig {
        reference_kl: Some(penalty),
        ..plain
    };
    let [plain, penalised] = [plain, penalised].map(|config| PolicyObjective::new(config).unwrap());
    assert!(penalised.needs_reference() && !plain.needs_reference());
    let (without, with) = (run(&plain, &rows, 5), run(&penalised, &rows, 5));
    let (mut sum, mut tokens) = (0.0, 0.0);
    for row in &rows {
        for t in (0..6).filter(|&t| row.mask[t] > 0.0) {
            let x = f64::from(row.ref_log_probs[t]) - f64::from(row.log_probs[t]);
            sum += x.exp() - x - 1.0;
            tokens += 1.0;
        }
    }
    assert!(close(with.sums.mean_reference_kl(), sum / tokens));
    assert!(close(with.loss - without.loss, 0.25 * sum / tokens));
}
