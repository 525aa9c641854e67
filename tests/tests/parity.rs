//! Every device gives the same figures: log-probabilities, entropies, losses, gradients, generation and whole steps,
//! against references in float64 and against the CPU.
//!
//! `ANNEAL_DEVICE` names the device, `flex` by default; the tests crate's features build the others in:
//!
//! ```sh
//! ANNEAL_DEVICE=wgpu cargo test --release --workspace --features cli/wgpu,tests/wgpu --test parity
//! ```
#![allow(clippy::unwrap_used, reason = "a broken test fails")]
#![allow(
    clippy::print_stderr,
    reason = "which device was tested belongs to the result"
)]

use std::{collections::BTreeMap, path::Path, sync::OnceLock};

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{DType, Device, Tensor},
};
use losses::{
    Aggregation, LossConfig, LossInputs, ObjectiveConfig, OptionalInputs, PolicyObjective, PpoClip,
    Selections,
    replay::{Case, RELATIVE_TOLERANCE},
};
use policy::{
    CausalLm, EntropyPass, Execution, HeadOptions, LoraConfig, LoraTarget, PackedTokens, Policy,
    SaveDtype, import_adapter, open_device,
};
use rollout::{Engine, EngineOptions, Generator, Request, Rollout, SampleKey, SamplingParams};
use serde::Deserialize;
use trainer::{Event, RunFolder, StepMetrics, TrainConfig, Trainer, bundled_base, resume_policy};

/// The device under test, tried out once.
fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || {
        let name = std::env::var("ANNEAL_DEVICE").unwrap_or_else(|_| "flex".into());
        let device = open_device(&name).unwrap_or_else(|error| panic!("{error}"));
        eprintln!("parity on {name}");
        device
    };
    DEVICE.get_or_init(open).clone()
}

const FOLDERS: [&str; 5] = [
    "llama-tied",
    "llama3-rope-scaled",
    "mistral-sliding",
    "qwen2-sharded",
    "qwen3",
];

/// Those that have PEFT's adapters too.
const ADAPTED: [&str; 3] = ["llama-tied", "qwen2-sharded", "qwen3"];

/// What transformers and torch gave in float64 (`tests/data/parity/make.py`).
#[derive(Deserialize)]
struct Golden {
    temperature: f64,
    clip: f64,
    prompts: Vec<Vec<u32>>,
    responses: Vec<Vec<u32>>,
    old_log_probs: Vec<Vec<f32>>,
    advantages: Vec<Vec<f32>>,
    log_probs: Vec<Vec<f64>>,
    entropies: Vec<Vec<f64>>,
    entropies_at_temperature: Vec<Vec<f64>>,
    loss: f64,
    gradients: BTreeMap<String, GoldenGradient>,
}

#[derive(Deserialize)]
struct GoldenGradient {
    norm: f64,
    projection: f64,
}

