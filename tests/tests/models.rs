//! The decoder against transformers, on tiny models of every family.
#![allow(clippy::unwrap_used, reason = "a broken test fails")]

use burn::{
    module::Module,
    tensor::{DType, Device, Int, Tensor},
};
use policy::{
    Compute, EntropyPass, Execution, HeadOptions, PackedTokens, Policy, SaveDtype, TokenBatch,
};
use rollout::{Engine, EngineOptions, Generator, Request, Rollout, SampleKey, SamplingParams};
use serde_json::Value;

/// Float32 sums in another order than torch's.
const TOLERANCE: f64 = 1e-4;

/// The same for a bare logit, which no softmax centres: those of `qwen2-bf16` reach 1.2e-4.
const LOGIT_TOLERANCE: f64 = 2e-4;

const FOLDERS: [&str; 6] = [
    "llama-tied",
    "llama3-rope-scaled",
    "mistral-sliding",
    "qwen2-bf16",
    "qwen2-sharded",
    "qwen3",
];

fn load(folder: &str) -> (Policy, Value) {
    let dir = tests::data("models").join(folder);
    let expected = std::fs::read_to_string(dir.join("expected.json")).unwrap();
    let policy = Policy::load(&dir, DType::F32, &Device::flex()).unwrap();
    (policy, serde_json::from_str(&expected).unwrap())
}

fn rows<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<Vec<T>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Log-probabilities and entropies of every next token, and the logits after the last, of masked rows.
fn scores(policy: &Policy, ids: &[Vec<u32>], mask: &[Vec<u32>]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let batch = TokenBatch::masked(ids, mask);
    let [rows, length] = batch.dims();
    let hidden = policy.model.hidden_states(&batch, None);
    let width = hidden.dims()[2];
    let targets: Vec<u32> = ids
        .iter()
        .flat_map(|row| row.iter().skip(1).chain([&0]).copied())
        .collect();
    let last: Vec<i32> = (1..=rows).map(|row| (row * length - 1) as i32).collect();
    let flat = hidden.reshape([rows * length, width]);
    let last = Tensor::<1, Int>::from_data(last.as_slice(), &flat.device());
    let logits = policy.model.logits(flat.clone().select(0, last));
    let options = HeadOptions {
        temperature: 1.0,
        entropy: EntropyPass::Values,
    };
    let scores = policy.model.score_tokens(flat, &targets, options);
    let values = |tensor: Tensor<1>| tensor.try_into_vec_as::<f32>().unwrap();
    let logits = logits.try_into_vec_as::<f32>().unwrap();
    (
        values(scores.log_probs),
        values(scores.entropies.unwrap()),
        logits,
    )
}

fn assert_near(what: &str, found: f32, expected: f64) {
    let difference = (f64::from(found) - expected).abs();
    assert!(difference < TOLERANCE, "{what}: {found} is not {expected}");
}

#[test]
fn log_probs_entropies_and_logits_are_those_of_transformers() {
    for folder in FOLDERS {
        let (policy, expected) = load(folder);
        let ids = rows::<u32>(&expected["input_ids"]);
        let mask = rows::<u32>(&expected["attention_mask"]);
        let (log_probs, entropies, logits) = scores(&policy, &ids, &mask);
        let length = ids[0].len();
        let vocab = policy.config.vocab_size;
        let expected_log_probs = rows::<f64>(&expected["next_token_log_probs"]);
        let expected_entropies = rows::<f64>(&expected["entropy_nats"]);
        let expected_logits = rows::<f64>(&expected["last_logits"]);
        for row in 0..ids.len() {
            // A padding token's own figures mean nothing; from the first real one on, all must agree.
            let first = mask[row].iter().position(|&real| real == 1).unwrap();
            for column in first..length {
                let what = format!("{folder} row {row} column {column}");
                let at = row * length + column;
                assert_near(&what, entropies[at], expected_entropies[row][column]);
                if column + 1 < length {
                    assert_near(&what, log_probs[at], expected_log_probs[row][column]);
                }
            }
            for id in 0..vocab {
                let (found, expected) = (logits[row * vocab + id], expected_logits[row][id]);
                let difference = (f64::from(found) - expected).abs();
                assert!(
                    difference < LOGIT_TOLERANCE,
                    "{folder} logit {id}: {found}, {expected}"
                );
            }
        }
    }
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    for folder in FOLDERS {
        let (policy, expected) = load(folder);
        let prompt_ids = rows::<u32>(&expected["input_ids"]).swap_remove(0);
        let greedy: Vec<u32> =
            serde_json::from_value(expected["greedy_continuation_of_row_0"].clone()).unwrap();
        let params = SamplingParams {
            temperature: 0.0,
            max_new_tokens: greedy.len(),
            stop_token_ids: policy.end_token_ids(),
            ..Default::default()
        };
        let key = SampleKey {
            seed: 0,
            step: 0,
            row: 0,
            sample: 0,
        };
        let engine = Engine::new(&policy, &policy.model, EngineOptions::default());
        let rollouts = engine
            .generate(&[Request { prompt_ids, key }], &params, &mut |_| ())
            .unwrap();
        assert_eq!(rollouts[0].response_ids, greedy, "{folder}");
    }
}

