//! The last norm as an operation of its own, so that it rounds as decoding does.

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
    tensor::Tensor,
};

use super::operation::{Cells, cells, tensor};

/// The norm's operation, for burn's dispatch.
#[backend_extension(Flex, Autodiff)]
pub(super) trait NormOps: Backend {
    /// x / rms(x) · weight for rows `[tokens, width]`.
    fn row_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32)
    -> FloatTensor<Self>;
}

fn forward(x: &Cells, weight: &Cells, epsilon: f32) -> Cells {
    let mut y = vec![0.0; x.layout().num_elements()];
    kernels::rms_norm(cells(x), cells(weight), epsilon, &mut y);
    tensor(y, x.layout().shape().clone())
}

impl NormOps for Flex {
    fn row_norm(x: Cells, weight: Cells, epsilon: f32) -> Cells {
        forward(&x.to_contiguous(), &weight.to_contiguous(), epsilon)
    }
}

#[derive(Debug)]
struct NormBackward;

impl Backward<Flex, 2> for NormBackward {
    type State = (Cells, Cells, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, weight, epsilon) = ops.state;
        let mut dx = vec![0.0; x.layout().num_elements()];
        let mut dw = vec![0.0; weight.layout().num_elements()];
        kernels::rms_norm_backward(
            cells(&x),
            cells(&weight),
            epsilon,
            cells(&dy),
            &mut dx,
            &mut dw,
        );
        let [x_node, weight_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, tensor(dx, x.layout().shape().clone()));
        }
        if let Some(node) = weight_node {
            grads.register::<Flex>(node.id, tensor(dw, weight.layout().shape().clone()));
        }
    }
}

impl<C: CheckpointStrategy> NormOps for Autodiff<Flex, C> {
    fn row_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let y = forward(&x, &weight, epsilon);
        match NormBackward
            .prepare::<C>([x_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((x, weight, epsilon), y),
            OpsKind::UnTracked(operation) => operation.finish(y),
        }
    }
}

/// Normed rows.
///
/// # Shapes
/// `x` and the result `[tokens, width]`, `weight` `[width]`.
pub(super) fn row_norm(x: Tensor<2>, weight: Tensor<1>, epsilon: f32) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as NormOps>::row_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        epsilon,
    ))
}
