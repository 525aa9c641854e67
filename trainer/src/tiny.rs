//! A run that takes milliseconds, for tests.

use burn::tensor::Device;
use policy::Policy;

use crate::{ArchitectureSection, SftConfig, TrainConfig};

/// A policy of some hundred parameters, freshly drawn.
pub(crate) fn policy() -> Policy {
    let sft = SftConfig {
        architecture: ArchitectureSection {
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            max_position_embeddings: 128,
        },
        ..SftConfig::default()
    };
    sft.new_policy(&Device::flex().autodiff()).unwrap()
}

/// Steps of a few short responses, all of which are trained on, with settings of a test's own.
pub(crate) fn config(settings: &[&str]) -> TrainConfig {
    let small = [
        "rollout.prompts_per_step=2",
        "rollout.group_size=4",
        "rollout.max_new_tokens=4",
        "rollout.filter_groups=false",
        "rollout.max_sampling_rounds=1",
        "update.mini_batch_prompts=2",
        "validation.problems=0",
        "checkpoint.every=1",
    ];
    let all = small.iter().chain(settings);
    let all: Vec<String> = all.map(|&setting| setting.to_owned()).collect();
    TrainConfig::load(None, &all).unwrap()
}