fn golden(folder: &str) -> Golden {
    let path = tests::data("parity").join(format!("{folder}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn load(folder: &str, device: &Device) -> Policy {
    let dir = tests::data("models").join(folder);
    Policy::load(&dir, DType::F32, device).unwrap()
}

/// How far figures may be from float64's.
#[derive(Clone, Copy)]
struct Tolerance {
    /// Of log-probabilities and entropies, in nats. The tiny models' logits reach a hundred, and with them the steps
    /// between neighbouring floats.
    nats: f64,
    /// Of a gradient's norm and projection, relative to the norm, or to a share of the largest one.
    gradient: f64,
}

/// Float32: sums in another order than torch's.
const SINGLE: Tolerance = Tolerance {
    nats: 1e-4,
    gradient: 1e-3,
};
/// Bf16 has 8 binary digits, f16 has 11: logits near 100 have steps of 0.5 and 0.06, and layers add up their roundings.
/// Torch's own bf16 is up to 0.24 nats and 0.55 of a gradient off on these models, and its f16 0.024 and 0.013
/// (`tests/data/parity/half_precision.py`).
const BF16: Tolerance = Tolerance {
    nats: 0.5,
    gradient: 0.25,
};
/// Of the two models on which torch's bf16 gradients are further off than that.
const QWEN_BF16: Tolerance = Tolerance {
    gradient: 0.6,
    ..BF16
};
const F16: Tolerance = Tolerance {
    nats: 0.2,
    gradient: 0.05,
};

/// Burn's own products on this device: f32 where it multiplies as it is, and the ten digits of tf32, as many as f16's, where
/// a GPU's matrix units round what they read. The kernels' are exact.
fn of_plain_products() -> Tolerance {
    // 1 + 2⁻¹³ squared: the smallest term is beyond tf32's digits.
    let x = Tensor::<2>::full([64, 64], 1.0 + 1.0 / 8192.0, (&device(), DType::F32));
    let product = x.clone().matmul(x).try_into_vec_as::<f32>().unwrap();
    if product[0] > 64.0 { SINGLE } else { F16 }
}

struct Found {
    log_probs: Vec<f32>,
    entropies: Vec<f32>,
    entropies_at_temperature: Vec<f32>,
    loss: f32,
    gradients: BTreeMap<String, Vec<f32>>,
}

/// Each parameter's gradient by its Hugging Face name, in that format's order of elements.
struct Gradients<'a> {
    all: &'a GradientsParams,
    path: Vec<String>,
    named: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Gradients<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".").replace(".gamma", ".weight");
        let gradient = self.all.get::<D>(param.id);
        if !param.base().is_require_grad() {
            assert!(gradient.is_none(), "{name} is frozen");
            return;
        }
        let gradient = gradient.unwrap_or_else(|| panic!("{name} has no gradient"));
        let name = peft_name(&name).unwrap_or(name);
        // A linear layer's weight is [inputs, outputs] here, and the other way round there.
        let is_linear = D == 2 && !name.contains("embed_tokens");
        let gradient = if is_linear {
            gradient.transpose()
        } else {
            gradient
        };
        let cells = gradient.into_data().convert::<f32>();
        self.named.insert(name, cells.iter::<f32>().collect());
    }
}

/// A factor of an adapter as PEFT names it.
fn peft_name(name: &str) -> Option<String> {
    let of = |end, factor| {
        let layer = name.strip_suffix(end)?;
        Some(format!("base_model.model.{layer}.{factor}.default.weight"))
    };
    of(".weight.lora.a", "lora_A").or_else(|| of(".weight.lora.b", "lora_B"))
}

