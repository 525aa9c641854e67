//! How much of a forward pass fits into memory.

use std::ops::Range;

use burn::{
    module::Module,
    tensor::{DType, Device},
};
use policy::{
    CausalLm, Compute, Execution, ModelConfig, Policy, Recompute, device_memory_bytes,
    head_part_bytes,
};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::{Dtype, Memory, TokenBudget, Trainer, forward::MicroBatches};

/// Tokens that go through the model at once where the configuration leaves it open: packed ones on the CPU, and those of
/// attention's rows, with their padding, elsewhere.
const CPU_TOKENS: usize = 4096;
const LEAST_DEVICE_TOKENS: usize = 512;

/// The most tokens that go through the model at once on a device whose memory would hold more: products are large enough
/// with these, and memory does more where it keeps blocks' graphs.
const MOST_DEVICE_TOKENS: usize = 16_384;

/// The share of the free memory that a run may plan with: others live there too.
const USABLE_SHARE: f64 = 0.8;

impl TokenBudget {
    /// The budget of passes of a model over rows of `length`, beside other models of `other_bytes`; 0 tokens leave the
    /// number open.
    pub(crate) fn new(
        tokens: usize,
        model: &CausalLm,
        config: &ModelConfig,
        dtype: DType,
        (length, other_bytes): (usize, u64),
    ) -> Self {
        let is_packed = model.is_fused();
        let open = || {
            let device = model.device();
            let state = state_bytes(config, model, dtype) + head_bytes(config, model) + other_bytes;
            let memory = device_memory_bytes(&device);
            let token =
                TokenBytes::new(config, model, dtype, length).pass(least_kept(model, config));
            device_tokens(memory, state, token)
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

/// Bytes that are left of a memory beside what is always there and what else is held; where it is not known how large it
/// is, those that passes, or graphs, may take of it.
fn room(memory: Option<u64>, state: u64, held: u64) -> u64 {
    match memory {
        Some(memory) => ((memory as f64 * USABLE_SHARE) as u64).saturating_sub(state + held),
        None => LEAST_ROOM.max(state / UNKNOWN_SHARE),
    }
}

/// As many tokens as fit, at so many bytes each, beside what is always there.
fn device_tokens(memory: Option<u64>, state: u64, token: u64) -> usize {
    let tokens = room(memory, state, 0) / token.max(1);
    (tokens as usize).clamp(LEAST_DEVICE_TOKENS, MOST_DEVICE_TOKENS)
}

/// Of a parameter in f32, and of its copy in the type that the model computes in.
const CELL_BYTES: u64 = 4;
/// Of one that is trained, beside them: two gradients, one being added to the other, and two moments.
const TRAINED_BYTES: u64 = 8 + 8;

/// What training a model's weights, or its adapters, takes all the time.
fn state_bytes(config: &ModelConfig, model: &CausalLm, dtype: DType) -> u64 {
    let copies = CELL_BYTES * (config.parameters() + adapter_parameters(model));
    weight_bytes(config, model, dtype) + copies + TRAINED_BYTES * model.trained_parameters()
}

/// A model's weights as they are held: in f32, but frozen ones on a device in the type that it computes in. Adapters are in f32.
fn weight_bytes(config: &ModelConfig, model: &CausalLm, dtype: DType) -> u64 {
    let cell = if model.has_adapters() && !model.is_fused() {
        dtype.size() as u64
    } else {
        CELL_BYTES
    };
    cell * config.parameters() + CELL_BYTES * adapter_parameters(model)
}

/// Numbers of a model's adapters; none without them.
pub(crate) fn adapter_parameters(model: &CausalLm) -> u64 {
    if model.has_adapters() {
        model.trained_parameters()
    } else {
        0
    }
}

/// Tokens of a prompt where nothing is known of it yet.
const PROMPT_TOKENS: usize = 512;

/// The rows that a run's responses make, at most.
pub(crate) fn row_length(config: &ModelConfig, max_new_tokens: usize) -> usize {
    config
        .max_position_embeddings
        .min(PROMPT_TOKENS + max_new_tokens)
}

/// What a device's head holds: logits of two parts, and the weight's gradient, where it has one, in parts and whole.
fn head_bytes(config: &ModelConfig, model: &CausalLm) -> u64 {
    let gradient = if model.has_adapters() {
        0
    } else {
        2 * 4 * config.vocab_size * config.hidden_size
    };
    head_part_bytes(&model.device(), config.vocab_size) + gradient as u64
}

/// Bytes that a pass with gradients takes of a device for each token of its rows.
#[derive(Debug, Clone, Copy)]
struct TokenBytes {
    layers: u64,
    /// A block's input.
    input: u64,
    /// What a block's graph holds, its input among it.
    graph: u64,
    /// All that a block holds at once on its way back.
    block: u64,
}

impl TokenBytes {
    fn new(config: &ModelConfig, model: &CausalLm, dtype: DType, length: usize) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let heads = config.num_attention_heads;
        let projected = (heads + 2 * config.num_key_value_heads) * config.head_dim;
        // Scores with their weights and the gradients of both.
        let scores = 4 * heads * model.scores_held(length);
        // In and out of norms and of the residual stream, projections with their rotations, and the gated layer.
        let block = 8 * width + 4 * projected + 6 * inner + scores;
        let graph = if model.runs_kernels() {
            // What norms and products take, and what attention and the gate are of.
            4 * width + 2 * projected + heads * config.head_dim + 3 * inner
        } else {
            block
        };
        let [input, graph, block] =
            [width, graph, block].map(|cells| (cells * dtype.size()) as u64);
        let layers = config.num_hidden_layers as u64;
        Self {
            layers,
            input,
            graph,
            block,
        }
    }

    /// What a pass that keeps the graphs of so many blocks leaves until it goes backward.
    fn left(self, kept: usize) -> u64 {
        // After the last block: its result, and of that what predicts responses, and the last norm's.
        (self.layers + 2) * self.input + kept as u64 * (self.graph - self.input)
    }

    /// The most that it takes.
    fn pass(self, kept: usize) -> u64 {
        self.left(kept) + self.block
    }
}

/// Bytes of the copies that a pass has of a block's weights and of the head's, in the type that it computes in. In f32 there are
/// none, but of a block's weights where adapters are merged into them.
fn copied_bytes(config: &ModelConfig, model: &CausalLm, dtype: DType) -> [u64; 2] {
    let cell = match dtype {
        DType::F32 => 0,
        dtype => dtype.size() as u64,
    };
    let of_block = if model.has_adapters() {
        dtype.size() as u64
    } else {
        cell
    };
    let head = (config.vocab_size * config.hidden_size) as u64;
    let embeddings = head * if config.tie_word_embeddings { 1 } else { 2 };
    let blocks = config.parameters().saturating_sub(embeddings);
    let block = blocks / config.num_hidden_layers as u64;
    [block * of_block, head * cell]
}

/// Blocks whose graphs are kept whatever the room.
fn least_kept(model: &CausalLm, config: &ModelConfig) -> usize {
    match model.execution().recompute {
        Recompute::Nothing => config.num_hidden_layers,
        Recompute::FeedForward | Recompute::Block => 0,
    }
}

/// How many blocks, a model's last, may keep their graphs of `tokens` in `passes` that are held at once, where so many bytes
/// are left beside their inputs.
fn blocks_that_fit(
    (config, model, dtype): (&ModelConfig, &CausalLm, DType),
    bytes: TokenBytes,
    (tokens, passes): (u64, u64),
    room: u64,
) -> usize {
    let [copied, _] = copied_bytes(config, model, dtype);
    let block = tokens * (bytes.graph - bytes.input) + passes * copied;
    ((room / block.max(1)) as usize).min(config.num_hidden_layers)
}

/// How many blocks may keep their graphs in a pass of `tokens` in rows of `length` that has a device for itself.
pub(crate) fn blocks_kept_alone(
    policy: &Policy,
    dtype: DType,
    (tokens, length): (usize, usize),
) -> usize {
    let (config, model) = (&policy.config, &policy.model);
    if !model.runs_kernels() {
        return least_kept(model, config);
    }
    let bytes = TokenBytes::new(config, model, dtype, length);
    let device = model.device();
    let state = state_bytes(config, model, dtype) + head_bytes(config, model);
    let pass = tokens as u64 * bytes.pass(0);
    let room = room(device_memory_bytes(&device), state, pass);
    blocks_that_fit((config, model, dtype), bytes, (tokens as u64, 1), room)
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
        self.config.update.memory != Memory::Small
            && self.graph_bytes(parts, &parts.ranges) <= self.room_for_graphs(parts.longest())
    }

    /// Bytes that graphs of some of these micro-batches take at the least.
    fn graph_bytes(&self, parts: &MicroBatches, ranges: &[Range<usize>]) -> u64 {
        let (model, config) = (&self.policy.model, &self.policy.config);
        let token = left_bytes(config, model, self.dtype, parts.longest());
        // Each graph has copies of the weights that its backward pass reads in another type.
        let [block, head] = copied_bytes(config, model, self.dtype);
        let copied = head + least_kept(model, config) as u64 * block;
        let copies = ranges.len() as u64 * copied;
        self.models_passed() * (self.tokens(parts, ranges) * token + copies)
    }

    /// Tokens of micro-batches as the budget counts them: on a device at least as many as go through the model.
    fn tokens(&self, parts: &MicroBatches, ranges: &[Range<usize>]) -> u64 {
        let budget = self.token_budget();
        let tokens = ranges.iter();
        let tokens = tokens.map(|range| budget.count(&parts.sequences[range.clone()]) as u64);
        tokens.sum()
    }

    /// Blocks, the model's last, whose graphs micro-batches keep, where `ranges` of them are held at once; the others are
    /// computed again. No result depends on it. (On the CPU, blocks have forms of their own: [`prepare`] chooses.)
    pub(crate) fn blocks_kept(&self, parts: &MicroBatches, ranges: &[Range<usize>]) -> usize {
        let (model, config) = (&self.policy.model, &self.policy.config);
        // Burn's operations may round a block in another way when they compute it again: there memory must not decide.
        if !model.runs_kernels() {
            return least_kept(model, config);
        }
        match self.config.update.memory {
            Memory::Small => 0,
            Memory::Fast => least_kept(model, config),
            Memory::Auto | Memory::Balanced => {
                let length = parts.longest();
                let room = self.room_for_graphs(length);
                let room = room.saturating_sub(self.graph_bytes(parts, ranges));
                let bytes = TokenBytes::new(config, model, self.dtype, length);
                let held = (self.tokens(parts, ranges), ranges.len() as u64);
                let room = room / self.models_passed();
                blocks_that_fit((config, model, self.dtype), bytes, held, room)
            }
        }
    }

    /// Bytes that graphs may take beside a pass over rows of `length` and all that is always there; what generation took
    /// may still be with it.
    fn room_for_graphs(&self, length: usize) -> u64 {
        let parameters = self.policy.config.parameters();
        let (config, model) = (&self.policy.config, &self.policy.model);
        let state = state_bytes(config, model, self.dtype) + self.other_models_bytes();
        let pass = self.models_passed() * self.pass_estimate(length);
        let held = pass + self.generation_estimate();
        room(self.available_bytes(4 * parameters), state, held)
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
            left_bytes(config, model, self.dtype, length) * tokens
        } else {
            let bytes = TokenBytes::new(config, model, self.dtype, length);
            let head = head_bytes(config, model);
            bytes.pass(least_kept(model, config)) * tokens + head
        }
    }

