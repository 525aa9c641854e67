//! How much of a forward pass fits into memory.

use burn::tensor::{DType, Device};
use policy::{CausalLm, Compute, Execution, ModelConfig, Policy, Recompute, device_memory_bytes};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::{Dtype, Memory, TokenBudget, Trainer, forward::MicroBatches};

/// Tokens that go through the model at once where the configuration leaves it open: packed ones on the CPU, and rows
/// with padding elsewhere.
const CPU_TOKENS: usize = 4096;
const LEAST_DEVICE_TOKENS: usize = 512;

/// The most tokens that go through the model at once on a device whose memory would hold more: beyond that nothing is
/// faster.
const MOST_DEVICE_TOKENS: usize = 32_768;

/// The share of the free memory that a run may plan with: others live there too.
const USABLE_SHARE: f64 = 0.8;

/// Bytes of logits that a device's head holds at once, of which it has two such parts.
const PART_BYTES: u64 = 2 * 4096 * 8192 * 4;

impl TokenBudget {
    /// The budget of passes of a model over rows of `length`, beside other models of `other_bytes`; 0 tokens leave the
    /// number open.
    pub(crate) fn new(
        tokens: usize,
        model: &CausalLm,
        config: &ModelConfig,
        (length, other_bytes): (usize, u64),
    ) -> Self {
        let is_packed = model.is_fused();
        let open = || {
            let state = STATE_BYTES * config.parameters() + head_bytes(config) + other_bytes;
            let memory = device_memory_bytes(&model.device());
            device_tokens(memory, state, pass_bytes(config, model, length))
        };
        let tokens = match tokens {
            0 if is_packed => CPU_TOKENS,
            0 => open(),
            tokens => tokens,
        };
        Self { tokens, is_packed }
    }
}

/// What passes, and graphs that are held, may each take where a device does not say how much memory it has: a part of
/// what training the weights takes beside it, which must be there, or what any device has.
const UNKNOWN_SHARE: u64 = 8;
const LEAST_ROOM: u64 = 256 << 20;

fn room_beside(state: u64) -> u64 {
    LEAST_ROOM.max(state / UNKNOWN_SHARE)
}

/// As many tokens as fit, at so many bytes each, beside what is always there.
fn device_tokens(memory: Option<u64>, state: u64, token: u64) -> usize {
    let room = match memory {
        Some(memory) => ((memory as f64 * USABLE_SHARE) as u64).saturating_sub(state),
        None => room_beside(state),
    };
    let tokens = room / token.max(1);
    (tokens as usize).clamp(LEAST_DEVICE_TOKENS, MOST_DEVICE_TOKENS)
}

/// Of a parameter in f32: the weight, two gradients, one being added to the other, two moments, and a copy in the type that
/// the model computes in.
const STATE_BYTES: u64 = 20 + 4;

/// Tokens of a prompt where nothing is known of it yet.
const PROMPT_TOKENS: usize = 512;

/// The rows that a run's responses make, at most.
pub(crate) fn row_length(config: &ModelConfig, max_new_tokens: usize) -> usize {
    config
        .max_position_embeddings
        .min(PROMPT_TOKENS + max_new_tokens)
}

/// What a device's head holds: logits of two parts, and the weight's gradient in parts and whole.
fn head_bytes(config: &ModelConfig) -> u64 {
    PART_BYTES + (2 * 4 * config.vocab_size * config.hidden_size) as u64
}

/// Bytes that a pass with gradients takes of a device for each token of rows of `length`: the input of each block, and
/// all that one block holds at once; every block's where none is computed again.
fn pass_bytes(config: &ModelConfig, model: &CausalLm, length: usize) -> u64 {
    const CELL: usize = 4;
    let (width, layers) = (config.hidden_size, config.num_hidden_layers);
    let heads = config.num_attention_heads;
    let projected = (heads + 2 * config.num_key_value_heads) * config.head_dim;
    // In and out of norms and of the residual stream, projections with their rotations, and the gated layer.
    let block = 8 * width + 4 * projected + 6 * config.intermediate_size;
    // Scores with their weights and the gradients of both.
    let scores = 4 * heads * model.scores_held(length);
    let blocks = if model.recomputes_blocks() { 1 } else { layers };
    (CELL * (layers * width + blocks * block + scores)) as u64
}

