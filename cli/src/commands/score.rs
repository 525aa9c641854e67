//! `anneal score`: what a model says of given tokens, to compare with another implementation.

use std::fs;

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Int, Tensor};
use policy::{EntropyPass, HeadOptions, Policy, TokenBatch, resolve_model};
use rollout::{Engine, EngineOptions, Generator, Request, SampleKey, SamplingParams};
use serde_json::{Map, Value, json};

use super::print_json;
use crate::{args::ScoreArgs, device};

/// Greedy tokens where the input does not say how many it wants.
const GREEDY_TOKENS: usize = 24;
/// Tokens listed of the distribution after the last.
const TOP: usize = 20;

pub(crate) fn run(args: &ScoreArgs) -> Result<()> {
    let device = device::parse(&args.device.device)?;
    let place = || args.input.display().to_string();
    let text = fs::read_to_string(&args.input).with_context(place)?;
    let input: Value = serde_json::from_str(&text).with_context(place)?;
    let policy = Policy::load(&resolve_model(&args.model)?, DType::F32, &device)?;
    let output = match (
        input.get("cases").and_then(Value::as_array),
        input.get("input_ids"),
    ) {
        (Some(cases), _) => {
            let scored = cases.iter().enumerate().map(|(index, case)| {
                score_text(&policy, case).with_context(|| format!("{} case {index}", place()))
            });
            json!({ "cases": scored.collect::<Result<Vec<_>>>()? })
        }
        (None, Some(_)) => score_rows(&policy, &input).with_context(place)?,
        (None, None) => bail!("{}: has neither 'cases' nor 'input_ids'", place()),
    };
    print_json(&output)
}

/// Rows of ids with an optional mask.
fn score_rows(policy: &Policy, input: &Value) -> Result<Value> {
    let rows = |name: &str| {
        let rows = serde_json::from_value::<Vec<Vec<u32>>>(input[name].clone());
        rows.with_context(|| format!("{name} is not rows of whole numbers"))
    };
    let ids = rows("input_ids")?;
    let ones = || Ok(ids.iter().map(|row| vec![1; row.len()]).collect());
    let mask = if input.get("attention_mask").is_some() {
        rows("attention_mask")
    } else {
        ones()
    }?;
    check_rows(policy, &ids, &mask)?;
    let scores = scores(policy, &ids, &mask)?;
    let wanted = input["greedy_continuation_of_row_0"]
        .as_array()
        .map_or(GREEDY_TOKENS, Vec::len);
    let first: Vec<u32> = ids[0]
        .iter()
        .zip(&mask[0])
        .filter(|(_, real)| **real == 1)
        .map(|(&id, _)| id)
        .collect();
    Ok(json!({
        "input_ids": ids,
        "next_token_log_probs": scores.log_probs,
        "entropy_nats": scores.entropies,
        "last_logits": scores.last_logits,
        "greedy_continuation_of_row_0": greedy(policy, first, wanted)?,
    }))
}

fn check_rows(policy: &Policy, ids: &[Vec<u32>], mask: &[Vec<u32>]) -> Result<()> {
    let length = ids.first().map_or(0, Vec::len);
    if length < 2 {
        bail!("input_ids needs a row of at least two tokens");
    }
    if mask.len() != ids.len() || ids.iter().chain(mask).any(|row| row.len() != length) {
        bail!("the rows of input_ids and attention_mask must have one length");
    }
    let context = policy.config.max_position_embeddings;
    if length > context {
        bail!("rows of {length} tokens do not fit the model's context of {context}");
    }
    if mask.iter().flatten().any(|&real| real > 1) {
        bail!("attention_mask has other figures than 0 and 1");
    }
    let vocab = policy.config.vocab_size;
    match ids.iter().flatten().find(|&&id| id as usize >= vocab) {
        Some(id) => bail!("token id {id} is not below the model's vocabulary of {vocab}"),
        None => Ok(()),
    }
}

