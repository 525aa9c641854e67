//! What goes into generation and what comes out.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};

use crate::{RolloutError, SamplingParams};

/// The identity of one sample, from which all its random draws follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SampleKey {
    /// The run's seed.
    pub seed: u64,
    /// The training step.
    pub step: u64,
    /// The prompt's number: in training its place in the run's sequence of problems.
    pub row: u64,
    /// The sample's number within its group.
    pub sample: u64,
}

impl SampleKey {
    /// The generator of token `index`: ChaCha8 keyed by the sample, wound to the token.
    pub fn rng(&self, index: usize) -> ChaCha8Rng {
        let mut seed = [0; 32];
        let words = [self.seed, self.step, self.row, self.sample];
        for (bytes, word) in seed.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut rng = ChaCha8Rng::from_seed(seed);
        rng.set_word_pos(16 * index as u128);
        rng
    }
}

/// One answer asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt_ids: Vec<u32>,
    /// The identity that seeds its sampling.
    pub key: SampleKey,
}

/// Why a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model gave an end token, which is the response's last.
    EndToken,
    /// A stop string appeared; the response holds the token that completed it.
    StopString,
    /// The response reached its length limit or the model's context.
    Length,
}

impl FinishReason {
    /// Whether the response was cut off rather than finished.
    pub fn is_truncated(self) -> bool {
        self == Self::Length
    }
}

/// One sampled answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The prompt's tokens.
    pub prompt_ids: Vec<u32>,
    /// The response's tokens, its end token included.
    pub response_ids: Vec<u32>,
    /// log-softmax of the logits over the temperature at each response token, in nats; at temperature 0 that of 1.
    pub sampler_log_probs: Vec<f32>,
    /// Entropy of the softmax at temperature 1 at each response token, in nats.
    #[serde(default)]
    pub sampler_entropies: Vec<f32>,
    /// The same at the sampling temperature.
    #[serde(default)]
    pub sampler_entropies_at_temperature: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// The identity that seeded it.
    pub key: SampleKey,
}

/// How far a generation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Responses that have ended.
    pub finished: usize,
    /// Responses asked for.
    pub total: usize,
    /// Response tokens sampled so far.
    pub tokens: usize,
}

/// A source of rollouts: the local engine, a remote one, or a test double.
pub trait Generator {
    /// Answers every request, in the requests' order; `on_progress` is called now and then.
    ///
    /// # Errors
    /// Parameters out of range, a prompt that does not fit, or a model that gives no finite logits.
    fn generate(
        &self,
        requests: &[Request],
        params: &SamplingParams,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Rollout>, RolloutError>;
}
