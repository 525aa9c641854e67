//! A run that takes milliseconds, for tests.

use burn::tensor::Device;
use policy::Policy;

use crate::{ArchitectureSection, SftConfig, TrainConfig, Trainer};

/// Held by tests that run on the device which `ANNEAL_DEVICE` names: one of them counts the bytes there.
#[cfg(feature = "cube")]
pub(crate) fn device() -> Option<(Device, std::sync::MutexGuard<'static, ()>)> {
    static DEVICE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let name = std::env::var("ANNEAL_DEVICE").ok()?;
    let device = policy::open_device(&name).unwrap_or_else(|error| panic!("{error}"));
    // A test that failed leaves the device as good as it was.
    let guard = DEVICE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    Some((device, guard))
}

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

/// The bytes of a run's weights.
pub(crate) fn weights(trainer: &Trainer) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    trainer.save_checkpoint(&path).unwrap();
    std::fs::read(path.join("model.safetensors")).unwrap()
}