/// Log-probabilities, entropies, the clipped loss and its gradient.
///
/// All blocks' graphs are kept for the way back, or those of the last few, as training does it.
fn found(model: &CausalLm, golden: &Golden, dtype: DType, kept: Option<usize>) -> Found {
    let model = model.clone().fork(&model.device());
    let computing = model.clone().cast(dtype);
    let sequences = golden.prompts.iter().zip(&golden.responses);
    let tokens = PackedTokens::new(sequences.map(|(p, r)| (p.as_slice(), r.as_slice())));
    let options = HeadOptions {
        temperature: golden.temperature,
        entropy: EntropyPass::Values,
    };
    let (hidden, blocks) = match kept {
        Some(kept) => {
            let (hidden, blocks) = model.block_states(&tokens, dtype, kept);
            (hidden, Some(blocks))
        }
        None => (computing.response_states(&tokens), None),
    };
    let scores = computing.score_tokens(hidden, tokens.targets(), options);
    let read = |tensor: &Tensor<1>| tensor.clone().without_autodiff().try_into_vec_as::<f32>();
    let (log_probs, entropies, at_temperature) = (
        read(&scores.log_probs).unwrap(),
        read(scores.entropies.as_ref().unwrap()).unwrap(),
        read(scores.entropies_at_temperature.as_ref().unwrap()).unwrap(),
    );
    let device = model.device();
    // All response tokens in one row: the mean over tokens does not know of rows.
    let row = |rows: &[Vec<f32>]| {
        Tensor::<1>::from_data(rows.concat().as_slice(), &device).reshape([1, -1])
    };
    let mask = vec![1.0; log_probs.len()];
    let config = ObjectiveConfig {
        loss: LossConfig::PpoClip(PpoClip {
            clip_low: golden.clip,
            clip_high: golden.clip,
            dual_clip: None,
        }),
        aggregation: Some(Aggregation::TokenMean),
        ..ObjectiveConfig::default()
    };
    let objective = PolicyObjective::new(config, losses::EntropyControl::default()).unwrap();
    let inputs = LossInputs {
        log_probs: scores.log_probs.reshape([1, -1]),
        old_log_probs: row(&golden.old_log_probs),
        advantages: row(&golden.advantages),
        mask: Tensor::<1>::from_data(mask.as_slice(), &device).reshape([1, -1]),
        optional: OptionalInputs::default(),
    };
    let denominator = objective.denominator(&mask, mask.len());
    let selections = Selections::default().to_device(&(0..1), mask.len(), &device);
    let output = objective.evaluate(&inputs, &selections, &denominator, 0.0);
    let loss = read(&output.loss).unwrap()[0];
    let mut gradients = output.loss.backward();
    let mut total = GradientsAccumulator::<CausalLm>::default();
    total.accumulate(&model, GradientsParams::from_module(&mut gradients, &model));
    if let Some(blocks) = blocks {
        blocks.backward(&model, &mut gradients, |part| {
            total.accumulate(&model, part);
        });
    }
    let gradients = total.grads();
    let mut visitor = Gradients {
        all: &gradients,
        path: Vec::new(),
        named: BTreeMap::new(),
    };
    model.visit(&mut visitor);
    Found {
        log_probs,
        entropies,
        entropies_at_temperature: at_temperature,
        loss,
        gradients: visitor.named,
    }
}

fn largest_difference(found: &[f32], expected: &[Vec<f64>]) -> f64 {
    let expected = expected.concat();
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected);
    // NaN must not be lost in a maximum.
    differences
        .map(|(found, expected)| (f64::from(*found) - expected).abs())
        .fold(0.0, |a, b| if a >= b || a.is_nan() { a } else { b })
}

fn assert_near(what: &str, found: &Found, golden: &Golden, tolerance: Tolerance) {
    let nats = [
        ("log-probability", &found.log_probs, &golden.log_probs),
        ("entropy", &found.entropies, &golden.entropies),
        (
            "entropy at the temperature",
            &found.entropies_at_temperature,
            &golden.entropies_at_temperature,
        ),
    ];
    for (name, found, expected) in nats {
        let difference = largest_difference(found, expected);
        assert!(
            difference < tolerance.nats,
            "{what}: a {name} is {difference:e} nats off, {:e} allowed",
            tolerance.nats
        );
    }
    let difference = (f64::from(found.loss) - golden.loss).abs();
    assert!(
        difference < tolerance.nats,
        "{what}: the loss is {difference:e} off"
    );
    let names = |keys: Vec<&String>| keys.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(found.gradients.keys().collect()),
        names(golden.gradients.keys().collect()),
        "{what}"
    );
    let largest = golden
        .gradients
        .values()
        .map(|g| g.norm)
        .fold(0.0, f64::max);
    for (name, expected) in &golden.gradients {
        let gradient = &found.gradients[name];
        let norm = gradient
            .iter()
            .map(|&g| f64::from(g).powi(2))
            .sum::<f64>()
            .sqrt();
        let wave = gradient.iter().enumerate();
        let projection: f64 = wave.map(|(i, &g)| f64::from(g) * (i as f64).cos()).sum();
        // A key's bias has a gradient that is rounding alone: it is held against a share of the others'.
        let allowed = tolerance.gradient * expected.norm.max(1e-2 * largest);
        for (figure, found, expected) in [
            ("norm", norm, expected.norm),
            ("projection", projection, expected.projection),
        ] {
            let difference = (found - expected).abs();
            assert!(
                difference < allowed,
                "{what}: the gradient of {name} has {figure} {found}, not {expected}"
            );
        }
    }
}

