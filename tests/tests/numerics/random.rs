//! Runs of settings drawn at random: what is accepted gives finite figures, and the same whatever shares its batch.

use std::collections::BTreeMap;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use trainer::{Stages, Trainer};

use crate::small::{ByBytes, assert_finite, config, policy, step};

/// Configurations that are tried: `ANNEAL_CONFIGURATIONS`, 200 where it is not set.
fn count() -> u64 {
    let set = std::env::var("ANNEAL_CONFIGURATIONS").ok();
    set.map_or(200, |text| text.parse().unwrap())
}

struct Draw(ChaCha8Rng);

impl Draw {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.0.next_u32() as usize % of.len()]
    }

    /// A line of settings for each part of a configuration; empty where that part stays as it is.
    fn settings(&mut self) -> Vec<&'static str> {
        let parts: [&[&str]; 16] = [
            &[
                "loss.type=ppo_clip",
                "loss.type=reinforce",
                "loss.type=gspo",
                "loss.type=cispo",
                "loss.type=sapo",
                "loss.type=gmpo",
                "loss.type=ce_gppo",
                "loss.type=clip_cov loss.fraction=0.2 loss.cov_low=0 loss.cov_high=20",
                "loss.type=kl_cov loss.top_fraction=0.2",
            ],
            &[
                "",
                "loss.aggregation=token_mean",
                "loss.aggregation=seq_mean_token_sum",
                "loss.aggregation=seq_mean_token_mean",
            ],
            &[
                "advantage.type=grpo",
                "advantage.type=dr_grpo",
                "advantage.type=rloo",
                "advantage.type=opo",
                "advantage.type=remax",
                "advantage.type=reinforce_plus_plus",
                "advantage.type=pass_at_k",
                "advantage.type=gae",
            ],
            &[
                "",
                "",
                "entropy.bonus.coef=0.01",
                "entropy.adaptive.target_nats=0.5",
                "entropy.budget.target_nats=2.5",
                "entropy.top_entropy.top_fraction=0.3",
                "entropy.shaped_advantage.alpha=0.4",
            ],
            &["", "", "entropy.ratio_clip.ratio_low=0.9"],
            &["", "", "loss.reference_kl.coef=0.05"],
            &["", "", "loss.rollout_correction.threshold=2"],
            &["", "rollout.temperature=0.3", "rollout.temperature=5"],
            &[
                "",
                "rollout.top_k=3",
                "rollout.top_p=0.7",
                "rollout.min_p=0.05",
            ],
            &[
                "rollout.group_size=1",
                "rollout.group_size=2",
                "rollout.group_size=5",
            ],
            &["rollout.prompts_per_step=1", "rollout.prompts_per_step=3"],
            &[
                "rollout.max_new_tokens=1",
                "rollout.max_new_tokens=3",
                "rollout.max_new_tokens=9",
            ],
            &["", "update.epochs=2"],
            &[
                "",
                "update.mini_batch_prompts=2",
                "update.recompute_log_probs=true",
            ],
            &["", "", "rollout.oversampling=2"],
            &[
                "",
                "optimizer.max_grad_norm=0",
                "optimizer.weight_decay=0.1",
                "optimizer.learning_rate=0.1 optimizer.warmup_steps=0",
            ],
        ];
        let lines = parts.map(|part| self.one(part));
        lines
            .iter()
            .flat_map(|line| line.split_whitespace())
            .collect()
    }
}

#[test]
fn settings_drawn_at_random_give_finite_figures_or_are_refused() {
    let (mut done, mut refused) = (0, BTreeMap::new());
    for seed in 0..count() {
        let settings = Draw(ChaCha8Rng::seed_from_u64(seed)).settings();
        // Neither is a part of what is computed.
        let whole = [&settings[..], &["rollout.batch_rows=64"]].concat();
        let parted = [
            &settings[..],
            &["rollout.batch_rows=1", "update.max_tokens=24"],
        ]
        .concat();
        let begin = |settings: &[&str]| {
            let stages = Stages::default().with_reward(ByBytes);
            Trainer::compose(config(settings)?, policy(128), stages)
        };
        let (mut whole, mut parted) = match (begin(&whole), begin(&parted)) {
            (Ok(whole), Ok(parted)) => (whole, parted),
            (Err(error), Err(_)) => {
                // What is refused is refused with its key.
                assert!(error.to_string().contains('.'), "{settings:?}: {error}");
                *refused.entry(error.to_string()).or_insert(0) += 1;
                continue;
            }
            _ => unreachable!("{settings:?}: refused for the size of its batches"),
        };
        for nth in 1..=2 {
            let what = format!("configuration {seed}, step {nth}: {settings:?}");
            let (one, other) = (step(&mut whole), step(&mut parted));
            assert_finite(&one, &what);
            assert_finite(&other, &what);
            if nth == 1 {
                // The same draws; updates round differently, and steps after them draw from other policies.
                assert_eq!(one.tokens_generated, other.tokens_generated, "{what}");
                assert!(
                    one.reward_mean.to_bits() == other.reward_mean.to_bits(),
                    "{what}"
                );
                let shift = (one.entropy_token_mean - other.entropy_token_mean).abs();
                assert!(shift < 1e-5 || one.groups_kept == 0, "{what}: {shift}");
            }
        }
        done += 1;
    }
    let refusals: u64 = refused.values().sum();
    println!("{done} configurations done, {refusals} refused");
    assert!(done > 2 * refusals, "{done} done; refused: {refused:#?}");
}
