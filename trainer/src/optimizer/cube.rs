//! AdamW on a GPU: one kernel a parameter, in place.

use burn::backend::TensorMetadata;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{calculate_cube_count_elemwise, prelude::*};
use kernels::AdamW;

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
    let sizes = client.properties();
    let vector = sizes
        .io_optimized_vector_sizes(size_of::<f32>())
        .filter(|size| elements.is_multiple_of(*size))
        .max()
        .unwrap_or(1);
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
