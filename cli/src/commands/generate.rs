//! `anneal generate`.

use std::io::{self, Write};

use anyhow::Result;
use policy::Policy;
use rollout::{Engine, EngineOptions, Generator, Request, Rollout, SampleKey, SamplingParams};
use serde_json::json;
use trainer::{DataSection, PromptFormat, PromptStyle, load_to_answer};

use super::print_json;
use crate::{args::GenerateArgs, device, progress};

pub(crate) fn run(args: GenerateArgs) -> Result<()> {
    let device = device::parse(&args.device.device)?;
    let dtype = args.dtype.unwrap_or_default();
    let model = args.model.as_deref().unwrap_or_default();
    let policy = load_to_answer(model, (dtype, "--dtype"), &device)?;
    let prompt_ids = prompt_ids(&policy, &args)?;
    let key = |sample| SampleKey {
        seed: args.seed,
        step: 0,
        row: 0,
        sample,
    };
    let requests: Vec<Request> = (0..args.samples)
        .map(|sample| Request {
            prompt_ids: prompt_ids.clone(),
            key: key(sample),
        })
        .collect();
    let params = SamplingParams {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        max_new_tokens: args.max_new_tokens,
        stop_token_ids: policy.end_token_ids(),
        stop_strings: args.stop,
        ignore_stops: false,
    };
    let bar = progress::bar(args.samples, "samples");
    let engine = Engine::new(&policy, &policy.model, EngineOptions::default());
    let rollouts = engine.generate(&requests, &params, &mut |progress| {
        progress::show_generation(&bar, progress);
    })?;
    bar.finish_and_clear();
    rollouts
        .iter()
        .try_for_each(|rollout| print(&policy, rollout, args.json))
}

fn prompt_ids(policy: &Policy, args: &GenerateArgs) -> Result<Vec<u32>> {
    let prompt = if args.escapes {
        unescaped(&args.prompt)
    } else {
        args.prompt.clone()
    };
    let data = DataSection {
        prompt: if args.plain {
            PromptStyle::Plain
        } else {
            PromptStyle::Auto
        },
        ..DataSection::default()
    };
    // As in training, templates that tell the date included.
    let format = PromptFormat::new(policy, &data, true)?;
    Ok(format.encode_text(&prompt, None)?)
}

/// A shell makes it hard to end an argument in a newline, which the built-in tasks' prompts do.
fn unescaped(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        let escaped = match (character, rest.as_str().chars().next()) {
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some('t')) => Some('\t'),
            ('\\', Some('\\')) => Some('\\'),
            _ => None,
        };
        if escaped.is_some() {
            rest.next();
        }
        output.push(escaped.unwrap_or(character));
    }
    output
}

fn print(policy: &Policy, rollout: &Rollout, as_json: bool) -> Result<()> {
    let text = policy
        .require_tokenizer()?
        .decode(&rollout.response_ids, true)?;
    if as_json {
        return print_json(&json!({
            "text": text,
            "response_ids": rollout.response_ids,
            "log_probs": rollout.sampler_log_probs,
            "finish": rollout.finish,
        }));
    }
    Ok(writeln!(io::stdout(), "{text}")?)
}
