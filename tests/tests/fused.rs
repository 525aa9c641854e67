//! The fast form of the model against the plain one: values and every gradient, whatever is kept or computed again.

#![allow(clippy::unwrap_used, reason = "a broken test fails")]

use std::path::Path;

use burn::{
    module::{Lora, Module, ModuleMapper, ModuleVisitor, Param, ParamGroup},
    optim::GradientsParams,
    tensor::{DType, Device, Tensor, TensorData},
};
use policy::{
    CausalLm, Compute, EntropyPass, Execution, HeadOptions, ModelConfig, PackedTokens, Policy,
    Recompute,
};
use serde_json::json;

/// Sequences of unequal lengths, some with a prompt in common, one without a response, longer than a tile and a window.
fn sequences() -> Vec<(Vec<u32>, Vec<u32>)> {
    let ids = |seed: u32, count: u32| {
        (0..count)
            .map(|i| (seed * 7 + i * i * 3 + i) % 60)
            .collect()
    };
    let prompts: [Vec<u32>; 3] = [ids(1, 9), ids(2, 1), ids(3, 70)];
    [
        (0, 5),
        (0, 1),
        (0, 33),
        (1, 64),
        (2, 3),
        (2, 0),
        (2, 61),
        (0, 2),
    ]
    .into_iter()
    .enumerate()
    .map(|(seed, (prompt, response))| (prompts[prompt].clone(), ids(seed as u32, response)))
    .collect()
}

fn packed() -> PackedTokens {
    let sequences = sequences();
    PackedTokens::new(sequences.iter().map(|(p, r)| (p.as_slice(), r.as_slice())))
}

struct Gradients<'a> {
    all: &'a GradientsParams,
    named: Vec<Vec<f32>>,
    frozen: Vec<bool>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.all.get::<D>(param.id);
        let gradient = gradient.map(|gradient| gradient.into_data().iter::<f32>().collect());
        self.named.push(gradient.unwrap_or_default());
        self.frozen.push(!param.base().is_require_grad());
    }
}

struct Outcome {
    log_probs: Vec<f32>,
    entropies: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    /// Which parameters are not trained.
    frozen: Vec<bool>,
}

fn outcome(model: &CausalLm, execution: Execution, temperature: f64) -> Outcome {
    let model = model
        .clone()
        .fork(&model.device())
        .with_execution(execution);
    let tokens = packed();
    let hidden = model.response_states(&tokens);
    let options = HeadOptions {
        temperature,
        entropy: EntropyPass::Gradient,
    };
    let scores = model.score_tokens(hidden, tokens.targets(), options);
    let entropies = scores.entropies.unwrap();
    // Weights that differ from token to token, so that no two mistakes cancel.
    let [count] = scores.log_probs.dims();
    let weights: Vec<f32> = (0..count)
        .map(|i| ((i * 37 % 19) as f32 - 8.0) / 19.0)
        .collect();
    let weights = Tensor::<1>::from_data(weights.as_slice(), &scores.log_probs.device());
    let read = |tensor: &Tensor<1>| tensor.clone().try_into_vec_as::<f32>().unwrap();
    let (log_probs, values) = (read(&scores.log_probs), read(&entropies));
    let loss = (scores.log_probs * weights.clone()).sum() + (entropies * weights * 0.3).sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let mut visitor = Gradients {
        all: &gradients,
        named: Vec::new(),
        frozen: Vec::new(),
    };
    model.visit(&mut visitor);
    Outcome {
        log_probs,
        entropies: values,
        gradients: visitor.named,
        frozen: visitor.frozen,
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, greater)
}

fn largest(a: &[f32]) -> f32 {
    a.iter().map(|x| x.abs()).fold(0.0, greater)
}

/// The greater one, or NaN where either is.
fn greater(a: f32, b: f32) -> f32 {
    if a >= b || a.is_nan() { a } else { b }
}

fn assert_same(found: &Outcome, expected: &Outcome, what: &str) {
    // The tiny models' logits reach a hundred, where f32 itself has steps of 8e-6.
    let scale = largest(&expected.log_probs).max(1.0);
    let difference = largest_difference(&found.log_probs, &expected.log_probs) / scale;
    assert!(
        difference < 2e-6,
        "{what}: log-probabilities differ by {difference}"
    );
    let difference = largest_difference(&found.entropies, &expected.entropies);
    assert!(
        difference < 1e-5,
        "{what}: entropies differ by {difference}"
    );
    let steepest = expected
        .gradients
        .iter()
        .map(|gradient| largest(gradient))
        .fold(0.0, f32::max);
    for (index, (f, e)) in found.gradients.iter().zip(&expected.gradients).enumerate() {
        assert_eq!(f.len(), e.len(), "{what}: gradient {index}");
        assert!(
            expected.frozen[index] || largest(e) > 0.0,
            "{what}: parameter {index} has no gradient to compare"
        );
        // Sums over two hundred tokens in another order; a key's bias has a gradient that is rounding alone.
        let allowed = 2e-5 * largest(e).max(1e-2 * steepest);
        let difference = largest_difference(f, e);
        assert!(
            difference < allowed,
            "{what}: gradient {index} differs by {difference}, over {allowed}"
        );
    }
}

