//! How much of a forward pass fits into memory.

use policy::{CausalLm, Execution, ModelConfig, Recompute};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::{Memory, TrainConfig, Trainer};

/// Tokens that go through the model at once where the configuration leaves it open: packed ones on the CPU, and rows
/// with padding elsewhere.
const CPU_TOKENS: usize = 4096;
const DEVICE_TOKENS: usize = 512;

/// The share of the free memory that a run may plan with: others live there too.
const USABLE_SHARE: f64 = 0.8;

/// Tokens that go through the model at once.
pub(crate) fn max_tokens(config: &TrainConfig, model: &CausalLm) -> usize {
    match config.update.max_tokens {
        0 if model.is_fused() => CPU_TOKENS,
        0 => DEVICE_TOKENS,
        tokens => tokens,
    }
}

impl Trainer {
    /// Tokens that go through the model at once.
    pub fn max_tokens(&self) -> usize {
        max_tokens(&self.config, &self.policy.model)
    }
}

/// How the model is computed under a setting, for passes of `tokens`.
pub(crate) fn execution(memory: Memory, config: &ModelConfig, tokens: usize) -> Execution {
    let recompute = match memory {
        Memory::Fast => Recompute::Nothing,
        Memory::Balanced => Recompute::FeedForward,
        Memory::Auto if fits(config, tokens, free_bytes()) => Recompute::FeedForward,
        Memory::Auto | Memory::Small => Recompute::Block,
    };
    Execution {
        recompute,
        ..Execution::default()
    }
}

/// Whether training with [`Recompute::FeedForward`] stays within the free memory, where the weights lie already.
fn fits(config: &ModelConfig, tokens: usize, free_bytes: u64) -> bool {
    // Gradients and the optimizer's two moments.
    let state = 3.0 * 4.0 * config.parameters() as f64;
    let token = config.activation_bytes(Recompute::FeedForward) as f64;
    state + tokens as f64 * token < USABLE_SHARE * free_bytes as f64
}

/// What is free, within the limits of a container too.
fn free_bytes() -> u64 {
    let only_memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(only_memory);
    let limit = system.cgroup_limits().map(|limits| limits.free_memory);
    limit.map_or(system.available_memory(), |limit| {
        limit.min(system.available_memory())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_memory_makes_the_passes_small() {
        let config = crate::bundled_base(burn::tensor::DType::F32, &burn::tensor::Device::flex());
        let config = config.unwrap().config;
        let needed = 12 * config.parameters()
            + 1000 * config.activation_bytes(Recompute::FeedForward) as u64;
        assert!(fits(&config, 1000, 2 * needed));
        assert!(!fits(&config, 1000, needed));
        assert!(free_bytes() > 0);
    }
}
