//! The CPU's part of an update: in place, on all cores, without temporary copies.

use burn::{
    backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor},
    tensor::{DType, Device, Tensor, TensorData},
};
use kernels::AdamW;

/// Operations on parameters and gradients, for burn's dispatch.
#[backend_extension(Flex)]
pub(super) trait UpdateOps: Backend {
    /// The parameter and its two moments after an update.
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
        update: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Σ x² as a tensor of one element.
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// x·factor.
    fn scaled(x: FloatTensor<Self>, factor: f32) -> FloatTensor<Self>;
}

type Cells = FloatTensor<Flex>;

/// The elements, for writing; copied only where another tensor shares them.
fn cells_mut(tensor: &mut Cells) -> &mut [f32] {
    let start = tensor.layout().start_offset();
    let count = tensor.layout().num_elements();
    &mut tensor.storage_mut::<f32>()[start..start + count]
}

fn cells(tensor: &Cells) -> &[f32] {
    let start = tensor.layout().start_offset();
    &tensor.storage::<f32>()[start..start + tensor.layout().num_elements()]
}

impl UpdateOps for Flex {
    fn adamw(
        parameter: Cells,
        gradient: Cells,
        moment_1: Cells,
        moment_2: Cells,
        update: AdamW,
    ) -> (Cells, Cells, Cells) {
        let gradient = gradient.to_contiguous();
        let [mut p, mut m, mut v] = [parameter, moment_1, moment_2].map(|x| x.to_contiguous());
        let moments = [cells_mut(&mut m), cells_mut(&mut v)];
        update.step(cells_mut(&mut p), cells(&gradient), moments);
        (p, m, v)
    }

    fn sum_of_squares(x: Cells) -> Cells {
        let sum = kernels::sum_of_squares(cells(&x.to_contiguous()));
        Cells::from_data(TensorData::new(vec![sum as f32], [1]))
    }

    fn scaled(x: Cells, factor: f32) -> Cells {
        let mut x = x.to_contiguous();
        kernels::scale(cells_mut(&mut x), factor);
        x
    }
}

/// Whether these operations take a tensor.
pub(super) fn takes<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.device() == Device::flex() && tensor.dtype() == DType::F32
}

pub(super) fn adamw<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    [moment_1, moment_2]: [Tensor<D>; 2],
    update: AdamW,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let (p, m, v) = <Dispatch as UpdateOps>::adamw(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        moment_1.into_dispatch(),
        moment_2.into_dispatch(),
        update,
    );
    let moments = [m, v].map(Tensor::from_dispatch);
    (Tensor::from_dispatch(p), moments)
}

pub(super) fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    if takes(&x) {
        return Tensor::from_dispatch(<Dispatch as UpdateOps>::sum_of_squares(x.into_dispatch()));
    }
    x.square().sum()
}

pub(super) fn scaled<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    if takes(&x) {
        let x = <Dispatch as UpdateOps>::scaled(x.into_dispatch(), factor as f32);
        return Tensor::from_dispatch(x);
    }
    x * factor
}
