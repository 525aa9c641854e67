//! AdamW on a GPU: one kernel a parameter, in place. And a gradient's norm, summed in one order.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::{
    kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{calculate_cube_count_elemwise, prelude::*};
use kernels::AdamW;
use policy::{CUBE_UNITS as UNITS, sum_of_units};

/// What [`AdamW`] holds, and what is left of its decays.
#[derive(Debug, Clone, Copy, CubeType, CubeLaunch)]
struct Factors {
    beta_1: f32,
    beta_2: f32,
    rest_1: f32,
    rest_2: f32,
    correction_1: f32,
    correction_2: f32,
    epsilon: f32,
    rate: f32,
    keep: f32,
}

/// The update of `kernels::AdamW`, a unit for each element.
#[cube(launch)]
fn adamw_kernel<N: Size>(
    parameter: &mut Tensor<Vector<f32, N>>,
    gradient: &Tensor<Vector<f32, N>>,
    moment_1: &mut Tensor<Vector<f32, N>>,
    moment_2: &mut Tensor<Vector<f32, N>>,
    factors: Factors,
    count: u32,
    #[comptime] vector: usize,
) {
    let at = ABSOLUTE_POS;
    if at >= count as usize {
        terminate!();
    }
    let (mut p, g) = (parameter[at], gradient[at]);
    let (mut m, mut v) = (moment_1[at], moment_2[at]);
    #[unroll]
    for i in 0..vector {
        let slope = g.extract(i);
        let first = m.extract(i) * factors.beta_1 + slope * factors.rest_1;
        let second = v.extract(i) * factors.beta_2 + slope * slope * factors.rest_2;
        let size = (second / factors.correction_2).sqrt() + factors.epsilon;
        let delta = first / factors.correction_1 / size;
        m.insert(i, first);
        v.insert(i, second);
        p.insert(i, p.extract(i) * factors.keep - delta * factors.rate);
    }
    parameter[at] = p;
    moment_1[at] = m;
    moment_2[at] = v;
}

/// The parameter and its two moments after an update: the tensors given, where nothing else holds them.
pub(super) fn adamw(
    parameter: CubeTensor,
    gradient: CubeTensor,
    moments: [CubeTensor; 2],
    update: AdamW,
) -> [CubeTensor; 3] {
    let own = |tensor: CubeTensor| {
        let tensor = if tensor.can_mut() {
            tensor
        } else {
            tensor.copy()
        };
        // The kernel goes through packed tensors; what is packed already stays where it is.
        into_contiguous(tensor)
    };
    let [moment_1, moment_2] = moments.map(own);
    let (parameter, gradient) = (own(parameter), into_contiguous(gradient));
    let elements = parameter.shape().num_elements();
    let lengths = [&gradient, &moment_1, &moment_2].map(|x| x.shape().num_elements());
    assert_eq!(
        lengths, [elements; 3],
        "a gradient or moment of another length"
    );
    let client = parameter.client.clone();
    let vector = vector_size(&parameter);
    let count = elements / vector;
    let dim = CubeDim::new(&client, count);
    adamw_kernel::launch(
        &client,
        calculate_cube_count_elemwise(&client, count, dim),
        dim,
        vector,
        parameter.clone().into_tensor_arg(),
        gradient.into_tensor_arg(),
        moment_1.clone().into_tensor_arg(),
        moment_2.clone().into_tensor_arg(),
        FactorsLaunch::new(
            update.beta_1,
            update.beta_2,
            1.0 - update.beta_1,
            1.0 - update.beta_2,
            update.correction_1,
            update.correction_2,
            update.epsilon,
            update.rate,
            update.keep,
        ),
        count as u32,
        vector,
    );
    [parameter, moment_1, moment_2]
}

/// Elements that a unit reads at once.
fn vector_size(x: &CubeTensor) -> usize {
    let elements = x.shape().num_elements();
    let sizes = x.client.properties();
    sizes
        .io_optimized_vector_sizes(size_of::<f32>())
        .filter(|size| elements.is_multiple_of(*size))
        .max()
        .unwrap_or(1)
}

/// Cubes that share a tensor: more than any device runs at once.
const MOST_CUBES: usize = 1024;

/// A cube's sum of elements, or of their squares.
#[cube(launch)]
fn sum_kernel<N: Size>(
    x: &Tensor<Vector<f32, N>>,
    sums: &mut Tensor<f32>,
    count: u32,
    cubes: u32,
    #[comptime] vector: usize,
    #[comptime] squares: bool,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    let mut sum = 0.0f32;
    let mut at = CUBE_POS * UNITS + unit;
    while at < count as usize {
        let cells = x[at];
        #[unroll]
        for i in 0..vector {
            let cell = cells.extract(i);
            if comptime!(squares) {
                sum += cell * cell;
            } else {
                sum += cell;
            }
        }
        at += cubes as usize * UNITS;
    }
    let total = sum_of_units(&mut scratch, sum);
    if unit == 0 {
        sums[CUBE_POS] = total;
    }
}

/// Σ x² as a tensor of one element. Burn's own sum adds what cubes found as they end, in an order that is another each time.
pub(super) fn sum_of_squares(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let cubes = x.shape().num_elements().div_ceil(8 * UNITS);
    let parts = sums_of_cubes(&x, cubes.clamp(1, MOST_CUBES), true);
    sums_of_cubes(&parts, 1, false)
}

/// What each of so many cubes finds of `x`, `[cubes]`.
fn sums_of_cubes(x: &CubeTensor, cubes: usize, squares: bool) -> CubeTensor {
    let shape = Shape::from([cubes]);
    let sums = empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, DType::F32);
    let vector = vector_size(x);
    sum_kernel::launch(
        &x.client.clone(),
        CubeCount::Static(cubes as u32, 1, 1),
        CubeDim::new_1d(UNITS as u32),
        vector,
        x.clone().into_tensor_arg(),
        sums.clone().into_tensor_arg(),
        (x.shape().num_elements() / vector) as u32,
        cubes as u32,
        vector,
        squares,
    );
    sums
}