/// A policy with the adapters that PEFT saved for it.
fn adapted(folder: &str, device: &Device) -> Policy {
    use LoraTarget::{DownProj, GateProj, OProj, QProj, VProj};
    let targets = match folder {
        "qwen3" => vec![QProj, VProj, OProj, GateProj, DownProj],
        _ => LoraTarget::ALL.to_vec(),
    };
    let config = LoraConfig {
        rank: 3,
        alpha: 4.5,
        targets,
    };
    let mut policy = load(folder, device);
    let model = policy.model.with_lora(&config, 1);
    let dir = tests::data("parity").join(format!("{folder}-lora"));
    policy.model = model.load_adapters(&dir).unwrap();
    policy
}

/// Every model by the name of its golden values.
fn models() -> Vec<(String, CausalLm)> {
    let device = device().autodiff();
    let policies = policies(&device).into_iter();
    policies
        .map(|(name, policy)| (name, policy.model))
        .collect()
}

fn policies(device: &Device) -> Vec<(String, Policy)> {
    let whole = FOLDERS.map(|folder| (folder.to_owned(), load(folder, device)));
    let adapted = ADAPTED.map(|folder| (format!("{folder}-lora"), adapted(folder, device)));
    whole.into_iter().chain(adapted).collect()
}

/// Blocks whose graphs are kept: all, without a pass for it; or, of a model's two, none or the last.
const KEPT: [Option<usize>; 3] = [None, Some(0), Some(1)];

fn plain() -> Execution {
    Execution {
        plain: true,
        ..Execution::default()
    }
}

#[test]
fn merged_adapters_are_the_same_policy() {
    for folder in ADAPTED {
        let golden = golden(&format!("{folder}-lora"));
        let merged = adapted(folder, &device()).model.merged();
        let merged = log_probs(&merged, &golden);
        let difference = largest_difference(&merged, &golden.log_probs);
        assert!(difference < SINGLE.nats, "{folder}: {difference:e}");
    }
}

/// What PEFT saved, with the settings that it saves, imported as a model.
#[test]
fn an_imported_adapter_is_the_same_policy() {
    for folder in ADAPTED {
        let dir = tempfile::tempdir().unwrap();
        let adapter = dir.path().join("adapter");
        std::fs::create_dir(&adapter).unwrap();
        let tensors = "adapter_model.safetensors";
        let saved = tests::data("parity").join(format!("{folder}-lora"));
        std::fs::copy(saved.join(tensors), adapter.join(tensors)).unwrap();
        let settings = serde_json::json!({
            "peft_type": "LORA", "base_model_name_or_path": "of another machine", "r": 3, "lora_alpha": 4.5,
            "bias": "none", "use_dora": false, "modules_to_save": null, "rank_pattern": {}, "use_rslora": false,
            "target_modules": "all-linear",
        });
        let file = adapter.join("adapter_config.json");
        std::fs::write(file, settings.to_string()).unwrap();
        let (base, out) = (tests::data("models").join(folder), dir.path().join("out"));
        import_adapter(&adapter, base.to_str(), &out, SaveDtype::F32).unwrap();
        let golden = golden(&format!("{folder}-lora"));
        let policy = Policy::load(&out, DType::F32, &device()).unwrap();
        let difference = largest_difference(&log_probs(&policy.model, &golden), &golden.log_probs);
        assert!(difference < SINGLE.nats, "{folder}: {difference:e}");
    }
}

