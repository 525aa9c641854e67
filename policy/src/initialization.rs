//! Fresh weights, drawn from a seed: the same on every device, whatever else runs.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Tensor, TensorData},
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::{
    CausalLm,
    weights::{TensorPath, replace},
};

/// `initializer_range` of the published models.
const STANDARD_DEVIATION: f32 = 0.02;

/// Draws every matrix from N(0, 0.02²); norms stay at one and biases at zero.
pub(crate) fn draw_weights(model: CausalLm, seed: u64) -> CausalLm {
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let path = TensorPath::default();
    model.map(&mut Draw { rng, path })
}

struct Draw {
    rng: ChaCha8Rng,
    path: TensorPath,
}

impl ModuleMapper for Draw {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let data = if D < 2 {
            param.val().into_data()
        } else {
            let shape = param.lazy_shape();
            let unit = StandardNormal.sample_iter(&mut self.rng);
            let unit = unit.take(shape.num_elements());
            let values: Vec<f32> = unit.map(|z: f32| STANDARD_DEVIATION * z).collect();
            TensorData::new(values, shape)
        };
        replace(&param, &self.path.name(), data, DType::F32, false)
    }
}
