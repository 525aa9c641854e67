//! What the laboratory costs: the time of a step with all that it measures, relative to one without.
//!
//! `cargo bench --workspace --bench measurement`, or with the folder of a model after `--`. The rate is 0, so that both
//! runs sample the same and update on the same tokens; they take turns step by step. Entropies before the update are
//! part of the pass that gives the old log-probabilities; their share is timed on the same tokens by itself.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails may panic, and prints its figures"
)]

use std::time::Instant;

use burn::{
    module::Module,
    tensor::{DType, Device},
};
use policy::{EntropyPass, HeadOptions};
use trainer::{Collated, Event, Group, Sequence, TrainConfig, Trainer, load_policy, micro_batches};

/// Steps left out of the figures, while caches fill.
const WARM_UP: usize = 1;

const WITHOUT: [&str; 2] = ["measurement.change=false", "measurement.tokens=false"];

fn trainer(model: &str, settings: &[&str]) -> Trainer {
    let mut common = vec![
        "optimizer.learning_rate=0".to_owned(),
        "validation.problems=0".to_owned(),
        format!("model.path={model:?}"),
    ];
    if !model.is_empty() {
        let small = [
            "rollout.prompts_per_step=4",
            "rollout.max_new_tokens=64",
            "rollout.filter_groups=false",
            "update.mini_batch_prompts=2",
        ];
        common.extend(small.map(str::to_owned));
    }
    common.extend(settings.iter().map(|&setting| setting.to_owned()));
    let config = TrainConfig::load(None, &common).unwrap();
    let policy = load_policy(model, DType::F32, &Device::flex().autodiff()).unwrap();
    Trainer::new(config, policy).unwrap()
}

/// Seconds that entropies add to a pass over these responses.
fn entropy_seconds(trainer: &Trainer, groups: &[Group]) -> f64 {
    let samples = groups.iter().flat_map(|group| &group.samples);
    let sequences: Vec<Sequence> = samples
        .map(|sample| Sequence::new(&sample.rollout.prompt_ids, &sample.rollout.response_ids))
        .collect();
    let model = trainer.policy().model.valid();
    let batches = micro_batches(&sequences, trainer.token_budget());
    let pass = |entropy: EntropyPass| {
        let started = Instant::now();
        for range in &batches {
            let part = &sequences[range.clone()];
            let longest = part.iter().map(Sequence::response_tokens).max();
            let options = HeadOptions {
                temperature: 1.0,
                entropy,
            };
            let scores = Collated::new(part, longest.unwrap_or(1)).score(&model, options);
            scores.log_probs.into_data();
        }
        started.elapsed().as_secs_f64()
    };
    // In turn, so that a slow moment falls on both.
    let mut differences = Vec::new();
    for _ in 0..3 {
        differences.push(pass(EntropyPass::Values) - pass(EntropyPass::Skip));
    }
    median(differences)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let model = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let steps = if model.is_some() { 4 } else { 11 };
    let model = model.unwrap_or_default();
    let (mut with, mut without) = (trainer(&model, &[]), trainer(&model, &WITHOUT));
    let (mut ratios, mut shares) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let measured = with.step(&mut |_: Event<'_>| ()).unwrap();
        let plain = without.step(&mut |_: Event<'_>| ()).unwrap();
        if step < WARM_UP {
            continue;
        }
        let seconds = plain.metrics.step_seconds;
        ratios.push(measured.metrics.step_seconds / seconds);
        shares.push(entropy_seconds(&without, &plain.trained) / seconds);
    }
    println!(
        "step with change and token figures, relative to one without: {:.3}",
        median(ratios)
    );
    println!(
        "entropies in the pass before the update, share of a step:    {:.3}",
        median(shares)
    );
}
