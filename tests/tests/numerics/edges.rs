//! The least and the most that a run can be of: each is done with finite figures, or refused before any work.

use std::{collections::HashSet, fs};

use rollout::FinishReason;
use trainer::{Event, Stages, Trainer};

use crate::small::{ByBytes, Constant, assert_finite, config, policy, step, trainer, weights};

/// That the steps are made and that weights that nothing was learnt for stay as they are.
fn assert_unmoved(settings: &[&str], reward: f64) {
    let mut trainer = trainer(settings, Constant(reward));
    let before = weights(&trainer);
    for _ in 0..2 {
        let metrics = step(&mut trainer);
        assert_finite(&metrics, &format!("{settings:?}"));
        assert!(metrics.updates > 0);
        assert!(metrics.policy_loss == 0.0 && metrics.grad_norm == 0.0);
    }
    assert!(weights(&trainer) == before, "{settings:?}: weights drifted");
}

#[test]
fn rewards_that_are_all_equal_move_nothing() {
    for reward in [0.0, 1.0, -3.5] {
        for advantage in ["grpo", "dr_grpo", "rloo", "opo"] {
            assert_unmoved(&[&format!("advantage.type={advantage}")], reward);
        }
    }
}

#[test]
fn a_group_of_one_keeps_its_reward() {
    for advantage in ["grpo", "dr_grpo", "rloo"] {
        let advantage = format!("advantage.type={advantage}");
        let settings = ["rollout.group_size=1", &advantage];
        assert_unmoved(&settings, 0.0);
        let mut rewarded = trainer(&settings, Constant(1.0));
        let metrics = step(&mut rewarded);
        assert_finite(&metrics, &advantage);
        assert!(metrics.grad_norm > 0.0, "{advantage}");
    }
    let refused = config(&["rollout.group_size=1", "rollout.filter_groups=true"]);
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("rollout.filter_groups")
    );
}

#[test]
fn a_response_may_be_its_end_token_alone() {
    let mut trainer = trainer(
        &["rollout.group_size=32", "rollout.max_new_tokens=1"],
        ByBytes,
    );
    let outcome = trainer.step(&mut |_: Event<'_>| ()).unwrap();
    assert_finite(&outcome.metrics, "responses of one token");
    let samples = outcome.trained.iter().flat_map(|group| &group.samples);
    let ended = samples.filter(|sample| {
        assert_eq!(sample.rollout.response_ids.len(), 1);
        sample.rollout.finish == FinishReason::EndToken && sample.text.is_empty()
    });
    assert!(ended.count() > 0, "no response ended at once");
}

#[test]
fn a_prompt_leaves_room_for_its_response_or_is_refused() {
    let one = config(&["rollout.max_new_tokens=6"]).unwrap();
    let with_context = |tokens: usize| {
        let stages = Stages::default().with_reward(ByBytes);
        Trainer::compose(one.clone(), policy(tokens), stages)
    };
    let fits = (1..128)
        .find(|&tokens| with_context(tokens).is_ok())
        .unwrap();
    // The longest prompt and the longest response fill the context to its last token.
    let mut trainer = with_context(fits).unwrap();
    assert_finite(&step(&mut trainer), "a full context");
    // A token less; as long as the prompt; shorter than it.
    for tokens in [fits - 1, fits - 6, fits - 7] {
        let refused = with_context(tokens).unwrap_err().to_string();
        assert!(
            refused.contains("problem 'arithmetic-")
                && refused.contains(&format!("context of {tokens}")),
            "{refused}"
        );
    }
}

#[test]
fn settings_of_nothing_are_refused() {
    for setting in [
        "rollout.max_new_tokens=0",
        "rollout.temperature=0",
        "rollout.prompts_per_step=0",
    ] {
        let refused = config(&[setting]).unwrap_err().to_string();
        let key = setting.split('=').next().unwrap();
        assert!(refused.contains(key), "{refused}");
    }
}

#[test]
fn a_file_of_one_problem_is_enough_and_one_of_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("problems.jsonl");
    let data = format!("data.train={}", file.display());
    let settings = [
        &data,
        "data.prompt=plain",
        "data.instruction=",
        "rollout.prompts_per_step=5",
    ];
    fs::write(&file, "").unwrap();
    let refused = Trainer::new(config(&settings).unwrap(), policy(128)).unwrap_err();
    assert!(refused.to_string().contains("problems.jsonl"), "{refused}");
    fs::write(&file, "{\"problem\": \"12+34=\\n\", \"answer\": \"46\"}\n").unwrap();
    // Five problems a step of a file that has one: five epochs.
    let mut trainer = trainer(&settings, ByBytes);
    for _ in 0..2 {
        let metrics = step(&mut trainer);
        assert_finite(&metrics, "one problem");
        assert_eq!((metrics.groups_sampled, metrics.groups_kept), (5, 5));
    }
}

#[test]
fn top_k_beyond_the_vocabulary_is_no_top_k() {
    let distinct_texts = |setting: &str| {
        let mut trainer = trainer(&[setting, "rollout.group_size=16"], ByBytes);
        let outcome = trainer.step(&mut |_: Event<'_>| ()).unwrap();
        assert_finite(&outcome.metrics, setting);
        let samples = &outcome.trained[0].samples;
        let texts: HashSet<&String> = samples.iter().map(|sample| &sample.text).collect();
        texts.len()
    };
    assert_eq!(distinct_texts("rollout.top_k=1"), 1);
    assert!(distinct_texts("rollout.top_k=1000000") > 10);
}

#[test]
fn a_reference_that_is_the_policy_is_at_no_distance() {
    for estimator in ["k1", "k2", "k3"] {
        let settings = [
            "update.mini_batch_prompts=2",
            "loss.reference_kl.coef=0.1",
            &format!("loss.reference_kl.estimator={estimator}"),
        ];
        let settings = &settings[..];
        // Equal rewards: nothing moves the policy but its distance from itself.
        let mut trainer = trainer(settings, Constant(1.0));
        // The policy and its reference are computed by passes of different batches. A second step's policy has moved by
        // what AdamW makes of rounding.
        for largest in [1e-6, 1e-3] {
            let metrics = step(&mut trainer);
            assert_finite(&metrics, estimator);
            let distance = metrics.reference_kl.unwrap();
            assert!(distance.abs() < largest, "{estimator}: {distance}");
        }
    }
}
