//! The head as one operation: figures of taken tokens without the matrix of all logits.

use std::sync::Arc;

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, Flex,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::{Shape, Tensor},
};
use kernels::{Compute, Softmax, Start, View, Weight, general, in_pool, product, softmax_gradient};
use rayon::prelude::*;

use super::operation::{Cells, cells, tensor};

/// Rows whose logits one thread holds.
const ROWS: usize = 48;
/// Rows whose logits the backward pass holds: enough that adding to the weight's gradient costs little.
const BACKWARD_ROWS: usize = 240;
/// Figures of a token: log-probability, entropy, entropy at the temperature.
pub(super) const FIGURES: usize = 3;

/// What the head is given besides tensors.
#[derive(Debug, Clone)]
pub(super) struct HeadPlan {
    pub(super) targets: Arc<Vec<u32>>,
    pub(super) temperature: f32,
    pub(super) has_entropy: bool,
    pub(super) compute: Compute,
    /// Whether the weight is `[vocab, width]`, the embedding's, rather than `[width, vocab]`.
    pub(super) is_tied: bool,
}

/// The head's operation, for burn's dispatch.
#[backend_extension(Flex, Autodiff)]
pub(super) trait HeadOps: Backend {
    /// Figures `[tokens, 3]` of hidden states `[tokens, width]`.
    fn token_figures(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        plan: HeadPlan,
    ) -> FloatTensor<Self>;
}

/// Sums of a row's softmax at temperature 1 and at the plan's.
type Sums = [Softmax; 2];

struct Head<'a> {
    plan: &'a HeadPlan,
    hidden: &'a [f32],
    /// `[width, vocab]`.
    weight: View<'a>,
    width: usize,
    vocab: usize,
}

impl<'a> Head<'a> {
    fn new(plan: &'a HeadPlan, hidden: &'a Cells, weight: &'a Cells) -> Self {
        let width = hidden.layout().shape()[1];
        let vocab = weight.layout().num_elements() / width;
        let weight = if plan.is_tied {
            View::dense(cells(weight), width).transposed()
        } else {
            View::dense(cells(weight), vocab)
        };
        Self {
            plan,
            hidden: cells(hidden),
            weight,
            width,
            vocab,
        }
    }

    fn is_plain(&self) -> bool {
        self.plan.temperature.to_bits() == 1.0_f32.to_bits()
    }

    fn sums(&self, logits: &[f32]) -> Sums {
        let at_temperature = Softmax::new(logits, self.plan.temperature);
        if self.is_plain() || !self.plan.has_entropy {
            return [at_temperature; 2];
        }
        [Softmax::new(logits, 1.0), at_temperature]
    }

    fn forward(&self) -> (Vec<f32>, Vec<Sums>) {
        let packed = Weight::new(self.weight, self.plan.compute);
        let targets = &self.plan.targets;
        let mut figures = vec![0.0; targets.len() * FIGURES];
        let chunks = figures
            .par_chunks_mut(ROWS * FIGURES)
            .zip(targets.par_chunks(ROWS));
        let sums = chunks
            .zip(self.hidden.par_chunks(ROWS * self.width))
            .map_init(Vec::new, |logits, ((figures, targets), hidden)| {
                logits.resize(targets.len() * self.vocab, 0.0);
                packed.multiply(
                    View::dense(hidden, self.width),
                    logits,
                    self.vocab,
                    Start::Zero,
                );
                let rows = logits.chunks_exact(self.vocab).zip(targets);
                rows.zip(figures.chunks_exact_mut(FIGURES))
                    .map(|((logits, &target), figures)| {
                        let sums = self.sums(logits);
                        let [plain, warm] = &sums;
                        figures[0] = warm.log_prob(logits[target as usize], self.plan.temperature);
                        if self.plan.has_entropy {
                            (figures[1], figures[2]) = (plain.entropy(), warm.entropy());
                        }
                        sums
                    })
                    .collect::<Vec<_>>()
            })
            .flatten_iter()
            .collect();
        (figures, sums)
    }