/// Messages rendered by the chat template, or text as it is.
fn score_text(policy: &Policy, case: &Value) -> Result<Value> {
    let tokenizer = policy.require_tokenizer()?;
    let (text, rendered) = match case.get("messages").and_then(Value::as_array) {
        Some(messages) => {
            let template = tokenizer
                .chat_template()
                .context("the model has no chat template")?;
            let generation = case["add_generation_prompt"].as_bool().unwrap_or(true);
            let arguments = case["template_arguments"].as_object().cloned();
            let rendered =
                template.render(messages, generation, &arguments.unwrap_or_else(Map::new))?;
            (rendered.clone(), Some(rendered))
        }
        None => (bare_text(case)?.to_owned(), None),
    };
    // A rendered text bears its special tokens already.
    let is_bare = case["text"].is_string();
    let ids = tokenizer.encode(&text, is_bare)?;
    let rows = [ids.clone()];
    let mask = [vec![1; ids.len()]];
    check_rows(policy, &rows, &mask)?;
    let scores = scores(policy, &rows, &mask)?;
    let wanted = case["greedy_ids"]
        .as_array()
        .map_or(GREEDY_TOKENS, Vec::len);
    let continuation = greedy(policy, ids.clone(), wanted)?;
    Ok(json!({
        "rendered": rendered.unwrap_or(text),
        "input_ids": ids,
        "next_token_log_probs": scores.log_probs[0],
        "entropy_nats": scores.entropies[0],
        "top20_last": top(&scores.last_logits[0]),
        "greedy_text": tokenizer.decode(&continuation, false)?,
        "greedy_ids": continuation,
    }))
}

fn bare_text(case: &Value) -> Result<&str> {
    let text = case["text"].as_str().or_else(|| case["rendered"].as_str());
    text.context("has none of 'messages', 'text' and 'rendered'")
}

/// The most probable next tokens as `[id, log-probability]`.
fn top(logits: &[f32]) -> Vec<(usize, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    ids.truncate(TOP);
    ids.into_iter()
        .map(|id| (id, f64::from(logits[id] - largest) - total.ln()))
        .collect()
}

struct Scores {
    log_probs: Vec<Vec<f32>>,
    entropies: Vec<Vec<f32>>,
    last_logits: Vec<Vec<f32>>,
}

fn scores(policy: &Policy, ids: &[Vec<u32>], mask: &[Vec<u32>]) -> Result<Scores> {
    let batch = TokenBatch::masked(ids, mask);
    let hidden = policy.model.hidden_states(&batch, None);
    let [rows, length, width] = hidden.dims();
    let device = hidden.device();
    let flat = hidden.reshape([rows * length, width]);
    let indices = |values: Vec<i32>| Tensor::<1, Int>::from_data(values.as_slice(), &device);
    // The last token of a row predicts nothing that is given; any target serves, and is cut off.
    let next = ids
        .iter()
        .flat_map(|row| row[1..].iter().chain([&0]).copied());
    let options = HeadOptions {
        temperature: 1.0,
        entropy: EntropyPass::Values,
    };
    let next: Vec<u32> = next.collect();
    let scored = policy.model.score_tokens(flat.clone(), &next, options);
    let last = (1..=rows).map(|row| (row * length - 1) as i32).collect();
    let logits = policy.model.logits(flat.select(0, indices(last)));
    let read = |tensor: Tensor<1>| -> Result<Vec<Vec<f32>>> {
        let values = tensor.try_into_vec_as::<f32>();
        let values = values.map_err(|error| anyhow::anyhow!("the device failed: {error:?}"))?;
        Ok(values
            .chunks(values.len() / rows)
            .map(<[f32]>::to_vec)
            .collect())
    };
    let mut log_probs = read(scored.log_probs)?;
    for row in &mut log_probs {
        row.truncate(length - 1);
    }
    let entropies = read(scored.entropies.context("entropies were asked for")?)?;
    let vocab = logits.dims()[1];
    Ok(Scores {
        log_probs,
        entropies,
        last_logits: read(logits.reshape([rows * vocab]))?,
    })
}

fn greedy(policy: &Policy, prompt_ids: Vec<u32>, max_new_tokens: usize) -> Result<Vec<u32>> {
    let params = SamplingParams {
        temperature: 0.0,
        max_new_tokens: max_new_tokens.max(1),
        stop_token_ids: policy.end_token_ids(),
        ..SamplingParams::default()
    };
    let key = SampleKey {
        seed: 0,
        step: 0,
        row: 0,
        sample: 0,
    };
    let engine = Engine::new(policy, &policy.model, EngineOptions::default());
    let mut rollouts = engine.generate(&[Request { prompt_ids, key }], &params, &mut |_| ())?;
    Ok(rollouts.swap_remove(0).response_ids)
}