    pub(crate) fn has_critic_trunk(&self) -> bool {
        let critic = self.critic.as_ref();
        critic.is_some_and(|critic| critic.model.trunk.is_some())
    }
}

/// Bytes that a pass with gradients leaves at the least for each token of rows of `length` until it goes backward.
fn left_bytes(config: &ModelConfig, model: &CausalLm, dtype: DType, length: usize) -> u64 {
    if model.is_fused() {
        config.activation_bytes(model.execution().recompute) as u64
    } else {
        TokenBytes::new(config, model, dtype, length).left(least_kept(model, config))
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
        TokenBudget::new(
            self.config.update.max_tokens,
            model,
            config,
            self.dtype,
            room,
        )
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
        // Where the weights are frozen, those of the start are the same tensors.
        let reference = reference.filter(|_| !self.policy.model.has_adapters());
        let reference = reference.map_or(0, |_| self.dtype.size() as u64 * parameters);
        let critic = if self.has_critic_trunk() {
            (2 * CELL_BYTES + TRAINED_BYTES) * parameters
        } else {
            0
        };
        reference + critic
    }

    /// Tokens of the longest prompt, of which a token has some letters, and response.
    fn longest_row(&self) -> usize {
        let prompt_tokens = self.source.longest_prompt().div_ceil(3);
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
        let model = &self.policy.model;
        // What generates and measures, in another type or with its adapters merged.
        let is_merged = model.has_adapters() && !model.is_fused();
        let copy = if cell == 4 && !is_merged {
            0
        } else {
            cell * parameters
        };
        let budget = self.token_budget();
        let length = self.longest_row();
        let pass = self.pass_estimate(length);
        // Of several micro-batches one gradient is added to another.
        let trained = model.trained_parameters();
        let gradients = 8 * trained;
        MemoryEstimate {
            weights: weight_bytes(&self.policy.config, model, self.dtype) + copy,
            gradients,
            moments: 8 * trained,
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
        Memory::Auto if fits(&policy, tokens, free_bytes()) => Recompute::FeedForward,
        Memory::Auto | Memory::Small => Recompute::Block,
    };
    let tensors = tensor_dtype(&policy.model, dtype);
    let execution = Execution {
        recompute,
        compute: compute(dtype, tensors),
        ..policy.model.execution()
    };
    policy.model = policy.model.with_execution(execution);
    (policy, tensors)
}

/// What the CPU's own loops round to where a model computes in `dtype` and its tensors are of the type `tensors`.
pub(crate) fn compute(dtype: Dtype, tensors: DType) -> Compute {
    if dtype == Dtype::Bf16 && tensors == DType::F32 {
        Compute::Bf16
    } else {
        Compute::F32
    }
}

/// A model as it computes in `dtype`, without gradients.
pub(crate) fn computing(model: &CausalLm, dtype: DType) -> CausalLm {
    let model = model.valid();
    // The CPU's own form merges adapters as it packs weights; elsewhere each product would.
    if model.is_fused() {
        model
    } else {
        model.merged_as(dtype)
    }
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
fn fits(policy: &Policy, tokens: usize, free_bytes: u64) -> bool {
    // A gradient and the optimizer's two moments.
    let state = 3.0 * 4.0 * policy.model.trained_parameters() as f64;
    let token = policy.config.activation_bytes(Recompute::FeedForward) as f64;
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
        let policy = crate::bundled_base(burn::tensor::DType::F32, &burn::tensor::Device::flex());
        let policy = policy.unwrap();
        let config = &policy.config;
        let needed = 12 * config.parameters()
            + 1000 * config.activation_bytes(Recompute::FeedForward) as u64;
        assert!(fits(&policy, 1000, 2 * needed));
        assert!(!fits(&policy, 1000, needed));
        assert!(free_bytes() > 0);
    }

    #[test]
    fn adapters_take_no_gradients_and_moments_of_whole_matrices() {
        let estimate = |settings: &[&str]| {
            let trainer = Trainer::new(crate::tiny::config(settings), crate::tiny::policy());
            let trainer = trainer.unwrap();
            let trained = trainer.policy.model.trained_parameters();
            (
                trainer.memory_estimate(),
                trained,
                trainer.checkpoint_bytes(),
            )
        };
        let (whole, parameters, saved_whole) = estimate(&[]);
        let (adapted, trained, saved) = estimate(&["lora.rank=2"]);
        assert!(trained < parameters, "{trained} of {parameters}");
        assert_eq!(whole.weights, 4 * parameters);
        assert_eq!(adapted.weights, 4 * (parameters + trained));
        for (estimate, numbers) in [(whole, parameters), (adapted, trained)] {
            assert_eq!([estimate.gradients, estimate.moments], [8 * numbers; 2]);
        }
        assert_eq!(saved_whole, 20 * parameters);
        assert_eq!(saved, 4 * parameters + 20 * trained);
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

    /// On the device that `ANNEAL_DEVICE` names.
    #[cfg(feature = "cube")]
    #[test]
    fn graphs_take_of_a_cube_what_is_planned() {
        use crate::{
            ArchitectureSection, SftConfig,
            batch::{Collated, Sequence},
            pass::Pass,
        };

        let Some((device, _guard)) = crate::tiny::device() else {
            return;
        };
        let sft = SftConfig {
            architecture: ArchitectureSection {
                hidden_size: 128,
                intermediate_size: 384,
                num_hidden_layers: 4,
                num_attention_heads: 4,
                num_key_value_heads: 2,
                max_position_embeddings: 128,
            },
            ..SftConfig::default()
        };
        let policy = sft.new_policy(&device.clone().autodiff()).unwrap();
        let (config, model) = (&policy.config, &policy.model);
        // Prompts that neighbours do not share.
        let row = |index: u32| Sequence::new(&[1 + index % 2; 64], &[2; 64]);
        let rows: Vec<Sequence> = (0..64).map(row).collect();
        let collated = Collated::new(&rows, 64);
        for dtype in [DType::F32, DType::F16] {
            if !device.supports_dtype(dtype) {
                continue;
            }
            // The weights are drawn, the kernels compiled and what they leave is gone.
            Pass::new(&collated, model, dtype, 1);
            let bytes = TokenBytes::new(config, model, dtype, 128);
            let [copied, _] = copied_bytes(config, model, dtype);
            for kept in [0, 2, 4] {
                let before = device.memory_pool_usage().unwrap().bytes_in_use;
                let pass = Pass::new(&collated, model, dtype, kept);
                let taken = device.memory_pool_usage().unwrap().bytes_in_use - before;
                let planned = 64 * 128 * bytes.left(kept) + kept as u64 * copied;
                let share = taken as f64 / planned as f64;
                // Beside it angles and positions, which no plan counts.
                assert!((0.8..1.05).contains(&share), "{dtype:?}, {kept}: {share}");
                drop(pass);
            }
        }
    }
}
