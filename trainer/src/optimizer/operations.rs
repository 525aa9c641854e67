//! What an update does to each tensor in one go: on the CPU without temporary copies, and AdamW on a GPU too.

#[cfg(feature = "cube")]
use burn::backend::{DispatchDevice, ops::FloatTensorOps};
use burn::{
    backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor},
    tensor::{DType, Device, Tensor, TensorData},
};
#[cfg(feature = "cube")]
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use kernels::AdamW;

#[cfg(feature = "cube")]
use super::cube;

/// An update on parameters and gradients, for burn's dispatch.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
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

#[cfg(feature = "cube")]
impl UpdateOps for CubeBackend {
    fn adamw(
        parameter: CubeTensor,
        gradient: CubeTensor,
        moment_1: CubeTensor,
        moment_2: CubeTensor,
        update: AdamW,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [p, m, v] = cube::adamw(parameter, gradient, [moment_1, moment_2], update);
        (p, m, v)
    }

    fn sum_of_squares(x: CubeTensor) -> CubeTensor {
        cube::sum_of_squares(x)
    }

    fn scaled(x: CubeTensor, factor: f32) -> CubeTensor {
        Self::float_mul_scalar(x, factor.into())
    }
}

/// Whether these operations take a tensor.
pub(super) fn takes<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && has_operations(&tensor.device())
}

#[cfg(feature = "cube")]
fn has_operations(device: &Device) -> bool {
    let is_cube = matches!(device.as_dispatch(), DispatchDevice::Cube(_));
    is_cube || *device == Device::flex()
}

#[cfg(not(feature = "cube"))]
fn has_operations(device: &Device) -> bool {
    *device == Device::flex()
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
