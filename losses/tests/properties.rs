//! Runs that must be equal: micro-batches and their batch, whatever padding holds, whatever the
//! order of rows.
#![allow(clippy::unwrap_used, reason = "a failure here fails its test")]

use burn::tensor::{Device, Tensor, TensorData};
use losses::{
    AdaptiveEntropy, Aggregation, ClipCov, ClipCovControl, CovPenalty, EntropyBonus, EntropyBudget,
    EntropyControl, EntropyRatioClip, Granularity, KlCov, KlCovControl, LossConfig, LossInputs,
    LossSums, ObjectiveConfig, OptionalInputs, PolicyObjective, PpoClip, ReferenceKl,
    SelectedTokens, SelectionKey, SelectionScope, SelectionView, Selections, ShapedAdvantage,
    TopEntropy,
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
    entropies: Vec<f32>,
    old_entropies: Vec<f32>,
    weights: Vec<f32>,
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
            let (old_log_probs, ref_log_probs) = (near(), near());
            let old_entropies: Vec<f32> = (0..response_len).map(|_| 2.0 * uniform()).collect();
            let entropies = old_entropies
                .iter()
                .map(|h| h * (0.9 + 0.2 * uniform()))
                .collect();
            let weights = (0..response_len).map(|_| 2.0 * uniform()).collect();
            Row {
                key: 1000 + row as u64,
                old_log_probs,
                ref_log_probs,
                entropies,
                old_entropies,
                weights,
                advantages: vec![advantage; response_len],
                mask: (0..response_len).map(|t| f32::from(t < length)).collect(),
                log_probs,
            }
        })
        .collect()
}

