//! AdamW: burn's, in one pass over each parameter.

use burn::{
    optim::{
        AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, LearningRate, ModuleOptimizer,
        Optimizer,
    },
    tensor::{Device, Tensor},
};

use super::operations;
use crate::OptimizerSection;

/// AdamW as the configuration sets it.
pub(crate) fn adamw(config: &OptimizerSection) -> ModuleOptimizer {
    let burn = AdamWConfig::new()
        .with_beta_1(config.beta_1 as f32)
        .with_beta_2(config.beta_2 as f32)
        .with_epsilon(config.epsilon as f32)
        .with_weight_decay(config.weight_decay as f32)
        .build();
    ModuleOptimizer::from(OnePassAdamW {
        burn,
        beta_1: config.beta_1 as f32,
        beta_2: config.beta_2 as f32,
        epsilon: config.epsilon as f32,
        weight_decay: config.weight_decay as f32,
    })
}

/// The same update and the same state as burn's.
#[derive(Clone)]
struct OnePassAdamW {
    burn: AdamW,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    weight_decay: f32,
}

impl Optimizer for OnePassAdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        if !(operations::takes(&parameter) && operations::takes(&gradient)) {
            return self.burn.step(rate, parameter, gradient, state);
        }
        let mut momentum = state.map_or_else(
            || {
                let zeros = || Tensor::zeros_like(&parameter);
                AdaptiveMomentumState::new(0, zeros(), zeros())
            },
            |state| state.momentum,
        );
        momentum.time += 1;
        let time = momentum.time as i32;
        let update = kernels::AdamW {
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            correction_1: 1.0 - self.beta_1.powi(time),
            correction_2: 1.0 - self.beta_2.powi(time),
            epsilon: self.epsilon,
            rate: rate as f32,
            keep: (1.0 - rate * f64::from(self.weight_decay)) as f32,
        };
        let moments = [momentum.moment_1, momentum.moment_2];
        let (parameter, [moment_1, moment_2]) =
            operations::adamw(parameter, gradient, moments, update);
        let momentum = AdaptiveMomentumState::new(momentum.time, moment_1, moment_2);
        (parameter, Some(AdamWState::new(momentum)))
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamW::to_device(state, device)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Int;

    use super::*;

    /// Five updates on a device, of which what something else holds stays as it was.
    fn assert_updates_are_burns_own(device: &Device) {
        let config = OptimizerSection {
            weight_decay: 0.1,
            ..OptimizerSection::default()
        };
        let burn = AdamWConfig::new()
            .with_beta_1(config.beta_1 as f32)
            .with_beta_2(config.beta_2 as f32)
            .with_epsilon(config.epsilon as f32)
            .with_weight_decay(0.1)
            .build();
        let fast = OnePassAdamW {
            burn: burn.clone(),
            beta_1: config.beta_1 as f32,
            beta_2: config.beta_2 as f32,
            epsilon: config.epsilon as f32,
            weight_decay: 0.1,
        };
        let values = |tensor: &Tensor<2>| {
            let data = tensor.clone().into_data();
            data.iter::<f32>().collect::<Vec<_>>()
        };
        // Few elements, an odd number, and enough for several vectors of several cubes.
        let waves = |rows: i64, columns: i64| {
            let cells = Tensor::<1, Int>::arange(0..rows * columns, device).float();
            (cells * 0.37).sin().reshape([rows, columns])
        };
        let few = Tensor::from_data([[0.5, -1.0, 2.0], [0.0, 3.0, -0.25]], device);
        for first in [few, waves(3, 5), waves(300, 64)] {
            // Tensors of their own, which nothing else holds.
            let start = || first.clone() * 1.0;
            let held = start();
            assert!(operations::takes(&held));
            let (mut ours, mut theirs) = ((held.clone(), None), (start(), None));
            let mut held_state = None;
            for step in 0..5_u8 {
                let gradient = start().sin() * f64::from(step) - 0.3;
                ours = fast.step(1e-2, ours.0, gradient.clone(), ours.1);
                theirs = burn.step(1e-2, theirs.0, gradient, theirs.1);
                if step == 2 {
                    held_state.clone_from(&ours.1);
                }
            }
            let moments = |state: Option<AdamWState<2>>| {
                let momentum = state.expect("a state after an update").momentum;
                [momentum.moment_1, momentum.moment_2]
            };
            let (ours, theirs) = ((ours.0, moments(ours.1)), (theirs.0, moments(theirs.1)));
            let pairs = [&ours.0, &ours.1[0], &ours.1[1]].into_iter().zip([
                &theirs.0,
                &theirs.1[0],
                &theirs.1[1],
            ]);
            for (ours, theirs) in pairs {
                for (ours, theirs) in values(ours).into_iter().zip(values(theirs)) {
                    assert!((ours - theirs).abs() < 1e-6, "{ours} is not {theirs}");
                }
            }
            assert_eq!(values(&held), values(&start()));
            // What was held of the third update is not what the fifth left.
            for (held, ours) in moments(held_state).iter().zip(&ours.1) {
                assert_ne!(values(held), values(ours));
            }
        }
    }

    #[test]
    fn updates_are_burns_own() {
        assert_updates_are_burns_own(&Device::flex());
    }

    /// On the device that `ANNEAL_DEVICE` names.
    #[cfg(feature = "cube")]
    #[test]
    fn a_cube_sums_squares_as_f64_does() {
        let Some((device, _guard)) = crate::tiny::device() else {
            return;
        };
        // One element, an odd number, one vector more than a cube's, and more than all cubes take at once.
        for count in [1, 77, 1028, 3_000_004] {
            let x = Tensor::<1, Int>::arange(0..count, &device).float();
            let x = (x * 0.37 + 0.2).sin();
            let cells = x.clone().into_data();
            let exact: f64 = cells
                .iter::<f32>()
                .map(|x| f64::from(x) * f64::from(x))
                .sum();
            let found = crate::optimizer::operations::sum_of_squares(x);
            let found = f64::from(found.into_scalar::<f32>());
            assert!(
                (found / exact - 1.0).abs() < 1e-5,
                "{count}: {found} is not {exact}"
            );
        }
    }

    /// On the device that `ANNEAL_DEVICE` names.
    #[cfg(feature = "cube")]
    #[test]
    fn a_cube_updates_as_burn_does() {
        let Some((device, _guard)) = crate::tiny::device() else {
            return;
        };
        assert_updates_are_burns_own(&device);
    }
}
