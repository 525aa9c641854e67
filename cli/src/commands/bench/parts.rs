//! `anneal bench parts`: what a step is made of, each part by itself, on any device, beside burn's own operations.

use std::{
    io::{self, Write},
    time::Instant,
};

use anyhow::{Result, anyhow};
use burn::{
    module::Module,
    nn::RmsNormConfig,
    tensor::{DType, Device, Distribution, Int, Tensor},
};
use policy::{
    CausalLm, EntropyPass, Execution, HeadOptions, KvCache, Operations, Policy, Rotation,
    TokenBatch, Visibility,
};
use rollout::{Engine, EngineOptions, Generator, Request, RolloutError, SampleKey, SamplingParams};
use serde::Serialize;
use trainer::{Rehearsal, Trainer};

use super::step::{Quiet, random_model, rehearsal_config};
use crate::{args::BenchPartsArgs, commands::print_json, device};

/// The update's and the step's settings.
fn settings(args: &BenchPartsArgs) -> impl Iterator<Item = String> {
    let prompts = args.rows.div_ceil(args.group);
    let settings = [
        format!("rollout.prompts_per_step={prompts}"),
        format!("rollout.group_size={}", args.group),
        format!("rollout.max_new_tokens={}", args.response_tokens.min(64)),
        format!("update.mini_batch_prompts={prompts}"),
        format!("model.dtype={}", args.dtype),
    ];
    settings.into_iter().chain(args.overrides.iter().cloned())
}

/// A part's cost.
#[derive(Debug, Serialize)]
struct Part {
    #[serde(rename = "part")]
    name: &'static str,
    shape: String,
    /// The median of the repetitions.
    seconds: f64,
    rate: f64,
    unit: &'static str,
    /// The same by burn's operations alone, where ours are others.
    #[serde(skip_serializing_if = "Option::is_none")]
    plain_seconds: Option<f64>,
}

pub(crate) fn run(args: &BenchPartsArgs) -> Result<()> {
    let device = device::parse(&args.device.device)?;
    let dtype = dtype(&args.dtype, &device)?;
    let policy = random_model(&args.random_model, &device.clone().autodiff())?;
    let (length, context) = (
        args.prompt_tokens + args.response_tokens,
        policy.config.max_position_embeddings,
    );
    if length > context {
        return Err(anyhow!(
            "--prompt-tokens and --response-tokens come to {length}; the model's context holds {context}"
        ));
    }
    // What the last part would refuse is refused first.
    rehearsal_config(settings(args))?;
    let bench = Bench {
        args,
        device,
        dtype,
        policy,
    };
    let mut parts = Vec::new();
    let mut report = |part: Part| -> Result<()> {
        if args.json {
            print_json(&serde_json::to_value(&part)?)?;
        } else {
            writeln!(io::stdout(), "{}", line(&part))?;
        }
        parts.push(part);
        Ok(())
    };
    if !args.json {
        writeln!(io::stdout(), "{}", bench.title())?;
    }
    report(bench.product()?)?;
    for part in bench.operations()? {
        report(part)?;
    }
    report(bench.attention()?)?;
    report(bench.decode_attention()?)?;
    report(bench.head()?)?;
    report(bench.prefill()?)?;
    report(bench.decode()?)?;
    for part in bench.step()? {
        report(part)?;
    }
    Ok(())
}

fn line(part: &Part) -> String {
    let plain = part.plain_seconds.map_or_else(String::new, |plain| {
        format!("  burn's operations {:.2} times that", plain / part.seconds)
    });
    format!(
        "{:<19} {:<28} {:>11.3} ms {:>12.1} {:<12}{plain}",
        part.name,
        part.shape,
        part.seconds * 1e3,
        part.rate,
        part.unit
    )
}

fn dtype(name: &str, device: &Device) -> Result<DType> {
    let dtype = match name {
        "bf16" => DType::BF16,
        "f16" => DType::F16,
        _ => DType::F32,
    };
    if *device == Device::flex() && dtype != DType::F32 {
        return Err(anyhow!(
            "--dtype {name}: on the CPU, `anneal bench ops` and `anneal bench step` measure bf16"
        ));
    }
    if device.supports_dtype(dtype) {
        return Ok(dtype);
    }
    Err(anyhow!(
        "--dtype {name}: the device has no {name}; `anneal devices` lists its types"
    ))
}

/// One cell of a result, to be read; nothing where it was read already.
type Probe = Option<Tensor<1>>;

fn probe<const D: usize>(result: Tensor<D>) -> Tensor<1> {
    result.flatten::<1>(0, D - 1).narrow(0, 0, 1)
}