/// Every loss, with settings that make its clip and its selection act on a small batch.
fn losses() -> Vec<LossConfig> {
    let acting = [
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
    let is_there = |loss: &LossConfig| {
        let kind = std::mem::discriminant(loss);
        acting
            .iter()
            .any(|other| std::mem::discriminant(other) == kind)
    };
    let others = LossConfig::defaults()
        .into_iter()
        .filter(|loss| !is_there(loss));
    acting.iter().copied().chain(others).collect()
}

/// Every controller alone, and some together.
fn controls() -> Vec<EntropyControl> {
    let none = EntropyControl::default;
    let clip_cov = Some(ClipCovControl {
        fraction: 0.1,
        cov_low: 0.1,
        ..ClipCovControl::default()
    });
    let kl_cov = Some(KlCovControl {
        top_fraction: 0.2,
        ..KlCovControl::default()
    });
    let bonus = Some(EntropyBonus { coef: 0.1 });
    let adaptive = Some(AdaptiveEntropy::default());
    let budget = Some(EntropyBudget::default());
    let top_entropy = Some(TopEntropy {
        top_fraction: 0.5,
        ..TopEntropy::default()
    });
    let ratio_clip = Some(EntropyRatioClip::default());
    let shaped_advantage = Some(ShapedAdvantage::default());
    vec![
        none(),
        EntropyControl { clip_cov, ..none() },
        EntropyControl { kl_cov, ..none() },
        EntropyControl { bonus, ..none() },
        EntropyControl { adaptive, ..none() },
        EntropyControl { budget, ..none() },
        EntropyControl {
            top_entropy,
            ..none()
        },
        EntropyControl {
            ratio_clip,
            ..none()
        },
        EntropyControl {
            shaped_advantage,
            ..none()
        },
        EntropyControl {
            kl_cov,
            bonus,
            ratio_clip,
            shaped_advantage,
            ..none()
        },
        EntropyControl {
            clip_cov,
            adaptive,
            top_entropy,
            ..none()
        },
    ]
}

/// Every loss under every aggregation, and every controller over losses of each granularity; less
/// what is refused.
fn objectives() -> Vec<PolicyObjective> {
    let with = |loss, aggregation, entropy| {
        let config = ObjectiveConfig {
            loss,
            aggregation: Some(aggregation),
            constant_length_tokens: Some(7.0),
            reference_kl: Some(ReferenceKl {
                coef: 0.1,
                ..ReferenceKl::default()
            }),
            rollout_correction: None,
        };
        PolicyObjective::new(config, entropy).ok()
    };
    let none = EntropyControl::default();
    let plain = losses()
        .into_iter()
        .flat_map(|loss| AGGREGATIONS.map(|aggregation| with(loss, aggregation, none)));
    let of_each_granularity = ["type = 'ppo_clip'", "type = 'gspo'", "type = 'gmpo'"];
    let controlled = of_each_granularity.into_iter().flat_map(|loss| {
        let loss = toml::from_str(loss).unwrap();
        let controlled = |entropy| with(loss, Aggregation::SeqMeanTokenMean, entropy);
        controls().into_iter().map(controlled).collect::<Vec<_>>()
    });
    plain.chain(controlled).flatten().collect()
}

fn plain(loss: LossConfig) -> PolicyObjective {
    let config = ObjectiveConfig {
        loss,
        ..ObjectiveConfig::default()
    };
    PolicyObjective::new(config, EntropyControl::default()).unwrap()
}

fn concat(rows: &[Row], field: fn(&Row) -> &Vec<f32>) -> Vec<f32> {
    rows.iter().flat_map(field).copied().collect()
}

fn tensor(rows: &[Row], field: fn(&Row) -> &Vec<f32>, device: &Device) -> Tensor<2> {
    let shape = [rows.len(), field(&rows[0]).len()];
    Tensor::from_data(TensorData::new(concat(rows, field), shape), device)
}

fn select(objective: &PolicyObjective, rows: &[Row]) -> Selections {
    let keys: Vec<u64> = rows.iter().map(|row| row.key).collect();
    let view = SelectionView {
        log_probs: &concat(rows, |r| &r.log_probs),
        old_log_probs: &concat(rows, |r| &r.old_log_probs),
        advantages: &concat(rows, |r| &r.advantages),
        mask: &concat(rows, |r| &r.mask),
        old_entropies: Some(&concat(rows, |r| &r.old_entropies)),
        row_keys: &keys,
    };
    let whole = 0..rows.len();
    objective
        .select(&view, std::slice::from_ref(&whole), &KEY)
        .unwrap()
}

/// A micro-batch; on a device that tracks gradients, its log-probabilities and entropies are
/// leaves.
fn inputs(rows: &[Row], device: &Device, is_tracked: bool) -> LossInputs {
    let leaf = |field| {
        let tensor = tensor(rows, field, device);
        if is_tracked {
            tensor.require_grad()
        } else {
            tensor
        }
    };
    LossInputs {
        log_probs: leaf(|r| &r.log_probs),
        old_log_probs: tensor(rows, |r| &r.old_log_probs, device),
        advantages: tensor(rows, |r| &r.advantages, device),
        mask: tensor(rows, |r| &r.mask, device),
        optional: OptionalInputs {
            ref_log_probs: Some(tensor(rows, |r| &r.ref_log_probs, device)),
            entropies: Some(leaf(|r| &r.entropies)),
            old_entropies: Some(tensor(rows, |r| &r.old_entropies, device)),
            weights: Some(tensor(rows, |r| &r.weights, device)),
        },
    }
}

#[derive(Debug)]
struct Outcome {
    loss: f64,
    /// By the log-probabilities, in row order.
    gradient: Vec<f64>,
    /// By the entropies.
    entropy_gradient: Vec<f64>,
    sums: LossSums,
}

/// The factor of the entropy bonus, where there is one.
const BONUS: f64 = 0.1;

/// Selects over all rows, then evaluates them in micro-batches and adds up.
fn run(objective: &PolicyObjective, rows: &[Row], micro_batch_rows: usize) -> Outcome {
    let device = Device::flex().autodiff();
    let response_len = rows[0].mask.len();
    let denominator = objective.denominator(&concat(rows, |r| &r.mask), response_len);
    let selections = select(objective, rows);
    let mut outcome = Outcome {
        loss: 0.0,
        gradient: Vec::new(),
        entropy_gradient: Vec::new(),
        sums: LossSums::default(),
    };
    for (index, micro) in rows.chunks(micro_batch_rows).enumerate() {
        let start = index * micro_batch_rows;
        let range = start..start + micro.len();
        let inputs = inputs(micro, &device, true);
        let selected = selections.to_device(&range, response_len, &device);
        let output = objective.evaluate(&inputs, &selected, &denominator, BONUS);
        let gradients = output.loss.backward();
        outcome.loss += output.loss.into_scalar::<f64>();
        let of = |leaf: &Tensor<2>| match leaf.grad(&gradients) {
            Some(gradient) => gradient.into_data().iter::<f64>().collect(),
            None => vec![0.0; micro.len() * response_len],
        };
        outcome.gradient.extend(of(&inputs.log_probs));
        outcome
            .entropy_gradient
            .extend(of(inputs.optional.entropies.as_ref().unwrap()));
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
    let entropy_gradients = found
        .entropy_gradient
        .iter()
        .zip(&expected.entropy_gradient);
    for (f, e) in entropy_gradients {
        assert!(close(*f, *e), "{what}: entropy gradients {f} and {e}");
    }
    let counts = |sums: &LossSums| [sums.tokens, sums.clipped, sums.selected, sums.held];
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

/// Random batches that each objective is tried on: `ANNEAL_BATCHES`, 8 where it is not set.
fn batches() -> u32 {
    let set = std::env::var("ANNEAL_BATCHES").ok();
    set.map_or(8, |text| text.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(batches()))]

    #[test]
    fn micro_batches_add_up_to_their_batch(seed: u64, rows in 1_usize..7, len in 1_usize..9) {
        let rows = batch(seed, rows, len);
        for objective in objectives() {
            let whole = run(&objective, &rows, rows.len());
            for micro_batches in [2, 4] {
                let size = rows.len().div_ceil(micro_batches);
                let parts = run(&objective, &rows, size);
                assert_equal(&parts, &whole, &format!("{objective:?}"));
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
                row.entropies[t] = f32::NAN;
                row.old_entropies[t] = f32::INFINITY;
                row.weights[t] = f32::NAN;
            }
        }
        for objective in objectives() {
            prop_assert_eq!(select(&objective, &dirty), select(&objective, &clean));
            let (dirty, clean) = (run(&objective, &dirty, 2), run(&objective, &clean, 2));
            assert_equal(&dirty, &clean, &format!("{objective:?}"));
        }
    }

    #[test]
    fn the_order_of_rows_does_not_matter(seed: u64, rows in 2_usize..7, len in 1_usize..9) {
        let rows = batch(seed, rows, len);
        let mut rotated = rows.clone();
        rotated.rotate_left(1);
        for objective in objectives() {
            let (selected, again) = (select(&objective, &rows), select(&objective, &rotated));
            let masks = |selections: Selections| {
                [selections.covariance, selections.low_entropy]
                    .map(|selection| selection.map(|s| s.mask).unwrap_or_default())
            };
            let mut selected = masks(selected);
            for mask in selected.iter_mut().filter(|mask| !mask.is_empty()) {
                mask.rotate_left(len);
            }
            prop_assert_eq!(&masks(again), &selected);

            let mut whole = run(&objective, &rows, 2);
            whole.gradient.rotate_left(len);
            whole.entropy_gradient.rotate_left(len);
            let what = format!("{objective:?}");
            assert_equal(&run(&objective, &rotated, 2), &whole, &what);
        }
    }
}

#[test]
fn a_batch_without_a_trained_token_has_no_loss() {
    let mut rows = batch(5, 3, 4);
    for row in &mut rows {
        row.mask = vec![0.0; 4];
        row.log_probs = vec![f32::NAN; 4];
    }
    let all = objectives();
    // With the random batches above, each change tries this many times 8.
    assert!(all.len() > 25, "{} objectives", all.len());
    for objective in all {
        let outcome = run(&objective, &rows, 2);
        assert!(outcome.loss == 0.0, "{objective:?}: {}", outcome.loss);
        let gradients = outcome.gradient.iter().chain(&outcome.entropy_gradient);
        assert!(gradients.copied().all(|g| g == 0.0), "{objective:?}");
        assert!(outcome.sums.tokens == 0.0 && outcome.sums.clip_fraction() == 0.0);
    }
}

/// With `log π = log π_old` every loss has REINFORCE's gradient, -A/N under its own denominator;
/// Clip-Cov's less the selected tokens. KL-Cov's penalty has none.
#[test]
fn ratio_one_gives_the_gradient_of_reinforce() {
    let mut rows = batch(3, 6, 8);
    for row in &mut rows {
        row.old_log_probs.clone_from(&row.log_probs);
        row.weights.fill(1.0);
    }
    let mask = concat(&rows, |r| &r.mask);
    let advantages = concat(&rows, |r| &r.advantages);
    let trained = |row: &Row| f64::from(row.mask.iter().sum::<f32>());
    let tokens: f64 = rows.iter().map(trained).sum();
    let sequences = rows.iter().filter(|row| trained(row) > 0.0).count() as f64;
    for loss in losses() {
        let objective = plain(loss);
        let by_sequence = loss.policy_loss().granularity() != Granularity::Token;
        let selection = select(&objective, &rows).covariance;
        let taken_out = match (&selection, loss) {
            (Some(selection), LossConfig::ClipCov(_)) => selection.mask.clone(),
            _ => vec![0.0; rows.len() * 8],
        };
        let outcome = run(&objective, &rows, 3);
        for (index, found) in outcome.gradient.iter().enumerate() {
            let divisor = if by_sequence {
                sequences * trained(&rows[index / 8])
            } else {
                tokens
            };
            let kept = f64::from(mask[index] * (1.0 - taken_out[index]));
            let expected = -f64::from(advantages[index]) * kept / divisor.max(1.0);
            assert!(
                (found - expected).abs() < 1e-6,
                "{loss:?}: {found}, expected {expected}"
            );
        }
    }
}

/// The central difference of the loss by each log-probability and entropy, with everything that is
/// without a gradient held fixed: selections, and what the losses detach. At a ratio where nothing
/// is detached by value, these are PPO's clip, SAPO, GMPO, both Cov losses and every penalty.
#[test]
fn gradients_are_finite_differences() {
    let rows = batch(9, 3, 4);
    let detaches = |loss: &LossConfig| {
        matches!(
            loss,
            LossConfig::Gspo(_) | LossConfig::Cispo(_) | LossConfig::CeGppo(_)
        )
    };
    let device = Device::flex();
    let step = 1e-2_f32;
    let mut compared = 0;
    let controls = [
        EntropyControl::default(),
        EntropyControl {
            bonus: Some(EntropyBonus { coef: BONUS }),
            ..EntropyControl::default()
        },
    ];
    for loss in losses().into_iter().filter(|loss| !detaches(loss)) {
        for entropy in controls {
            let config = ObjectiveConfig {
                loss,
                reference_kl: Some(ReferenceKl::default()),
                ..ObjectiveConfig::default()
            };
            let objective = PolicyObjective::new(config, entropy).unwrap();
            let selections = select(&objective, &rows);
            let denominator = objective.denominator(&concat(&rows, |r| &r.mask), 4);
            let value = |rows: &[Row]| {
                let selected = selections.to_device(&(0..rows.len()), 4, &device);
                let output = objective.evaluate(
                    &inputs(rows, &device, false),
                    &selected,
                    &denominator,
                    BONUS,
                );
                output.loss.into_scalar::<f64>()
            };
            let outcome = run(&objective, &rows, rows.len());
            for index in 0..rows.len() * 4 {
                let moved = |by: f32, entropy: bool| {
                    let mut rows = rows.clone();
                    let row = &mut rows[index / 4];
                    let field = if entropy {
                        &mut row.entropies
                    } else {
                        &mut row.log_probs
                    };
                    field[index % 4] += by;
                    value(&rows)
                };
                for (entropy, gradient) in [
                    (false, outcome.gradient[index]),
                    (true, outcome.entropy_gradient[index]),
                ] {
                    let ahead = (moved(step, entropy) - value(&rows)) / f64::from(step);
                    let behind = (value(&rows) - moved(-step, entropy)) / f64::from(step);
                    // Where the two sides differ, a clip begins between them.
                    if (ahead - behind).abs() > 0.02 * (ahead.abs() + behind.abs()) + 1e-4 {
                        continue;
                    }
                    compared += 1;
                    let central = 0.5 * (ahead + behind);
                    assert!(
                        (central - gradient).abs() < 2e-3 * central.abs() + 2e-4,
                        "{loss:?} at {index}: gradient {gradient}, difference {central}"
                    );
                }
            }
        }
    }
    assert!(compared > 200, "{compared}");
}

/// A controller at its neutral value leaves loss and gradient as they are.
#[test]
fn a_neutral_controller_changes_nothing() {
    let rows = batch(12, 5, 6);
    let none = EntropyControl::default;
    let neutral = [
        EntropyControl {
            clip_cov: Some(ClipCovControl {
                cov_low: 1e6,
                cov_high: 1e7,
                ..ClipCovControl::default()
            }),
            ..none()
        },
        EntropyControl {
            kl_cov: Some(KlCovControl {
                kl_coef: 0.0,
                ..KlCovControl::default()
            }),
            ..none()
        },
        EntropyControl {
            top_entropy: Some(TopEntropy {
                top_fraction: 1.0,
                ..TopEntropy::default()
            }),
            ..none()
        },
        EntropyControl {
            ratio_clip: Some(EntropyRatioClip {
                ratio_low: -1.0,
                ratio_high: f64::INFINITY,
            }),
            ..none()
        },
        EntropyControl {
            shaped_advantage: Some(ShapedAdvantage {
                alpha: 0.0,
                ..ShapedAdvantage::default()
            }),
            ..none()
        },
    ];
    for loss in losses() {
        let expected = run(&plain(loss), &rows, 2);
        for entropy in neutral {
            let config = ObjectiveConfig {
                loss,
                ..ObjectiveConfig::default()
            };
            let Ok(objective) = PolicyObjective::new(config, entropy) else {
                continue;
            };
            let found = run(&objective, &rows, 2);
            assert!(close(found.loss, expected.loss), "{objective:?}");
            assert_eq!(found.gradient, expected.gradient, "{objective:?}");
        }
    }
    let objective = PolicyObjective::new(
        ObjectiveConfig::default(),
        EntropyControl {
            bonus: Some(EntropyBonus { coef: 0.0 }),
            ..none()
        },
    );
    assert!(objective.unwrap().entropy_bonus(0.0, 1.0).abs() < f64::EPSILON);
}

/// Combinations that make no sense are refused, with a reason.
#[test]
fn senseless_combinations_are_refused() {
    let reason = |loss: &str, entropy: &str| {
        let config: ObjectiveConfig = toml::from_str(loss).unwrap();
        let entropy: EntropyControl = toml::from_str(entropy).unwrap();
        PolicyObjective::new(config, entropy)
            .unwrap_err()
            .to_string()
    };
    for (loss, entropy, expected) in [
        ("type = 'clip_cov'", "[clip_cov]", "select twice"),
        ("type = 'kl_cov'", "[kl_cov]", "penalise twice"),
        ("type = 'kl_cov'", "[clip_cov]", "highest covariance"),
        (
            "type = 'ppo_clip'",
            "[clip_cov]\n[kl_cov]",
            "highest covariance",
        ),
        ("type = 'ppo_clip'", "[bonus]\n[adaptive]", "same bonus"),
        ("type = 'gmpo'", "[top_entropy]", "whole sequence"),
        ("type = 'gmpo'", "[clip_cov]", "whole sequence"),
        (
            "type = 'gmpo'\naggregation = 'token_mean'",
            "",
            "seq_mean_token_mean",
        ),
    ] {
        let found = reason(loss, entropy);
        assert!(found.contains(expected), "{loss} {entropy}: {found}");
    }
}

/// A micro-batch's own selection differs from its share of the mini-batch's: what makes the
/// references' results depend on the micro-batch size.
#[test]
fn selecting_by_micro_batch_selects_more_tokens() {
    let rows = batch(4, 8, 16);
    let count = |selection| {
        let objective = plain(LossConfig::KlCov(KlCov {
            top_fraction: 1e-3,
            selection,
            ..KlCov::default()
        }));
        let keys: Vec<u64> = rows.iter().map(|row| row.key).collect();
        let view = SelectionView {
            log_probs: &concat(&rows, |r| &r.log_probs),
            old_log_probs: &concat(&rows, |r| &r.old_log_probs),
            advantages: &concat(&rows, |r| &r.advantages),
            mask: &concat(&rows, |r| &r.mask),
            old_entropies: Some(&concat(&rows, |r| &r.old_entropies)),
            row_keys: &keys,
        };
        let selections = objective.select(&view, &[0..2, 2..4, 4..6, 6..8], &KEY);
        let selection = selections.unwrap().covariance.unwrap();
        assert_eq!(selection.mask.len(), view.mask.len());
        let sum: f32 = selection.mask.iter().sum();
        assert!(close(f64::from(sum), selection.stats.count as f64));
        assert_eq!(selection.stats.from_minimum_of_one, selection.stats.count);
        let mean = selection.stats.mean_entropy_nats().unwrap();
        assert!((0.0..2.0).contains(&mean), "{mean}");
        selection.stats.count
    };
    assert_eq!(count(SelectionScope::MiniBatch), 1);
    assert_eq!(count(SelectionScope::MicroBatch), 4);
}

#[test]
fn statistics_add_up_on_the_device_as_on_the_host() {
    let rows = batch(5, 4, 8);
    let objective = plain(LossConfig::default());
    let device = Device::flex();
    let evaluate = |rows: &[Row]| {
        let denominator = objective.denominator(&concat(rows, |r| &r.mask), 8);
        let selected = SelectedTokens::default();
        objective
            .evaluate(&inputs(rows, &device, false), &selected, &denominator, 0.0)
            .stats
    };
    let on_device = (evaluate(&rows[..2]) + evaluate(&rows[2..])).read();
    let mut on_host = evaluate(&rows[..2]).read();
    on_host += evaluate(&rows[2..]).read();
    assert!(close(on_device.tokens, on_host.tokens));
    let tokens = concat(&rows, |r| &r.mask).iter().sum::<f32>();
    assert!(close(on_host.tokens, f64::from(tokens)) && on_host.clip_fraction() > 0.0);
}

#[test]
#[should_panic(expected = "this objective selects tokens")]
fn a_missing_selection_is_refused() {
    let rows = batch(6, 2, 4);
    let objective = plain(LossConfig::KlCov(KlCov::default()));
    let denominator = objective.denominator(&concat(&rows, |r| &r.mask), 4);
    let inputs = inputs(&rows, &Device::flex(), false);
    let _ = objective.evaluate(&inputs, &SelectedTokens::default(), &denominator, 0.0);
}

/// The objective with a reference penalty is the one without, plus `coef·⟨k⟩`.
#[test]
fn the_reference_penalty_adds_its_mean_estimate() {
    let rows = batch(7, 5, 6);
    let penalised = ObjectiveConfig {
        reference_kl: Some(ReferenceKl {
            coef: 0.25,
            ..ReferenceKl::default()
        }),
        ..ObjectiveConfig::default()
    };
    let penalised = PolicyObjective::new(penalised, EntropyControl::default()).unwrap();
    let plain = plain(LossConfig::default());
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

/// Losses that detach a weight have the gradient of their formula, by hand.
#[test]
fn detached_weights_have_the_gradient_of_their_formula() {
    // One sequence of two tokens: ratios 2 and 0.5, A = 1 and A = -1.
    let row = |advantage: f32| Row {
        key: 1,
        log_probs: vec![0.0, 0.0],
        old_log_probs: vec![-(2.0_f32.ln()), -(0.5_f32.ln())],
        ref_log_probs: vec![0.0; 2],
        advantages: vec![advantage; 2],
        mask: vec![1.0; 2],
        entropies: vec![0.0; 2],
        old_entropies: vec![0.0; 2],
        weights: vec![1.0; 2],
    };
    let gradient = |loss: &str, advantage: f32| {
        let loss: LossConfig = toml::from_str(loss).unwrap();
        run(&plain(loss), &[row(advantage)], 1).gradient
    };
    let assert_gradient = |found: Vec<f64>, expected: [f64; 2]| {
        let close = found
            .iter()
            .zip(expected)
            .all(|(f, e)| (f - e).abs() < 1e-6);
        assert!(close, "{found:?}, expected {expected:?}");
    };
    // Cispo: weights clip(2) = 1.28 and, with nothing below, 0.5, halved by the mean over two tokens.
    assert_gradient(gradient("type = 'cispo'", 1.0), [-0.64, -0.25]);
    assert_gradient(gradient("type = 'cispo'", -1.0), [0.64, 0.25]);
    let bounded = "type = 'cispo'\nclip_low = 0.2";
    assert_gradient(gradient(bounded, 1.0), [-0.64, -0.4]);
    // CE-GPPO: above the clip with a gain 1·1.2; below with a loss 0.75·0.8; else the ratio.
    assert_gradient(gradient("type = 'ce_gppo'", 1.0), [-0.6, -0.25]);
    assert_gradient(gradient("type = 'ce_gppo'", -1.0), [1.0, 0.3]);
    let off = "type = 'ce_gppo'\nbeta_low = 0.0\nbeta_high = 0.0";
    let ppo = "type = 'ppo_clip'";
    for advantage in [1.0, -1.0] {
        assert_eq!(gradient(off, advantage), gradient(ppo, advantage));
    }
    // GSPO: the sequence's ratio is √(2·0.5) = 1, inside any clip.
    assert_gradient(gradient("type = 'gspo'", 1.0), [-0.5, -0.5]);
}
