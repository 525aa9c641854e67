//! The block as one operation of burn's CPU backend, with a backward pass of its own.

#![allow(
    clippy::too_many_arguments,
    reason = "an operation's inputs are tensors, and burn takes them one by one"
)]

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
    tensor::{Shape, Tensor, TensorData},
};

use kernels::in_pool;

use super::{
    block::{Block, Kept, Weights},
    shape::BlockPlan,
};

/// A block's operation, for burn's dispatch.
#[backend_extension(Flex, Autodiff)]
pub(super) trait BlockOps: Backend {
    /// The block's output for packed tokens `x` `[tokens, width]`.
    fn decoder_block(
        x: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        plan: BlockPlan,
    ) -> FloatTensor<Self>;
}

pub(super) type Cells = FloatTensor<Flex>;

/// The elements of a contiguous tensor.
pub(super) fn cells(tensor: &Cells) -> &[f32] {
    let start = tensor.layout().start_offset();
    &tensor.storage::<f32>()[start..start + tensor.layout().num_elements()]
}

pub(super) fn tensor(cells: Vec<f32>, shape: Shape) -> Cells {
    Cells::from_data(TensorData::new(cells, shape))
}

fn weights(
    [vectors, query, key, value, output, gate, up, down, factors]: [&Cells; 9],
) -> Weights<'_> {
    Weights {
        vectors: cells(vectors),
        query: cells(query),
        key: cells(key),
        value: cells(value),
        output: cells(output),
        gate: cells(gate),
        up: cells(up),
        down: cells(down),
        factors: cells(factors),
    }
}

fn forward(inputs: &[Cells; 10], plan: &BlockPlan, keeps: bool) -> (Cells, Kept) {
    let [x, rest @ ..] = inputs.each_ref();
    let (y, kept) = in_pool(|| Block::new(plan, weights(rest)).forward(cells(x), keeps));
    (tensor(y, x.layout().shape().clone()), kept)
}

impl BlockOps for Flex {
    fn decoder_block(
        x: Cells,
        vectors: Cells,
        query: Cells,
        key: Cells,
        value: Cells,
        output: Cells,
        gate: Cells,
        up: Cells,
        down: Cells,
        factors: Cells,
        plan: BlockPlan,
    ) -> Cells {
        let inputs = [
            x, vectors, query, key, value, output, gate, up, down, factors,
        ];
        forward(&inputs.map(|input| input.to_contiguous()), &plan, false).0
    }
}

#[derive(Debug)]
struct BlockBackward;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    inputs: [Cells; 10],
    kept: Kept,
    plan: BlockPlan,
}

impl Backward<Flex, 10> for BlockBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 10>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let State { inputs, kept, plan } = ops.state;
        let [x, rest @ ..] = inputs.each_ref();
        let block = Block::new(&plan, weights(rest));
        let [_, _, matrices @ .., _] = ops.parents.each_ref();
        let wanted = matrices.map(Option::is_some);
        let result = in_pool(|| block.backward(cells(x), kept, cells(&dy), wanted));
        let gradients = [Some(result.x), Some(result.vectors)]
            .into_iter()
            .chain(result.matrices)
            .chain([Some(result.factors)]);
        for ((parent, input), gradient) in ops.parents.iter().zip(&inputs).zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                let shape = input.layout().shape().clone();
                grads.register::<Flex>(parent.id, tensor(gradient, shape));
            }
        }
    }
}

impl<C: CheckpointStrategy> BlockOps for Autodiff<Flex, C> {
    fn decoder_block(
        x: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        plan: BlockPlan,
    ) -> FloatTensor<Self> {
        let parts = [
            x, vectors, query, key, value, output, gate, up, down, factors,
        ]
        .map(|input| {
            let (cells, guard) = input.into_parts();
            (cells.to_contiguous(), guard)
        });
        let inputs = parts.each_ref().map(|(cells, _)| cells.clone());
        let guards = parts.map(|(_, guard)| guard);
        match BlockBackward
            .prepare::<C>(guards)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => {
                let (y, kept) = forward(&inputs, &plan, true);
                operation.finish(State { inputs, kept, plan }, y)
            }
            OpsKind::UnTracked(operation) => operation.finish(forward(&inputs, &plan, false).0),
        }
    }
}

/// One block over packed tokens.
///
/// # Shapes
/// `x` and the result `[tokens, width]`, `vectors` `[len]`, matrices `[inputs, outputs]` in the order query, key, value,
/// output, gate, up, down, `factors` as the plan's adapters lay them out.
pub(super) fn decoder_block(
    x: Tensor<2>,
    vectors: Tensor<1>,
    matrices: [Tensor<2>; 7],
    factors: Tensor<1>,
    plan: BlockPlan,
) -> Tensor<2> {
    let [query, key, value, output, gate, up, down] = matrices.map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as BlockOps>::decoder_block(
        x.into_dispatch(),
        vectors.into_dispatch(),
        query,
        key,
        value,
        output,
        gate,
        up,
        down,
        factors.into_dispatch(),
        plan,
    ))
}
