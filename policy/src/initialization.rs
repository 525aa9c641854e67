//! Fresh weights, drawn from a seed: the same on every device, whatever else runs.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Tensor, TensorData},
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, Normal};

use crate::{CausalLm, weights::replace};

/// `initializer_range` of the published models.
const STANDARD_DEVIATION: f32 = 0.02;

/// Draws every matrix from N(0, 0.02²); norms stay at one and biases at zero.
pub(crate) fn draw_weights(model: CausalLm, seed: u64) -> CausalLm {
    let rng = ChaCha8Rng::seed_from_u64(seed);
    model.map(&mut Draw { rng })
}

struct Draw {
    rng: ChaCha8Rng,
}

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        let Ok(normal) = Normal::new(0.0, STANDARD_DEVIATION) else {
            unreachable!("a positive constant is a standard deviation")
        };
        if D < 2 {
            return param;
        }
        let values: Vec<f32> = normal
            .sample_iter(&mut self.rng)
            .take(shape.num_elements())
            .collect();
        replace(param, TensorData::new(values, shape), DType::F32, false)
    }
}