const MODES: [Recompute; 3] = [Recompute::Nothing, Recompute::FeedForward, Recompute::Block];

fn check(model: &CausalLm, name: &str) {
    let plain = Execution {
        plain: true,
        ..Execution::default()
    };
    for temperature in [1.0, 0.7] {
        let expected = outcome(model, plain, temperature);
        let mut first: Option<Outcome> = None;
        for recompute in MODES {
            let found = outcome(
                model,
                Execution {
                    recompute,
                    ..Execution::default()
                },
                temperature,
            );
            assert_same(
                &found,
                &expected,
                &format!("{name}, {recompute:?}, temperature {temperature}"),
            );
            // What is computed again is computed alike: the same bits.
            if let Some(first) = &first {
                assert_eq!(found.log_probs, first.log_probs, "{name}, {recompute:?}");
                assert_eq!(found.gradients, first.gradients, "{name}, {recompute:?}");
            }
            first = Some(found);
        }
    }
}

#[test]
fn every_family_has_the_plain_forms_values_and_gradients() {
    for folder in [
        "llama-tied",
        "llama3-rope-scaled",
        "mistral-sliding",
        "qwen2-sharded",
        "qwen3",
    ] {
        let dir = tests::data("models").join(folder);
        let policy = Policy::load(&dir, DType::F32, &Device::flex().autodiff()).unwrap();
        check(&policy.model, folder);
    }
}

/// Every parameter another value, biases too.
struct Wave(f32);

impl ModuleMapper for Wave {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1.0;
        let shape = param.lazy_shape();
        let values: Vec<f32> = (0..shape.num_elements())
            .map(|i| 0.2 * (i as f32 * 1.7 + self.0).sin())
            .collect();
        let data = TensorData::new(values, shape);
        param.map(|tensor| Tensor::from_data(data, &tensor.device()).require_grad())
    }
}

#[test]
fn biases_everywhere_and_odd_sizes_are_no_exception() {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 61, "hidden_size": 20,
        "intermediate_size": 27, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 6, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": false, "torch_dtype": "float32",
    });
    let config = ModelConfig::from_json(&config, Path::new("config.json")).unwrap();
    let model = CausalLm::new(&config, &Device::flex().autodiff()).map(&mut Wave(0.0));
    check(&model, "biases");
}

/// Every trained parameter another value.
struct TrainedWave(Wave);

impl ModuleMapper for TrainedWave {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if param.base().is_require_grad() {
            self.0.map_float(param)
        } else {
            param
        }
    }
}

#[test]
fn adapters_learn_while_the_weights_beneath_are_frozen() {
    let dir = tests::data("models").join("qwen3");
    let policy = Policy::load(&dir, DType::F32, &Device::flex().autodiff()).unwrap();
    let projections = ParamGroup::from_predicate("_proj");
    let model = policy
        .model
        .apply_lora(Lora::new(2, 4.0).set_param_group(projections))
        .map(&mut TrainedWave(Wave(0.0)));
    let outcome = outcome(&model, Execution::default(), 1.0);
    // Two factors of each of a block's seven projections.
    let trained = outcome.frozen.iter().filter(|frozen| !**frozen).count();
    assert_eq!(trained, 2 * 7 * policy.config.num_hidden_layers);
    for (frozen, gradient) in outcome.frozen.iter().zip(&outcome.gradients) {
        assert_eq!(*frozen, gradient.is_empty());
    }
    check(&model, "adapters");
}

/// Rounding operands to bf16 moves figures by its own size and no more, the same bits whatever is computed again.
#[test]
fn bf16_stays_within_its_rounding() {
    let dir = tests::data("models").join("qwen3");
    let policy = Policy::load(&dir, DType::F32, &Device::flex().autodiff()).unwrap();
    let exact = outcome(&policy.model, Execution::default(), 1.0);
    let rounded = MODES.map(|recompute| {
        let execution = Execution {
            recompute,
            compute: Compute::Bf16,
            ..Execution::default()
        };
        outcome(&policy.model, execution, 1.0)
    });
    for mode in &rounded[1..] {
        assert_eq!(mode.log_probs, rounded[0].log_probs);
        assert_eq!(mode.gradients, rounded[0].gradients);
    }
    // bf16 has eight binary digits; the tiny model's layers add up to some of their roundings.
    let allowed = 0.05;
    let change = largest_difference(&rounded[0].entropies, &exact.entropies);
    assert!(
        change > 0.0 && change < allowed * largest(&exact.entropies),
        "{change}"
    );
    for (found, expected) in rounded[0].gradients.iter().zip(&exact.gradients) {
        let dot: f32 = found.iter().zip(expected).map(|(a, b)| a * b).sum();
        let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        let cosine = dot / (norm(found) * norm(expected));
        assert!(cosine > 0.98, "a gradient's direction is kept to {cosine}");
    }
}
