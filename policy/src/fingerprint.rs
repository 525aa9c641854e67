//! What tells a model from another.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Int, Tensor},
};

use crate::{
    CausalLm,
    adapter::factor_of,
    weights::{Fnv1a, TensorPath, values},
};

impl CausalLm {
    /// A hash of each weight's name and shape and of some of its numbers, adapters left out: a model that was trained further, or
    /// another of the same shape, has another. A change that spares the numbers that are looked at is not seen.
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::default();
        self.visit(&mut fingerprint);
        format!("{:016x}", fingerprint.hash.0)
    }
}

#[derive(Default)]
struct Fingerprint {
    path: TensorPath,
    hash: Fnv1a,
}

impl ModuleVisitor for Fingerprint {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        /// Numbers of each weight, evenly spread.
        const MOST: usize = 256;
        let name = self.path.name();
        if factor_of(&name).is_some() {
            return;
        }
        let weight = param.base().without_autodiff();
        let count = weight.shape().num_elements();
        let places = (0..count).step_by(count.div_ceil(MOST).max(1));
        let places: Vec<i32> = places
            .map(|place| i32::try_from(place).unwrap_or(i32::MAX))
            .collect();
        let device = weight.device();
        let places = Tensor::<1, Int>::from_data(places.as_slice(), (&device, DType::I32));
        let some = weight.reshape([count]).select(0, places);
        let shape = format!("{name} {:?}", param.lazy_shape().to_vec());
        let numbers = values(some).into_iter().flat_map(f32::to_le_bytes);
        self.hash = self.hash.with(shape.into_bytes()).with(numbers);
    }
}

#[cfg(test)]
mod tests {
    use crate::{LoraConfig, tiny::drawn};

    #[test]
    fn it_is_of_the_weights_alone() {
        let fingerprint = drawn(3).fingerprint();
        let adapted = drawn(3).with_lora(&LoraConfig::default(), 1);
        assert_eq!(adapted.fingerprint(), fingerprint);
        assert_eq!(adapted.merged().fingerprint(), fingerprint);
        assert_ne!(drawn(4).fingerprint(), fingerprint);
    }
}
