//! How much of a forward pass fits into memory.

use burn::tensor::DType;
use policy::{CausalLm, Compute, Execution, ModelConfig, Policy, Recompute};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::{Dtype, Memory, TokenBudget, Trainer};

/// Tokens that go through the model at once where the configuration leaves it open: packed ones on the CPU, and rows
/// with padding elsewhere.
const CPU_TOKENS: usize = 4096;
const DEVICE_TOKENS: usize = 512;

/// The share of the free memory that a run may plan with: others live there too.
const USABLE_SHARE: f64 = 0.8;

impl TokenBudget {
    /// The budget of passes of a model; 0 tokens leave the number open.
    pub(crate) fn new(tokens: usize, model: &CausalLm) -> Self {
        let is_packed = model.is_fused();
        let tokens = match tokens {
            0 if is_packed => CPU_TOKENS,
            0 => DEVICE_TOKENS,
            tokens => tokens,
        };
        Self { tokens, is_packed }
    }
}

impl Trainer {
    /// What goes through the model at once.
    pub fn token_budget(&self) -> TokenBudget {
        TokenBudget::new(self.config.update.max_tokens, &self.policy.model)
    }
}

/// The policy as a run computes it, in passes of `tokens`, with the type that its tensors are cast to for that.
pub(crate) fn prepare(
    mut policy: Policy,
    dtype: Dtype,
    memory: Memory,
    tokens: usize,
) -> (Policy, DType) {
    let recompute = match memory {
        Memory::Fast => Recompute::Nothing,
        Memory::Balanced => Recompute::FeedForward,
        Memory::Auto if fits(&policy.config, tokens, free_bytes()) => Recompute::FeedForward,
        Memory::Auto | Memory::Small => Recompute::Block,
    };
    let tensors = tensor_dtype(&policy.model, dtype);
    let compute = if dtype == Dtype::Bf16 && tensors == DType::F32 {
        Compute::Bf16
    } else {
        Compute::F32
    };
    let execution = Execution {
        recompute,
        compute,
        ..policy.model.execution()
    };
    policy.model = policy.model.with_execution(execution);
    (policy, tensors)
}

/// The type that a model's tensors are cast to where it computes in `dtype`: the CPU's own loops round to bf16 as they
/// multiply, and their tensors stay f32.
pub(crate) fn tensor_dtype(model: &CausalLm, dtype: Dtype) -> DType {
    match dtype {
        Dtype::Bf16 if model.is_fused() => DType::F32,
        dtype => dtype.into(),
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