/// Tensors of one block alone, or of none, are no adapter that is merged.
#[test]
fn an_adapter_of_some_blocks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = r#"{"peft_type": "LORA", "r": 3, "lora_alpha": 4.5}"#;
    std::fs::write(dir.path().join("adapter_config.json"), settings).unwrap();
    let tensors = "adapter_model.safetensors";
    let whole = std::fs::read(tests::data("parity/qwen3-lora").join(tensors)).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&whole).unwrap();
    for (block, word) in [("layers.0.", "some blocks alone"), ("nothing", "no layer")] {
        let kept = whole.tensors().into_iter();
        let kept: Vec<_> = kept.filter(|(name, _)| name.contains(block)).collect();
        let bytes = safetensors::serialize(kept, None).unwrap();
        std::fs::write(dir.path().join(tensors), bytes).unwrap();
        let (base, out) = (tests::data("models/qwen3"), dir.path().join("out"));
        let refused = import_adapter(dir.path(), base.to_str(), &out, SaveDtype::F32);
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("target_modules") && refused.contains(word),
            "{refused}"
        );
        assert!(!out.exists());
    }
}

/// Log-probabilities alone.
fn log_probs(model: &CausalLm, golden: &Golden) -> Vec<f32> {
    let sequences = golden.prompts.iter().zip(&golden.responses);
    let tokens = PackedTokens::new(sequences.map(|(p, r)| (p.as_slice(), r.as_slice())));
    let options = HeadOptions {
        temperature: golden.temperature,
        entropy: EntropyPass::Skip,
    };
    let states = model.response_states(&tokens);
    let scores = model.score_tokens(states, tokens.targets(), options);
    let log_probs = scores.log_probs.without_autodiff();
    log_probs.try_into_vec_as::<f32>().unwrap()
}

#[test]
fn log_probs_entropies_loss_and_gradients_are_those_of_float64() {
    for (name, model) in models() {
        let golden = golden(&name);
        for (form, execution, tolerance) in [
            ("fast", Execution::default(), SINGLE),
            ("plain", plain(), of_plain_products()),
        ] {
            let model = model.clone().with_execution(execution);
            for kept in KEPT {
                let found = found(&model, &golden, DType::F32, kept);
                let what = format!("{name}, {form}, {kept:?} blocks kept");
                assert_near(&what, &found, &golden, tolerance);
            }
        }
    }
}

/// Weights in f32, the model computed in half precision, as training does it on a device that has the type.
#[test]
fn half_precision_stays_within_its_rounding() {
    let mut tried = 0;
    for (dtype, tolerance) in [(DType::BF16, BF16), (DType::F16, F16)] {
        if device() == Device::flex() || !device().supports_dtype(dtype) {
            continue;
        }
        tried += 1;
        for (name, model) in models() {
            let golden = golden(&name);
            for kept in KEPT {
                let is_qwen = name.starts_with("qwen");
                let tolerance = if is_qwen && dtype == DType::BF16 {
                    QWEN_BF16
                } else {
                    tolerance
                };
                let found = found(&model, &golden, dtype, kept);
                let what = format!("{name}, {dtype:?}, {kept:?} blocks kept");
                assert_near(&what, &found, &golden, tolerance);
            }
        }
    }
    eprintln!("half precision: {tried} types");
}

#[test]
fn how_many_blocks_are_kept_changes_no_bit() {
    // On the CPU blocks have a form of their own.
    if device() == Device::flex() {
        return;
    }
    let types = [DType::F32, DType::F16, DType::BF16];
    for dtype in types
        .into_iter()
        .filter(|&dtype| device().supports_dtype(dtype))
    {
        for (name, model) in models() {
            let golden = golden(&name);
            let [none, one, all] = [0, 1, usize::MAX].map(|kept| {
                let found = found(&model, &golden, dtype, Some(kept));
                (found.log_probs, found.gradients)
            });
            assert!(none == one && none == all, "{name}, {dtype:?}");
        }
    }
}

