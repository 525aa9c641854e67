//! What an objective costs: the time of updates on the built-in task, relative to PPO's clip without a controller.
//!
//! `cargo bench --workspace --bench controllers`. The rate is 0, so that every run samples the same and updates on the
//! same tokens; runs take turns step by step, and ratios are of the same step.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails may panic, and prints its figures"
)]

use burn::tensor::{DType, Device};
use trainer::{Event, TrainConfig, Trainer, bundled_base};

const STEPS: usize = 17;
/// Steps left out of the figures, while caches fill.
const WARM_UP: usize = 2;

const OBJECTIVES: [&[&str]; 9] = [
    &[],
    &["entropy.clip_cov.fraction=0.01"],
    &["entropy.kl_cov.top_fraction=0.05"],
    &["loss.type=clip_cov"],
    &["loss.type=kl_cov"],
    &["entropy.bonus.coef=0.001"],
    &["entropy.top_entropy={}"],
    &["entropy.ratio_clip={}"],
    &["entropy.shaped_advantage={}"],
];

fn trainer(settings: &[&str]) -> Trainer {
    let common = [
        "optimizer.learning_rate=0",
        "validation.problems=0",
        "rollout.prompts_per_step=16",
    ];
    let settings = common.iter().chain(settings).map(|&s| s.to_owned());
    let config = TrainConfig::load(None, &settings.collect::<Vec<_>>()).unwrap();
    let base = bundled_base(DType::F32, &Device::flex().autodiff()).unwrap();
    Trainer::new(config, base).unwrap()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let mut trainers = OBJECTIVES.map(trainer);
    let mut seconds = vec![Vec::new(); OBJECTIVES.len()];
    for step in 0..STEPS {
        for (index, trainer) in trainers.iter_mut().enumerate() {
            let metrics = trainer.step(&mut |_: Event<'_>| ()).unwrap().metrics;
            if step >= WARM_UP {
                seconds[index].push(metrics.update_seconds);
            }
        }
    }
    println!("{:<36} {:>12} {:>8}", "objective", "seconds", "ratio");
    for (settings, figures) in OBJECTIVES.iter().zip(&seconds) {
        let ratios = figures.iter().zip(&seconds[0]).map(|(f, plain)| f / plain);
        let name = if settings.is_empty() {
            "ppo_clip".to_owned()
        } else {
            settings.join(" ")
        };
        let (median_seconds, ratio) = (median(figures.clone()), median(ratios.collect()));
        println!("{name:<36} {median_seconds:>12.3} {ratio:>8.3}");
    }
}
