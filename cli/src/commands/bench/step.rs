//! `anneal bench step`.

use std::path::Path;

use anyhow::{Result, bail};
use burn::tensor::{DType, Device};
use policy::{ModelConfig, Policy};
use serde::Serialize;
use serde_json::{Map, Value, json};
use trainer::{Event, Observer, Rehearsal, TrainConfig, Trainer, bundled_tokenizer, load_policy};

use super::guard::{Bounds, reference_seconds};
use crate::{
    args::BenchStepArgs,
    commands::{print_json, say},
    device, progress,
};

/// What a step cost. Tokens a second are of the responses: sampled, and learnt from.
#[derive(Debug, Clone, Copy, Serialize)]
struct Cost {
    generate_seconds: f64,
    update_seconds: f64,
    step_seconds: f64,
    generated_tokens_per_second: f64,
    trained_tokens_per_second: f64,
    /// The most memory that the process has held so far; absent where the system does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_bytes: Option<u64>,
}

pub(crate) fn run(args: BenchStepArgs) -> Result<()> {
    let bounds = args.compare.as_deref().map(Bounds::read).transpose()?;
    let device = device::parse(&args.device.device)?.autodiff();
    let policy = match &args.model {
        Some(name) => load_policy(name, DType::F32, &device)?,
        None => random_model(args.random_model.as_deref().unwrap_or("135m"), &device)?,
    };
    let size = Rehearsal {
        prompts: args.prompts as usize,
        prompt_tokens: args.prompt_tokens as usize,
        response_tokens: args.response_tokens as usize,
    };
    let context = policy.config.max_position_embeddings;
    let length = size.prompt_tokens + size.response_tokens;
    if length > context {
        bail!(
            "--prompt-tokens and --response-tokens come to {length}; the model's context holds {context}"
        );
    }
    let mut trainer = Trainer::new(config(&args)?, policy)?;
    let bar = progress::bar(u64::from(args.steps), "steps");
    let tokens = (size.prompts * args.group as usize * size.response_tokens) as f64;
    let mut costs = Vec::new();
    for step in 1..=args.steps {
        let metrics = trainer.rehearse(&size, &mut Quiet)?;
        let cost = Cost {
            generate_seconds: metrics.generate_seconds,
            update_seconds: metrics.update_seconds,
            step_seconds: metrics.step_seconds,
            generated_tokens_per_second: tokens / metrics.generate_seconds,
            trained_tokens_per_second: tokens / metrics.update_seconds,
            peak_rss_bytes: peak_rss_bytes(),
        };
        bar.inc(1);
        print_json(&labelled(&cost, "step", json!(step))?)?;
        costs.push(cost);
    }
    bar.finish_and_clear();
    let mut medians = labelled(&medians(&costs), "median_of_steps", json!(args.steps))?;
    if bounds.is_some() {
        medians.insert("reference_seconds".into(), json!(reference_seconds()));
    }
    print_json(&medians)?;
    bounds.map_or(Ok(()), |bounds| bounds.check(&medians))
}

/// A run's configuration of the asked size: one update over all that was sampled.
fn config(args: &BenchStepArgs) -> Result<TrainConfig> {
    let settings = [
        format!("model.path={}", args.model.as_deref().unwrap_or("random")),
        format!("model.dtype={}", args.dtype),
        format!("rollout.prompts_per_step={}", args.prompts),
        format!("rollout.group_size={}", args.group),
        format!("rollout.max_new_tokens={}", args.response_tokens.min(64)),
        format!("update.mini_batch_prompts={}", args.prompts),
    ];
    rehearsal_config(settings.into_iter().chain(args.overrides.iter().cloned()))
}

/// A configuration whose steps are rehearsed, of a pretrained model's defaults.
pub(super) fn rehearsal_config(settings: impl Iterator<Item = String>) -> Result<TrainConfig> {
    let fixed = [
        "model.path=random".to_owned(),
        // A constant rate: the first steps of a warm-up would move nothing.
        "optimizer.warmup_steps=0".to_owned(),
    ];
    let overrides: Vec<String> = fixed.into_iter().chain(settings).collect();
    Ok(TrainConfig::load(None, &overrides)?)
}

/// A model with random weights, of the sizes of SmolLM2-135M, of Qwen2.5-0.5B or, tiny, of the bundled base.
pub(super) fn random_model(size: &str, device: &Device) -> Result<Policy> {
    let config = match size {
        "tiny" => json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 128,
            "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": true,
        }),
        "0.5b" => json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 896,
            "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "tie_word_embeddings": true,
        }),
        _ => json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0, "tie_word_embeddings": true,
        }),
    };
    let config = ModelConfig::from_json(&config, Path::new("--random-model"))?;
    Ok(Policy::new(config, Some(bundled_tokenizer()?), 0, device))
}

pub(super) struct Quiet;

impl Observer for Quiet {
    fn on_event(&mut self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            say(text);
        }
    }
}

fn labelled(cost: &Cost, key: &str, value: Value) -> Result<Map<String, Value>> {
    let mut line = Map::new();
    line.insert(key.into(), value);
    if let Value::Object(figures) = serde_json::to_value(cost)? {
        line.extend(figures);
    }
    Ok(line)
}

fn medians(costs: &[Cost]) -> Cost {
    let median = |of: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        }
    };
    Cost {
        generate_seconds: median(|cost| cost.generate_seconds),
        update_seconds: median(|cost| cost.update_seconds),
        step_seconds: median(|cost| cost.step_seconds),
        generated_tokens_per_second: median(|cost| cost.generated_tokens_per_second),
        trained_tokens_per_second: median(|cost| cost.trained_tokens_per_second),
        peak_rss_bytes: costs.last().and_then(|cost| cost.peak_rss_bytes),
    }
}

/// The process's largest resident set, from Linux's `/proc`.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}