    /// The gradients of hidden states and of the weight in its own layout.
    fn backward(
        &self,
        sums: &[Sums],
        gradient: &[f32],
        wants_weight: bool,
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let packed = Weight::new(self.weight, self.plan.compute);
        let compute = self.plan.compute;
        let back =
            (compute == Compute::Bf16).then(|| Weight::new(self.weight.transposed(), compute));
        let mut d_hidden = vec![0.0; self.hidden.len()];
        let mut d_weight = wants_weight.then(|| vec![0.0; self.width * self.vocab]);
        let mut logits = vec![0.0; BACKWARD_ROWS.min(sums.len()) * self.vocab];
        for start in (0..sums.len()).step_by(BACKWARD_ROWS) {
            let end = (start + BACKWARD_ROWS).min(sums.len());
            let hidden = &self.hidden[start * self.width..end * self.width];
            let logits = &mut logits[..(end - start) * self.vocab];
            self.logit_gradients(&packed, start, hidden, sums, gradient, logits);
            let d_logits = View::dense(logits, self.vocab);
            let d_part = &mut d_hidden[start * self.width..end * self.width];
            match &back {
                Some(back) => back.multiply_shared(d_logits, d_part, self.width, Start::Zero),
                None => general(
                    d_logits,
                    self.weight.transposed(),
                    d_part,
                    self.width,
                    Start::Zero,
                ),
            }
            let hidden = View::dense(hidden, self.width);
            match &mut d_weight {
                Some(d_weight) if self.plan.is_tied => {
                    product(
                        compute,
                        d_logits.transposed(),
                        hidden,
                        d_weight,
                        Start::Existing,
                    );
                }
                Some(d_weight) => product(
                    compute,
                    hidden.transposed(),
                    d_logits,
                    d_weight,
                    Start::Existing,
                ),
                None => {}
            }
        }
        (d_hidden, d_weight)
    }

    fn logit_gradients(
        &self,
        packed: &Weight,
        start: usize,
        hidden: &[f32],
        sums: &[Sums],
        gradient: &[f32],
        logits: &mut [f32],
    ) {
        let chunks = logits
            .par_chunks_mut(ROWS * self.vocab)
            .zip(hidden.par_chunks(ROWS * self.width));
        chunks.enumerate().for_each(|(chunk, (logits, hidden))| {
            packed.multiply(
                View::dense(hidden, self.width),
                logits,
                self.vocab,
                Start::Zero,
            );
            for (row, logits) in logits.chunks_exact_mut(self.vocab).enumerate() {
                let token = start + chunk * ROWS + row;
                let [log_prob, entropy, _] =
                    [0, 1, 2].map(|figure| gradient[token * FIGURES + figure]);
                let [plain, warm] = &sums[token];
                let target = self.plan.targets[token] as usize;
                let entropy = (entropy != 0.0).then_some((plain, entropy));
                softmax_gradient(
                    logits,
                    target,
                    self.plan.temperature,
                    warm,
                    log_prob,
                    entropy,
                );
            }
        });
    }
}

fn figures(hidden: &Cells, weight: &Cells, plan: &HeadPlan) -> (Cells, Vec<Sums>) {
    let (figures, sums) = in_pool(|| Head::new(plan, hidden, weight).forward());
    (tensor(figures, Shape::from([sums.len(), FIGURES])), sums)
}

impl HeadOps for Flex {
    fn token_figures(hidden: Cells, weight: Cells, plan: HeadPlan) -> Cells {
        figures(&hidden.to_contiguous(), &weight.to_contiguous(), &plan).0
    }
}

#[derive(Debug)]
struct HeadBackward;

#[derive(Debug, Clone)]
struct State {
    hidden: Cells,
    weight: Cells,
    plan: HeadPlan,
    sums: Vec<Sums>,
}

impl Backward<Flex, 2> for HeadBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        let State {
            hidden,
            weight,
            plan,
            sums,
        } = ops.state;
        let [hidden_node, weight_node] = ops.parents;
        let head = Head::new(&plan, &hidden, &weight);
        let wants_weight = weight_node.is_some();
        let (d_hidden, d_weight) = in_pool(|| head.backward(&sums, cells(&gradient), wants_weight));
        let shape = |cells: &Cells| cells.layout().shape().clone();
        if let Some(node) = hidden_node {
            grads.register::<Flex>(node.id, tensor(d_hidden, shape(&hidden)));
        }
        if let (Some(node), Some(d_weight)) = (weight_node, d_weight) {
            grads.register::<Flex>(node.id, tensor(d_weight, shape(&weight)));
        }
    }
}

impl<C: CheckpointStrategy> HeadOps for Autodiff<Flex, C> {
    fn token_figures(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        plan: HeadPlan,
    ) -> FloatTensor<Self> {
        let ((hidden, hidden_node), (weight, weight_node)) =
            (hidden.into_parts(), weight.into_parts());
        let (hidden, weight) = (hidden.to_contiguous(), weight.to_contiguous());
        let (figures, sums) = figures(&hidden, &weight, &plan);
        match HeadBackward
            .prepare::<C>([hidden_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish(
                State {
                    hidden,
                    weight,
                    plan,
                    sums,
                },
                figures,
            ),
            OpsKind::UnTracked(operation) => operation.finish(figures),
        }
    }
}

/// Figures `[tokens, 3]` of hidden states `[tokens, width]`; the third has no gradient.
pub(super) fn token_figures(hidden: Tensor<2>, weight: Tensor<2>, plan: HeadPlan) -> Tensor<2> {
    let figures =
        <Dispatch as HeadOps>::token_figures(hidden.into_dispatch(), weight.into_dispatch(), plan);
    Tensor::from_dispatch(figures)
}
