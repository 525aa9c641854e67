//! The head: log-probabilities and entropies of chosen tokens.

use burn::tensor::{DType, Device, Int, Tensor};

use crate::{CausalLm, device_memory_bytes};

/// Tokens and ids whose logits kernels hold at once: 4,096 × 8,192 in f32 are 134 MB. Where memory is no matter, 1.07 GB, so
/// that the products of the way back have results for all of a device.
pub(crate) fn part_at_once(device: &Device) -> [usize; 2] {
    const LARGE: u64 = 32 << 30;
    match device_memory_bytes(device) {
        Some(LARGE..) => [16_384, 16_384],
        _ => [4096, 8192],
    }
}

/// Bytes that kernels hold of a device while they go over the head's parts: logits, and the gradients of those.
pub fn head_part_bytes(device: &Device, vocab_size: usize) -> u64 {
    let [tokens, ids] = part_at_once(device);
    2 * 4 * (tokens * ids.min(vocab_size)) as u64
}

/// What the head measures of each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadOptions {
    /// Divides the logits before the log-probabilities.
    pub temperature: f64,
    /// Whether entropies are computed too; they cost two more passes over the logits.
    pub entropy: EntropyPass,
}

/// What the head does about entropies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EntropyPass {
    /// Nothing.
    #[default]
    Skip,
    /// Their values.
    Values,
    /// Those at temperature 1 with their gradient.
    Gradient,
}

/// Figures of taken tokens, each `[tokens]`.
#[derive(Debug, Clone)]
pub struct TokenScores {
    /// log π(token | context) at the temperature, with its gradient where the model has one.
    pub log_probs: Tensor<1>,
    /// Exact entropy -Σ p·log p of the softmax at temperature 1, in nats; with its gradient where
    /// that was asked for.
    pub entropies: Option<Tensor<1>>,
    /// The same at the options' temperature, without a gradient.
    pub entropies_at_temperature: Option<Tensor<1>>,
}

impl TokenScores {
    /// From what a head of one operation gives of each token: its log-probability, its entropy, that at the temperature.
    ///
    /// # Shapes
    /// `figures` `[tokens, 3]`.
    pub(crate) fn from_figures(figures: Tensor<2>, entropy: EntropyPass) -> Self {
        let [tokens, _] = figures.dims();
        let column = |index: usize| figures.clone().narrow(1, index, 1).reshape([tokens]);
        let entropies = match entropy {
            EntropyPass::Skip => None,
            EntropyPass::Values => Some(column(1).without_autodiff()),
            EntropyPass::Gradient => Some(column(1)),
        };
        Self {
            log_probs: column(0),
            entropies_at_temperature: entropies.is_some().then(|| column(2).without_autodiff()),
            entropies,
        }
    }
}

/// Logits held at once, in elements: 64 Mi of f32 are 256 MB.
const CHUNK_ELEMENTS: usize = 1 << 26;

impl CausalLm {
    /// Log-probabilities, and entropies if asked for, of `targets` given the hidden states that predict them.
    ///
    /// ```text
    /// log π = l_target - logsumexp(l),  H = logsumexp(l) - Σ softmax(l)·l,  l = logits / temperature, in f32
    /// ```
    ///
    /// Tokens go through the head in chunks, so the logits in memory are bounded where no gradient is kept.
    ///
    /// # Shapes
    /// `hidden` `[tokens, hidden_size]`.
    ///
    /// # Panics
    /// If there is not one target for each hidden state.
    pub fn score_tokens(
        &self,
        hidden: Tensor<2>,
        targets: &[u32],
        options: HeadOptions,
    ) -> TokenScores {
        let [tokens, _] = hidden.dims();
        assert_eq!(targets.len(), tokens, "one target for each hidden state");
        if self.is_fused() {
            return self.fused_scores(hidden, targets, options);
        }
        #[cfg(feature = "cube")]
        if self.runs_kernels() && tokens > 0 {
            return self.kernel_scores(hidden, targets, options);
        }
        let targets: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
        let targets = Tensor::<1, Int>::from_data(targets.as_slice(), &hidden.device());
        let rows = (CHUNK_ELEMENTS / self.vocab_size()).max(1);
        let chunks = (0..tokens.max(1)).step_by(rows).map(|start| {
            let count = rows.min(tokens - start);
            let logits = self.logits(hidden.clone().narrow(0, start, count));
            score_logits(logits, targets.clone().narrow(0, start, count), options)
        });
        concatenate(chunks.collect())
    }
}

pub(crate) fn score_logits(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    options: HeadOptions,
) -> TokenScores {
    let logits = logits.cast(DType::F32);
    let entropies = match options.entropy {
        EntropyPass::Skip => None,
        EntropyPass::Values => Some(entropy(logits.clone().without_autodiff())),
        EntropyPass::Gradient => Some(entropy(logits.clone())),
    };
    let is_plain = (options.temperature - 1.0).abs() < f64::EPSILON;
    let scaled = if is_plain {
        logits
    } else {
        logits / options.temperature
    };
    let entropies_at_temperature = match &entropies {
        Some(plain) if is_plain => Some(plain.clone().without_autodiff()),
        Some(_) => Some(entropy(scaled.clone().without_autodiff())),
        None => None,
    };
    let total = log_sum_exp(scaled.clone());
    let [tokens, _] = scaled.dims();
    let taken = scaled
        .gather(1, targets.reshape([tokens, 1]))
        .reshape([tokens]);
    TokenScores {
        log_probs: taken - total,
        entropies,
        entropies_at_temperature,
    }
}

/// log Σ exp(l) over the last dimension, shifted by its maximum.
fn log_sum_exp(logits: Tensor<2>) -> Tensor<1> {
    let [tokens, _] = logits.dims();
    let largest = logits.clone().detach().max_dim(1);
    let sum = (logits - largest.clone()).exp().sum_dim(1);
    (sum.log() + largest).reshape([tokens])
}

/// H = logsumexp(l) - Σ softmax(l)·l, in nats.
fn entropy(logits: Tensor<2>) -> Tensor<1> {
    let [tokens, _] = logits.dims();
    let shifted = logits.clone() - logits.detach().max_dim(1);
    let weights = shifted.clone().exp();
    let sum = weights.clone().sum_dim(1);
    let mean = (weights * shifted).sum_dim(1) / sum.clone();
    (sum.log() - mean).reshape([tokens])
}

fn concatenate(mut chunks: Vec<TokenScores>) -> TokenScores {
    if chunks.len() == 1 {
        return chunks.swap_remove(0);
    }
    let join = |pick: fn(&TokenScores) -> Option<Tensor<1>>| {
        let parts = chunks.iter().map(pick).collect::<Option<Vec<_>>>()?;
        Some(Tensor::cat(parts, 0))
    };
    TokenScores {
        log_probs: Tensor::cat(chunks.iter().map(|c| c.log_probs.clone()).collect(), 0),
        entropies: join(|c| c.entropies.clone()),
        entropies_at_temperature: join(|c| c.entropies_at_temperature.clone()),
    }
}