impl Trainer {
    /// Whether the graphs of all these micro-batches may be held from forward passes to backward passes that follow at
    /// once. No result depends on it.
    pub(crate) fn holds_graphs(&self, parts: &MicroBatches) -> bool {
        // That of one micro-batch is held in any case.
        parts.ranges.len() <= 1 || self.has_room_for_graphs(parts)
    }

    /// Whether they may be held while other passes go by.
    pub(crate) fn has_room_for_graphs(&self, parts: &MicroBatches) -> bool {
        let lengths = parts.sequences.iter().map(|sequence| sequence.ids.len());
        self.config.update.memory != Memory::Small
            && self.graph_bytes(parts) <= self.room_for_graphs(lengths.max().unwrap_or(0))
    }

    fn graph_bytes(&self, parts: &MicroBatches) -> u64 {
        let (model, config) = (&self.policy.model, &self.policy.config);
        let budget = self.token_budget();
        let bytes = parts.ranges.iter().map(|range| {
            let sequences = &parts.sequences[range.clone()];
            let lengths = sequences.iter().map(|sequence| sequence.ids.len());
            let longest = lengths.max().unwrap_or(0);
            let tokens = budget.count(sequences) as u64;
            tokens * kept_bytes(config, model, self.dtype, longest)
        });
        // Each graph has a copy of the weights that its backward pass reads in another type.
        let copied = match self.dtype {
            DType::F32 => 0,
            _ if model.recomputes_blocks() => (config.vocab_size * config.hidden_size) as u64,
            _ => config.parameters(),
        };
        let copies = parts.ranges.len() as u64 * copied * self.dtype.size() as u64;
        self.models_passed() * (bytes.sum::<u64>() + copies)
    }

    /// Bytes that graphs may take beside a pass over rows of `length` and all that is always there; what generation took
    /// may still be with it.
    fn room_for_graphs(&self, length: usize) -> u64 {
        let parameters = self.policy.config.parameters();
        let state = STATE_BYTES * parameters + self.other_models_bytes();
        let Some(memory) = self.available_bytes(4 * parameters) else {
            return room_beside(state);
        };
        let usable = (memory as f64 * USABLE_SHARE) as u64;
        let pass = self.models_passed() * self.pass_estimate(length);
        usable.saturating_sub(state + pass + self.generation_estimate())
    }

    /// Models that a pass of the updates goes through: a critic's own trunk too.
    fn models_passed(&self) -> u64 {
        1 + u64::from(self.has_critic_trunk())
    }

    /// Bytes that one pass of the updates takes.
    fn pass_estimate(&self, length: usize) -> u64 {
        let (model, config) = (&self.policy.model, &self.policy.config);
        let tokens = self.token_budget().tokens as u64;
        if model.is_fused() {
            kept_bytes(config, model, self.dtype, length) * tokens
        } else {
            pass_bytes(config, model, length) * tokens + head_bytes(config)
        }
    }

    fn has_critic_trunk(&self) -> bool {
        let critic = self.critic.as_ref();
        critic.is_some_and(|critic| critic.model.trunk.is_some())
    }
}

/// Bytes that a pass with gradients leaves for each token of rows of `length` until it goes backward.
fn kept_bytes(config: &ModelConfig, model: &CausalLm, dtype: DType, length: usize) -> u64 {
    if model.is_fused() {
        config.activation_bytes(model.execution().recompute) as u64
    } else if model.recomputes_blocks() {
        (config.num_hidden_layers * config.hidden_size * dtype.size()) as u64
    } else {
        pass_bytes(config, model, length)
    }
}

/// What a run takes of its device's memory, in bytes: a plan, not a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The policy's weights in f32, and their copy in the type that the model computes in.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// AdamW's two moments.
    pub moments: u64,
    /// The policy that the run starts from, where the objective keeps near to it, and a critic with all it needs.
    pub other_models: u64,
    /// Keys and values of what is generated at once, and the weights' copy that decoding reads.
    pub generation: u64,
    /// What a pass of the updates holds; graphs of others are held beside it where memory is left alone.
    pub pass: u64,
    /// Tokens that go through the model at once.
    pub tokens: usize,
    /// What there is, where the device says so.
    pub available: Option<u64>,
}