/// The gradient of log-probabilities and entropies, weighted from token to token so that no two mistakes cancel.
fn entropy_gradient(folder: &str, device: &Device) -> Vec<f32> {
    let policy = load(folder, &device.clone().autodiff());
    let golden = golden(folder);
    let model = policy.model.clone().fork(&policy.model.device());
    let sequences = golden.prompts.iter().zip(&golden.responses);
    let tokens = PackedTokens::new(sequences.map(|(p, r)| (p.as_slice(), r.as_slice())));
    let options = HeadOptions {
        temperature: golden.temperature,
        entropy: EntropyPass::Gradient,
    };
    let scores = model.score_tokens(model.response_states(&tokens), tokens.targets(), options);
    let count = tokens.targets().len();
    let weights: Vec<f32> = (0..count)
        .map(|i| ((i * 37 % 19) as f32 - 8.0) / 19.0)
        .collect();
    let weights = Tensor::<1>::from_data(weights.as_slice(), &model.device());
    let entropies = scores.entropies.unwrap();
    let loss = (scores.log_probs * weights.clone()).sum() + (entropies * weights * 0.3).sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let mut visitor = Gradients {
        all: &gradients,
        path: Vec::new(),
        named: BTreeMap::new(),
    };
    model.visit(&mut visitor);
    visitor.named.into_values().flatten().collect()
}

#[test]
fn entropies_have_the_gradients_that_they_have_on_the_cpu() {
    for folder in FOLDERS {
        let found = entropy_gradient(folder, &device());
        let expected = entropy_gradient(folder, &Device::flex());
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let apart = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)).sqrt();
        let size = norm(&mut expected.iter().copied()).sqrt();
        assert!(
            apart < SINGLE.gradient * size,
            "{folder}: {apart} apart, of {size}"
        );
    }
}

#[test]
fn every_loss_and_advantage_is_its_reference() {
    let mut cases = 0;
    for entry in std::fs::read_dir(tests::data("golden")).unwrap() {
        let path = entry.unwrap().path();
        let case: Case = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let replayed = case.replay(&device()).unwrap();
        let (name, error) = (path.display(), replayed.max_relative_error);
        assert!(
            replayed.is_equal(),
            "{name}: relative error {error}, allowed {RELATIVE_TOLERANCE}"
        );
        cases += 1;
    }
    assert_eq!(cases, 90);
}

fn requests(folder: &str) -> Vec<Request> {
    let prompts = golden(folder).prompts;
    let samples = prompts.into_iter().enumerate();
    samples
        .map(|(sample, prompt_ids)| Request {
            prompt_ids,
            key: SampleKey {
                seed: 3,
                step: 1,
                row: 0,
                sample: sample as u64,
            },
        })
        .collect()
}

fn sampled(policy: &Policy, folder: &str, params: &SamplingParams) -> Vec<Rollout> {
    let options = EngineOptions {
        batch_rows: 4,
        ..EngineOptions::default()
    };
    let engine = Engine::new(policy, &policy.model, options);
    engine
        .generate(&requests(folder), params, &mut |_| ())
        .unwrap()
}