#[test]
fn a_saved_model_scores_bit_identically() {
    for folder in FOLDERS {
        let (policy, expected) = load(folder);
        let dir = tempfile::tempdir().unwrap();
        policy.save(dir.path(), SaveDtype::F32).unwrap();
        let again = Policy::load(dir.path(), DType::F32, &Device::flex()).unwrap();
        let ids = rows::<u32>(&expected["input_ids"]);
        let mask = rows::<u32>(&expected["attention_mask"]);
        assert_eq!(
            scores(&policy, &ids, &mask),
            scores(&again, &ids, &mask),
            "{folder}"
        );
        assert_eq!(policy.end_token_ids(), again.end_token_ids());
    }
}

fn requests(count: u64) -> Vec<Request> {
    (0..count)
        .map(|n| Request {
            prompt_ids: (0..3 + n / 2 % 5 * 4)
                .map(|i| (7 * n / 2 + 11 * i) as u32 % 320)
                .collect(),
            key: SampleKey {
                seed: 9,
                step: 1,
                row: n / 2,
                sample: n % 2,
            },
        })
        .collect()
}

#[test]
fn the_batch_size_does_not_change_a_bit_of_any_rollout() {
    for folder in FOLDERS {
        let (policy, _) = load(folder);
        let policy_model = policy.model.valid();
        let params = SamplingParams {
            max_new_tokens: 24,
            temperature: 3.0,
            stop_token_ids: (0..20).collect(),
            ..Default::default()
        };
        let run = |batch_rows, prefill_tokens, threads| {
            let options = EngineOptions {
                batch_rows,
                prefill_tokens,
                threads,
            };
            let engine = Engine::new(&policy, &policy_model, options);
            engine
                .generate(&requests(14), &params, &mut |_| ())
                .unwrap()
        };
        let whole = run(64, 4096, 1);
        assert!(
            whole.iter().any(|rollout| rollout.response_ids.len() < 24),
            "no early finish"
        );
        for (batch_rows, prefill_tokens, threads) in [
            (1, 1, 1),
            (3, 40, 1),
            (5, 4096, 2),
            (13, 60, 1),
            (14, 99, 3),
        ] {
            let again = run(batch_rows, prefill_tokens, threads);
            assert_eq!(
                whole, again,
                "{folder}: {batch_rows} rows on {threads} threads"
            );
        }
    }
}

/// What the sampler says of its tokens is what the trainer's pass computes.
#[test]
fn sampler_log_probs_are_those_of_a_full_pass() {
    for folder in FOLDERS {
        let (policy, _) = load(folder);
        let params = SamplingParams {
            max_new_tokens: 20,
            temperature: 1.5,
            ..Default::default()
        };
        let engine = Engine::new(&policy, &policy.model, EngineOptions::default());
        for rollout in engine.generate(&requests(6), &params, &mut |_| ()).unwrap() {
            let ids: Vec<u32> = rollout
                .prompt_ids
                .iter()
                .chain(&rollout.response_ids)
                .copied()
                .collect();
            let batch = TokenBatch::right_padded(&[&ids], None);
            let hidden = policy.model.hidden_states(&batch, None);
            let width = hidden.dims()[2];
            let hidden = hidden.reshape([ids.len(), width]);
            let start = rollout.prompt_ids.len() - 1;
            let hidden = hidden.narrow(0, start, rollout.response_ids.len());
            let options = HeadOptions {
                temperature: 1.5,
                entropy: EntropyPass::Skip,
            };
            let scored = policy
                .model
                .score_tokens(hidden, &rollout.response_ids, options)
                .log_probs;
            let scored = scored.try_into_vec_as::<f32>().unwrap();
            for (sampled, scored) in rollout.sampler_log_probs.iter().zip(&scored) {
                assert_near(folder, *sampled, f64::from(*scored));
            }
        }
    }
}

/// The decoder and the pass over whole sequences do the same sums in the same order: what the sampler says needs no
/// second look.
#[test]
fn the_cpus_sampler_gives_the_bits_of_a_full_pass() {
    let computes = [Compute::F32, Compute::Bf16];
    for (folder, compute) in FOLDERS
        .iter()
        .flat_map(|&f| computes.map(|compute| (f, compute)))
    {
        let (mut policy, _) = load(folder);
        policy.model = policy.model.with_execution(Execution {
            compute,
            ..Execution::default()
        });
        assert!(policy.model.is_fused());
        let temperature = 1.5;
        let params = SamplingParams {
            max_new_tokens: 70,
            temperature,
            ..Default::default()
        };
        let engine = Engine::new(&policy, &policy.model, EngineOptions::default());
        let rollouts = engine.generate(&requests(6), &params, &mut |_| ()).unwrap();
        let sequences = rollouts.iter();
        let tokens = PackedTokens::new(
            sequences.map(|rollout| (&rollout.prompt_ids[..], &rollout.response_ids[..])),
        );
        let hidden = policy.model.response_states(&tokens);
        let options = HeadOptions {
            temperature,
            entropy: EntropyPass::Values,
        };
        let scores = policy.model.score_tokens(hidden, tokens.targets(), options);
        let of = |pick: fn(&Rollout) -> &Vec<f32>| -> Vec<f32> {
            rollouts.iter().flat_map(pick).copied().collect()
        };
        let read = |tensor: Option<Tensor<1>>| tensor.unwrap().try_into_vec_as::<f32>().unwrap();
        let sampled = of(|rollout| &rollout.sampler_log_probs);
        assert_eq!(sampled, read(Some(scores.log_probs)), "{folder}");
        let sampled = of(|rollout| &rollout.sampler_entropies);
        assert_eq!(sampled, read(scores.entropies), "{folder}");
        let sampled = of(|rollout| &rollout.sampler_entropies_at_temperature);
        assert_eq!(sampled, read(scores.entropies_at_temperature), "{folder}");
    }
}
