//! Forward passes of micro-batches: with the graph that an update goes back through, or for their figures alone.

use std::ops::Range;

use burn::{module::Module, tensor::Tensor};
use policy::{CausalLm, EntropyPass, HeadOptions};

use crate::{
    Trainer, TrainerError,
    batch::{Collated, Sequence, TokenBudget, longest_response, micro_batches},
    critic::CriticModel,
    measure::read,
    parallel::map_ordered,
    pass::{Below, Pass},
};

/// Sequences, and how they are cut into micro-batches.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MicroBatches {
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) ranges: Vec<Range<usize>>,
    /// Tokens of the longest response: the width of every matrix of theirs.
    pub(crate) response_len: usize,
}

impl MicroBatches {
    pub(crate) fn new(sequences: Vec<Sequence>, budget: TokenBudget) -> Self {
        Self {
            ranges: micro_batches(&sequences, budget),
            response_len: longest_response(&sequences),
            sequences,
        }
    }

    /// Tokens of the longest sequence.
    pub(crate) fn longest(&self) -> usize {
        let lengths = self.sequences.iter().map(|sequence| sequence.ids.len());
        lengths.max().unwrap_or(0)
    }

    pub(crate) fn collated(&self, range: &Range<usize>) -> Collated {
        Collated::new(&self.sequences[range.clone()], self.response_len)
    }
}

/// Figures of a micro-batch's response tokens, `[rows, response_len]` each, 0 at padding.
pub(crate) struct Figures {
    /// log π at the rollout's temperature.
    pub(crate) log_probs: Tensor<2>,
    /// At temperature 1, in nats.
    pub(crate) entropies: Option<Tensor<2>>,
    /// At the rollout's temperature; without a gradient.
    pub(crate) entropies_at_temperature: Option<Tensor<2>>,
    /// The critic's, where there is one.
    pub(crate) values: Option<Tensor<2>>,
}

impl Figures {
    /// From the hidden states that predict the response tokens, and the values of those.
    pub(crate) fn of(
        collated: &Collated,
        model: &CausalLm,
        hidden: Tensor<2>,
        values: Option<Tensor<1>>,
        options: HeadOptions,
    ) -> Self {
        let scores = collated.score_hidden(model, hidden, options);
        let spread = |flat: Option<Tensor<1>>| flat.map(|flat| collated.spread(flat));
        Self {
            log_probs: collated.spread(scores.log_probs),
            entropies: spread(scores.entropies),
            entropies_at_temperature: spread(scores.entropies_at_temperature),
            values: spread(values),
        }
    }
}

/// A micro-batch's forward pass, with the models whose graph it made.
pub(crate) struct Forward {
    pub(crate) figures: Figures,
    pub(crate) model: CausalLm,
    pub(crate) critic: Option<CriticModel>,
    pub(crate) below: Below,
    pub(crate) critic_below: Option<Below>,
    pub(crate) range: Range<usize>,
}

impl Forward {
    pub(crate) fn host_log_probs(&self) -> Result<Vec<f32>, TrainerError> {
        read_matrix(&self.figures.log_probs)
    }
}

impl Trainer {
    /// A forward pass on models of its own: the same weights, but leaves of a graph that no other pass shares, with those of
    /// the last `kept` blocks whole.
    pub(crate) fn forward(
        &self,
        parts: &MicroBatches,
        range: &Range<usize>,
        kept: usize,
        entropy: EntropyPass,
    ) -> Forward {
        let device = self.policy.model.device();
        let model = self.policy.model.clone().fork(&device);
        let critic = self.critic.as_ref();
        let critic = critic.map(|critic| critic.model.clone().fork(&device));
        // Through the cast, gradients arrive at the f32 weights.
        let head = model.clone().cast_head(self.dtype);
        let collated = parts.collated(range);
        let pass = Pass::new(&collated, &model, self.dtype, kept);
        let hidden = pass.hidden.clone();
        let valued = critic.as_ref();
        let computed = (self.dtype, kept);
        let valued = valued.map(|critic| critic.tracked_values(&hidden, &collated, computed));
        let (values, critic_below) = valued.unzip();
        Forward {
            figures: Figures::of(&collated, &head, hidden, values, self.head_options(entropy)),
            model,
            critic,
            below: pass.below(),
            critic_below,
            range: range.clone(),
        }
    }

    /// Every micro-batch's forward pass, in order.
    pub(crate) fn forwards(
        &self,
        parts: &MicroBatches,
        entropy: EntropyPass,
    ) -> Result<Vec<Forward>, TrainerError> {
        let kept = self.blocks_kept(parts, &parts.ranges);
        self.each(&parts.ranges, |range| {
            Ok(self.forward(parts, range, kept, entropy))
        })
    }

    /// The current log-probabilities of every cell, `[rows, response_len]`, from passes without a graph: burn frees what a
    /// graph holds in a backward pass alone.
    pub(crate) fn current_log_probs(&self, parts: &MicroBatches) -> Result<Vec<f32>, TrainerError> {
        let policy = self.computing_model();
        let options = self.head_options(EntropyPass::Skip);
        let log_probs = self.each(&parts.ranges, |range| {
            let collated = parts.collated(range);
            let scores = collated.score(&policy, options);
            read_matrix(&collated.spread(scores.log_probs))
        })?;
        Ok(log_probs.concat())
    }

    /// A pass for each item, in order, as many at a time as there are workers; none begins once the run is to stop.
    pub(crate) fn each<T: Sync, R: Send>(
        &self,
        items: &[T],
        pass: impl Fn(&T) -> Result<R, TrainerError> + Sync,
    ) -> Result<Vec<R>, TrainerError> {
        let results = map_ordered(items, self.workers, |item| {
            self.stop.obey()?;
            pass(item)
        });
        results.into_iter().collect()
    }

    /// What a pass with gradients finds of entropies, where something beside the objective reads them or nothing does.
    pub(crate) fn entropy_pass(&self, reads_values: bool) -> EntropyPass {
        let control = self.objective.entropy_control();
        if control.needs_entropy_gradient() {
            EntropyPass::Gradient
        } else if control.needs_entropies() || reads_values {
            EntropyPass::Values
        } else {
            EntropyPass::Skip
        }
    }

    pub(crate) fn head_options(&self, entropy: EntropyPass) -> HeadOptions {
        HeadOptions {
            temperature: self.config.rollout.temperature,
            entropy,
        }
    }
}

/// A matrix's cells on the host, row-major.
pub(crate) fn read_matrix(matrix: &Tensor<2>) -> Result<Vec<f32>, TrainerError> {
    let [rows, response_len] = matrix.dims();
    read(
        matrix
            .clone()
            .without_autodiff()
            .reshape([rows * response_len]),
    )
}