/// Six requests in four rows: rows end and are filled again.
#[test]
fn a_seed_samples_the_same_tokens_as_on_the_cpu() {
    let truncated = SamplingParams {
        max_new_tokens: 24,
        temperature: 1.3,
        top_k: 20,
        top_p: 0.9,
        min_p: 0.01,
        ..SamplingParams::default()
    };
    let plain = SamplingParams {
        max_new_tokens: 24,
        ..SamplingParams::default()
    };
    let greedy = SamplingParams {
        temperature: 0.0,
        ..plain.clone()
    };
    let cpu = policies(&Device::flex());
    for ((name, here), (_, cpu)) in policies(&device()).iter().zip(&cpu) {
        for params in [&plain, &truncated, &greedy] {
            let (found, expected) = (sampled(here, name, params), sampled(cpu, name, params));
            for (found, expected) in found.iter().zip(&expected) {
                // One draw in some ten thousand falls where rounding decides; here none does.
                assert_eq!(
                    found.response_ids, expected.response_ids,
                    "{name}, {params:?}"
                );
                assert_eq!(found.finish, expected.finish);
                let pairs = found
                    .sampler_log_probs
                    .iter()
                    .zip(&expected.sampler_log_probs);
                let entropies = found
                    .sampler_entropies
                    .iter()
                    .zip(&expected.sampler_entropies);
                for (found, expected) in pairs.chain(entropies) {
                    let difference = f64::from((found - expected).abs());
                    assert!(difference < SINGLE.nats, "{name}: {found}, not {expected}");
                }
            }
        }
    }
}

/// A run of two steps, and every weight at its end.
fn run(device: &Device, settings: &[&str], out: &Path) -> (Vec<StepMetrics>, Vec<f32>) {
    let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    let config = TrainConfig::load(None, &settings).unwrap();
    let policy = bundled_base(DType::F32, &device.clone().autodiff()).unwrap();
    let mut trainer = Trainer::new(config.clone(), policy).unwrap();
    let mut folder = RunFolder::create(out, &config).unwrap();
    let mut lines = Vec::new();
    trainer
        .run(&mut folder, &mut |event: Event<'_>| {
            if let Event::Step(metrics) = event {
                lines.push(metrics.clone());
            }
        })
        .unwrap();
    let mut weights = Weights(Vec::new());
    let model = trainer.policy().model.valid();
    model.merged_as(DType::F32).visit(&mut weights);
    (lines, weights.0)
}

struct Weights(Vec<f32>);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.extend(param.val().into_data().iter::<f32>());
    }
}

/// A rollout, its scores, two updates: the same figures, and the same weights within what the updates moved them.
#[test]
fn whole_steps_are_those_of_the_cpu() {
    const STEPS: [&str; 9] = [
        "optimizer.warmup_steps=0",
        "steps=1",
        "rollout.prompts_per_step=8",
        "rollout.group_size=4",
        "rollout.filter_groups=false",
        "update.mini_batch_prompts=4",
        "validation.problems=0",
        "checkpoint.rollouts=false",
        "optimizer.learning_rate=1e-4",
    ];
    let dir = tempfile::tempdir().unwrap();
    for loss in ["loss.type=ppo_clip", "loss.type=kl_cov", "lora.rank=4"] {
        let settings = [&STEPS[..], &[loss]].concat();
        let of = |device: &Device, name: &str| {
            run(
                device,
                &settings,
                &dir.path().join(format!("{loss}-{name}")),
            )
        };
        let (found, weights) = of(&device(), "device");
        let (expected, cpu_weights) = of(&Device::flex(), "cpu");
        let start = bundled_base(DType::F32, &Device::flex()).unwrap();
        let mut before = Weights(Vec::new());
        start.model.visit(&mut before);
        let (found, expected) = (found.last().unwrap(), expected.last().unwrap());
        let rewards = [found.reward_mean, expected.reward_mean].map(f64::to_bits);
        assert_eq!(rewards[0], rewards[1], "the same answers");
        assert_eq!(found.tokens_generated, expected.tokens_generated);
        for (name, found, expected) in [
            (
                "entropy",
                found.entropy_token_mean,
                expected.entropy_token_mean,
            ),
            ("loss", found.policy_loss, expected.policy_loss),
            ("gradient norm", found.grad_norm, expected.grad_norm),
        ] {
            let difference = (found - expected).abs();
            assert!(difference < 1e-4, "{loss}: {name} {found}, not {expected}");
        }
        // Adam's first update moves a weight by the rate times its gradient's sign, and the sign of a gradient that is
        // rounding alone is anyone's: so the change as a whole is compared.
        let change = |weights: &[f32]| -> Vec<f64> {
            let pairs = weights.iter().zip(&before.0);
            pairs
                .map(|(after, before)| f64::from(after - before))
                .collect()
        };
        let (found, expected) = (change(&weights), change(&cpu_weights));
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let difference: Vec<f64> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        let (moved, apart) = (norm(&expected), norm(&difference));
        assert!(moved > 0.0);
        assert!(
            apart < 0.02 * moved,
            "{loss}: weights moved {moved}, and {apart} apart"
        );
    }
}