impl MemoryEstimate {
    /// The most that is held at once: generation and updates take turns.
    pub fn total(&self) -> u64 {
        let steady = self.weights + self.moments + self.other_models;
        steady + self.generation.max(self.gradients + self.pass)
    }

    /// Whether the device has room for it, as far as is known.
    pub fn fits(&self) -> bool {
        self.available
            .is_none_or(|available| self.total() <= available)
    }
}

impl Trainer {
    /// What goes through the model at once.
    pub fn token_budget(&self) -> TokenBudget {
        let (model, config) = (&self.policy.model, &self.policy.config);
        let length = row_length(config, self.config.rollout.max_new_tokens);
        let room = (length, self.other_models_bytes());
        TokenBudget::new(self.config.update.max_tokens, model, config, room)
    }

    /// What the device may hold: on the CPU the system's free memory and what the weights have of it already.
    fn available_bytes(&self, weights: u64) -> Option<u64> {
        let device = self.policy.model.device();
        if device.clone().inner() == Device::flex() {
            return Some(free_bytes() + weights);
        }
        device_memory_bytes(&device)
    }

    /// The policy that the run starts from and a critic with a trunk of its own, where there are any.
    fn other_models_bytes(&self) -> u64 {
        let parameters = self.policy.config.parameters();
        let reference = self.reference.as_ref();
        let reference = reference.map_or(0, |_| self.dtype.size() as u64 * parameters);
        let critic = if self.has_critic_trunk() {
            STATE_BYTES * parameters
        } else {
            0
        };
        reference + critic
    }

    /// Tokens of the longest prompt, of which a token has some letters, and response.
    fn longest_row(&self) -> usize {
        let prompts = self.source.examples();
        let longest = prompts.iter().map(|problem| problem.prompt.len()).max();
        let prompt_tokens = longest.unwrap_or(0).div_ceil(3);
        let length = prompt_tokens + self.config.rollout.max_new_tokens;
        length.min(self.policy.config.max_position_embeddings)
    }

    /// Bytes of keys and values of what is generated at once, and of the weights' copy that decoding reads.
    fn generation_estimate(&self) -> u64 {
        let (config, model) = (&self.policy.config, &self.policy.model);
        let cell = self.dtype.size() as u64;
        let rows = self.config.rollout.batch_rows as u64;
        let slot = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
        let cache = rows * self.longest_row() as u64 * slot as u64 * cell;
        let packed = if model.is_fused() {
            4 * config.parameters()
        } else if model.has_device_decoder() {
            let heads = config.num_attention_heads + 2 * config.num_key_value_heads;
            let columns = heads * config.head_dim + 2 * config.intermediate_size;
            cell * (config.num_hidden_layers * config.hidden_size * columns) as u64
        } else {
            0
        };
        cache + packed
    }

    /// What the run takes of its device's memory.
    pub fn memory_estimate(&self) -> MemoryEstimate {
        let parameters = self.policy.config.parameters();
        let cell = self.dtype.size() as u64;
        let copy = if cell == 4 { 0 } else { cell * parameters };
        let budget = self.token_budget();
        let length = self.longest_row();
        let pass = self.pass_estimate(length);
        // Of several micro-batches one gradient is added to another.
        let gradients = 8 * parameters;
        MemoryEstimate {
            weights: 4 * parameters + copy,
            gradients,
            moments: 8 * parameters,
            other_models: self.other_models_bytes(),
            generation: self.generation_estimate(),
            pass,
            tokens: budget.tokens,
            available: self.available_bytes(4 * parameters),
        }
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

    #[test]
    fn passes_on_a_device_are_as_large_as_its_memory_holds() {
        const GIB: u64 = 1 << 30;
        let tokens = |memory| device_tokens(memory, 12 * GIB, GIB / 2048);
        // Four fifths of 20 GiB, less 12, at 2,048 a GiB.
        assert_eq!(tokens(Some(20 * GIB)), 4 * 2048);
        assert_eq!(tokens(Some(12 * GIB)), LEAST_DEVICE_TOKENS);
        assert_eq!(tokens(Some(1000 * GIB)), MOST_DEVICE_TOKENS);
        // An eighth of 12 GiB, and 256 MiB beside little.
        assert_eq!(tokens(None), 3 * 1024);
        assert_eq!(device_tokens(None, 1 << 20, GIB / 4096), 1024);
    }
}