fn read(probe: Probe) -> Result<()> {
    match probe {
        None => Ok(()),
        Some(cell) => match cell.cast(DType::F32).try_into_vec_as::<f32>() {
            Ok(_) => Ok(()),
            Err(error) => Err(RolloutError::Device {
                message: format!("{error:?}"),
            }
            .into()),
        },
    }
}

/// The least that is timed at once, if a hundred runs come to it.
const WAIT_SECONDS: f64 = 0.02;

struct Bench<'a> {
    args: &'a BenchPartsArgs,
    device: Device,
    dtype: DType,
    policy: Policy,
}

impl Bench<'_> {
    fn title(&self) -> String {
        format!(
            "{} on {}, {}: {} rows, {} prompt and {} response tokens, medians of {}",
            self.args.random_model,
            self.args.device.device,
            self.dtype.name(),
            self.args.rows,
            self.args.prompt_tokens,
            self.args.response_tokens,
            self.args.repetitions
        )
    }

    /// The median time of some runs, after one that warms up. The device is waited for.
    fn seconds(&self, mut work: impl FnMut() -> Result<Probe>) -> Result<f64> {
        let sync = || self.device.sync().map_err(|error| anyhow!("{error:?}"));
        // A device that has no room for a part tells of it once a result is read, and is very fast until then.
        read(work()?)?;
        sync()?;
        let mut timed = |count: usize| -> Result<f64> {
            let start = Instant::now();
            for _ in 0..count {
                drop(work()?);
            }
            sync()?;
            Ok(start.elapsed().as_secs_f64() / count as f64)
        };
        // To wait for a device takes as long as some of its kernels do: those run several times between two waits.
        let first = timed(1)?;
        let count = (WAIT_SECONDS / first).clamp(1.0, 100.0) as usize;
        let mut seconds = if count == 1 { vec![first] } else { Vec::new() };
        while seconds.len() < self.args.repetitions {
            seconds.push(timed(count)?);
        }
        seconds.sort_unstable_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    /// Times `work` by our operations and, where those are others, by burn's.
    fn both(
        &self,
        mut work: impl FnMut(Operations) -> Result<Probe>,
    ) -> Result<(f64, Option<f64>)> {
        let fastest = Operations::of(&self.device);
        let seconds = self.seconds(|| work(fastest))?;
        if fastest == Operations::Plain || self.args.ours_alone {
            return Ok((seconds, None));
        }
        let plain = self.seconds(|| work(Operations::Plain))?;
        Ok((seconds, Some(plain)))
    }

    /// The model in each of its forms: the device's own and, where it has one, the plain one.
    fn both_forms(
        &self,
        mut work: impl FnMut(&CausalLm) -> Result<Probe>,
    ) -> Result<(f64, Option<f64>)> {
        let model = self.policy.model.clone().cast(self.dtype);
        let seconds = self.seconds(|| work(&model))?;
        if self.args.ours_alone {
            return Ok((seconds, None));
        }
        let execution = Execution {
            plain: true,
            ..model.execution()
        };
        let plain = model.with_execution(execution);
        Ok((seconds, Some(self.seconds(|| work(&plain))?)))
    }

    fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let spread = Distribution::Normal(0.0, 1.0);
        Tensor::<D>::random(shape, spread, (&self.device, DType::F32)).cast(self.dtype)
    }

    fn tokens(&self) -> usize {
        self.args.rows * (self.args.prompt_tokens + self.args.response_tokens)
    }

    fn product(&self) -> Result<Part> {
        let config = &self.policy.config;
        let (m, k, n) = (
            self.tokens(),
            config.hidden_size,
            2 * config.intermediate_size,
        );
        let (a, b) = (self.random([m, k]), self.random([k, n]));
        let (seconds, plain_seconds) =
            self.both(|operations| Ok(Some(probe(operations.product(a.clone(), b.clone())))))?;
        Ok(Part {
            name: "product",
            shape: format!("{m}x{k}x{n}"),
            seconds,
            rate: 2.0 * (m * k * n) as f64 / seconds / 1e9,
            unit: "GFLOP/s",
            plain_seconds,
        })
    }

    /// Those bound by memory: bytes read and written a second.
    fn operations(&self) -> Result<Vec<Part>> {
        let config = &self.policy.config;
        let (tokens, width, inner) = (self.tokens(), config.hidden_size, config.intermediate_size);
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let bytes = |cells: usize| (cells * self.dtype.size()) as f64;
        let part = |name, shape, cells, (seconds, plain_seconds)| Part {
            name,
            shape,
            seconds,
            rate: bytes(cells) / seconds / 1e9,
            unit: "GB/s",
            plain_seconds,
        };
        let mut norm = RmsNormConfig::new(width).init(&self.device);
        norm.gamma = norm.gamma.map(|gamma| gamma.cast(self.dtype));
        let x = self.random([tokens, width]);
        let normed =
            self.both(|operations| Ok(Some(probe(operations.rms_norm(&norm, x.clone())))))?;
        let (gate, up) = (self.random([tokens, inner]), self.random([tokens, inner]));
        let gated =
            self.both(|operations| Ok(Some(probe(operations.swiglu(gate.clone(), up.clone())))))?;
        let query = self.random([1, tokens, heads, head_dim]);
        let positions = Tensor::<1, Int>::arange(0..tokens as i64, (&self.device, DType::I32));
        let frequencies = vec![0.01; head_dim / 2];
        let rotation = Rotation::new(positions.reshape([1, tokens]), &frequencies, self.dtype);
        let rotated =
            self.both(|operations| Ok(Some(probe(operations.rotate(query.clone(), &rotation)))))?;
        Ok(vec![
            part(
                "norm",
                format!("{tokens}x{width}"),
                2 * tokens * width,
                normed,
            ),
            part(
                "swiglu",
                format!("{tokens}x{inner}"),
                3 * tokens * inner,
                gated,
            ),
            part(
                "rotation",
                format!("{tokens}x{heads}x{head_dim}"),
                2 * tokens * heads * head_dim,
                rotated,
            ),
        ])
    }

    /// All tokens of the rows over those before them, and back.
    fn attention(&self) -> Result<Part> {
        let config = &self.policy.config;
        let (rows, groups) = (self.args.rows, config.num_key_value_heads);
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let length = self.args.prompt_tokens + self.args.response_tokens;
        let by_token = |heads: usize| self.random([rows, length, heads, head_dim]).autodiff();
        let [query, key, value] = [heads, groups, groups].map(by_token);
        let device = query.device();
        let positions = Tensor::<1, Int>::arange(0..length as i64, (&device, DType::I32));
        let positions = positions.reshape([1, length]).expand([rows, length]);
        let visibility = Visibility::new(positions.clone(), positions, None);
        let (seconds, plain_seconds) = self.both(|operations| {
            let [query, key, value] =
                [&query, &key, &value].map(|leaf| leaf.clone().require_grad());
            let by_head = |leaf: &Tensor<4>| leaf.clone().swap_dims(1, 2);
            let [q, k, v] = [by_head(&query), by_head(&key), by_head(&value)];
            let mixed = operations.attend(q, k, v, &visibility);
            let mut gradients = mixed.sum().backward();
            let gradient = query.grad_remove(&mut gradients);
            gradient
                .map(|gradient| Some(probe(gradient)))
                .ok_or_else(|| anyhow!("attention gives no gradient"))
        })?;
        Ok(Part {
            name: "attention, and back",
            shape: format!("{rows}x{heads}/{groups}x{length}x{head_dim}"),
            seconds,
            rate: (rows * length) as f64 / seconds,
            unit: "tokens/s",
            plain_seconds,
        })
    }

    /// One new token a row over a full cache.
    fn decode_attention(&self) -> Result<Part> {
        let config = &self.policy.config;
        let (rows, groups) = (self.args.rows, config.num_key_value_heads);
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let length = self.args.prompt_tokens + self.args.response_tokens;
        let query = self.random([rows, heads, 1, head_dim]);
        let cache = || self.random([rows, groups, length, head_dim]);
        let (keys, values) = (cache(), cache());
        let at = Tensor::<2, Int>::full([rows, 1], length as i64 - 1, (&self.device, DType::I32));
        let slots = Tensor::<1, Int>::arange(0..length as i64, (&self.device, DType::I32));
        let slots = slots.reshape([1, length]).expand([rows, length]);
        let visibility = Visibility::new(at, slots, None).with_bias();
        let (seconds, plain_seconds) = self.both(|operations| {
            Ok(Some(probe(operations.attend_cached(
                query.clone(),
                keys.clone(),
                values.clone(),
                &visibility,
            ))))
        })?;
        let cells = 2 * rows * groups * length * head_dim;
        Ok(Part {
            name: "decode attention",
            shape: format!("{rows}x{heads}/{groups}x{length}x{head_dim}"),
            seconds,
            rate: (cells * self.dtype.size()) as f64 / seconds / 1e9,
            unit: "GB/s",
            plain_seconds,
        })
    }

    /// Log-probabilities and entropies of the response tokens, and back.
    fn head(&self) -> Result<Part> {
        let tokens = self.args.rows * self.args.response_tokens;
        let width = self.policy.config.hidden_size;
        let vocab = self.policy.config.vocab_size;
        let hidden = self.random([tokens, width]).autodiff();
        let targets: Vec<u32> = (0..tokens).map(|i| (i * 7919 % vocab) as u32).collect();
        let options = HeadOptions {
            temperature: 1.0,
            entropy: EntropyPass::Values,
        };
        let (seconds, plain_seconds) = self.both_forms(|model| {
            let model = model.clone().fork(&model.device());
            let leaf = hidden.clone().require_grad();
            let scores = model.score_tokens(leaf.clone(), &targets, options);
            let mut gradients = scores.log_probs.sum().backward();
            let gradient = leaf.grad_remove(&mut gradients);
            gradient
                .map(|gradient| Some(probe(gradient)))
                .ok_or_else(|| anyhow!("the head gives no gradient"))
        })?;
        Ok(Part {
            name: "head, and back",
            shape: format!("{tokens}x{width}x{vocab}"),
            seconds,
            rate: tokens as f64 / seconds,
            unit: "tokens/s",
            plain_seconds,
        })
    }

    fn prefill(&self) -> Result<Part> {
        let (rows, tokens) = (self.args.rows, self.args.prompt_tokens);
        let config = &self.policy.config;
        let prompt: Vec<u32> = (0..tokens)
            .map(|i| (i % config.vocab_size) as u32)
            .collect();
        let batch = TokenBatch::right_padded(&vec![prompt.as_slice(); rows], None);
        let (seconds, plain_seconds) = self.both_forms(|model| {
            let model = model.valid();
            let mut cache = KvCache::new(config, rows, tokens + 1, self.dtype, &self.device);
            Ok(Some(probe(model.hidden_states(&batch, Some(&mut cache)))))
        })?;
        Ok(Part {
            name: "prefill",
            shape: format!("{rows}x{tokens}"),
            seconds,
            rate: (rows * tokens) as f64 / seconds,
            unit: "tokens/s",
            plain_seconds,
        })
    }

    /// Sampling a token a row, its prompt included.
    fn decode(&self) -> Result<Part> {
        let (rows, tokens) = (self.args.rows, self.args.response_tokens);
        let request = |sample: usize| Request {
            prompt_ids: vec![1; self.args.prompt_tokens],
            key: SampleKey {
                seed: 0,
                step: 0,
                row: 0,
                sample: sample as u64,
            },
        };
        let requests: Vec<Request> = (0..rows).map(request).collect();
        let params = SamplingParams {
            max_new_tokens: tokens,
            ignore_stops: true,
            ..SamplingParams::default()
        };
        let options = EngineOptions {
            batch_rows: rows,
            ..EngineOptions::default()
        };
        let (seconds, plain_seconds) = self.both_forms(|model| {
            let model = model.valid();
            let engine = Engine::new(&self.policy, &model, options);
            engine.generate(&requests, &params, &mut |_| ())?;
            Ok(None)
        })?;
        Ok(Part {
            name: "generation",
            shape: format!("{rows}x{tokens}"),
            seconds,
            rate: (rows * tokens) as f64 / seconds,
            unit: "tokens/s",
            plain_seconds,
        })
    }

    /// An update and a whole step by the trainer.
    fn step(&self) -> Result<Vec<Part>> {
        let args = self.args;
        let prompts = args.rows.div_ceil(args.group);
        let size = Rehearsal {
            prompts,
            prompt_tokens: args.prompt_tokens,
            response_tokens: args.response_tokens,
        };
        let rows = prompts * args.group;
        let config = rehearsal_config(settings(args))?;
        let policy = random_model(&args.random_model, &self.device.clone().autodiff())?;
        let mut trainer = Trainer::new(config, policy)?;
        let mut updates = Vec::new();
        let mut steps = Vec::new();
        trainer.rehearse(&size, &mut Quiet)?;
        for _ in 0..args.repetitions {
            let metrics = trainer.rehearse(&size, &mut Quiet)?;
            updates.push(metrics.update_seconds);
            steps.push(metrics.step_seconds);
        }
        let part = |name, mut seconds: Vec<f64>, tokens: usize| {
            seconds.sort_unstable_by(f64::total_cmp);
            let seconds = seconds[seconds.len() / 2];
            Part {
                name,
                shape: format!("{rows}x{}+{}", args.prompt_tokens, args.response_tokens),
                seconds,
                rate: tokens as f64 / seconds,
                unit: "tokens/s",
                plain_seconds: None,
            }
        };
        let tokens = rows * (args.prompt_tokens + args.response_tokens);
        Ok(vec![
            part("update", updates, tokens),
            part("step", steps, rows * args.response_tokens),
        ])
    }
}