/// Adapters over weights that are held in half precision, from a checkpoint: the same merged weights to the bit.
#[test]
fn adapters_go_on_from_a_checkpoint() {
    let types = [DType::F32, DType::F16, DType::BF16];
    for dtype in types
        .into_iter()
        .filter(|&dtype| device().supports_dtype(dtype))
    {
        let dir = tempfile::tempdir().unwrap();
        let name = match dtype {
            DType::F16 if device() == Device::flex() => continue,
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            _ => "f32",
        };
        let settings = [
            "steps=1",
            "lora.rank=2",
            "loss.reference_kl.coef=0.1",
            "rollout.prompts_per_step=2",
            "rollout.group_size=2",
            "rollout.max_new_tokens=8",
            "rollout.filter_groups=false",
            "validation.problems=0",
            // Something to learn whatever the answers are.
            "entropy.bonus.coef=0.1",
            &format!("model.dtype={name}"),
        ];
        let (_, weights) = run(&device(), &settings, &dir.path().join("run"));
        let settings = settings.map(str::to_owned);
        let config = TrainConfig::load(None, &settings).unwrap();
        let checkpoint = dir.path().join("run/checkpoints/step-000001");
        let policy = resume_policy(&config, &checkpoint, &device().autodiff()).unwrap();
        let mut trainer = Trainer::new(config, policy).unwrap();
        let merged = |trainer: &Trainer| {
            let mut weights = Weights(Vec::new());
            trainer
                .policy()
                .model
                .valid()
                .merged_as(DType::F32)
                .visit(&mut weights);
            weights.0
        };
        assert!(merged(&trainer) != weights, "{name}: nothing was learnt");
        trainer.load_state(&checkpoint).unwrap();
        assert!(merged(&trainer) == weights, "{name}");
    }
}

/// In f16, whose smallest numbers are larger than many gradients, a loss is scaled up before its way back.
#[test]
fn a_run_in_f16_moves_weights_as_one_in_f32_does() {
    if device() == Device::flex() || !device().supports_dtype(DType::F16) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for of in ["optimizer.max_grad_norm=1", "lora.rank=4"] {
        a_run_in_f16_moves_the_same(of, dir.path());
    }
}

fn a_run_in_f16_moves_the_same(setting: &str, dir: &Path) {
    let of = |dtype: &str| {
        let settings = [
            setting,
            "steps=1",
            "optimizer.warmup_steps=0",
            "rollout.prompts_per_step=4",
            "rollout.group_size=4",
            "rollout.filter_groups=false",
            "update.mini_batch_prompts=4",
            "validation.problems=0",
            "checkpoint.rollouts=false",
            // The same answers in both.
            "rollout.temperature=0.02",
            dtype,
        ];
        run(
            &device(),
            &settings,
            &dir.join(format!("{setting}-{dtype}")),
        )
    };
    let (single, _) = of("model.dtype=f32");
    let (half, _) = of("model.dtype=f16");
    let (single, half) = (single.last().unwrap(), half.last().unwrap());
    assert_eq!(half.skipped_updates, 0);
    let apart = (half.grad_norm - single.grad_norm).abs();
    assert!(
        apart <= 0.1 * single.grad_norm + 1e-3,
        "a gradient of norm {} in f16 is {} in f32",
        half.grad_norm,
        single.grad_norm
    );
}
