//! Drawing tokens on the device that computes their logits.

use burn::tensor::{Int, Tensor};

#[cfg(feature = "cube")]
use super::cube;
use super::{CausalLm, operations::Operations};

/// Figures of a drawn token: its id, its log-probability, the entropies at temperature 1 and at the temperature.
pub const DRAWN: usize = 4;

/// Which tokens may be drawn, and how flat their distribution is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truncation {
    /// Divides the logits; 0 takes the first of the most probable tokens.
    pub temperature: f32,
    /// Keeps the k most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the fewest tokens whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less probable than this share of the most probable one; 0 keeps all.
    pub min_p: f32,
}

/// Draws tokens without their logits leaving the device.
#[derive(Debug)]
pub struct DeviceSampler<'a> {
    model: &'a CausalLm,
    truncation: Truncation,
}

impl CausalLm {
    /// A sampler on the model's device, where that has one.
    pub fn device_sampler(&self, truncation: Truncation) -> Option<DeviceSampler<'_>> {
        let draws = self.operations() != Operations::Plain;
        draws.then_some(DeviceSampler {
            model: self,
            truncation,
        })
    }
}

impl DeviceSampler<'_> {
    /// A token after each hidden state, by a uniform number of [0, 1) each: its figures `[rows, 4]` in the order of
    /// [`DRAWN`], and its id `[rows]`. A log-probability that is not finite tells of logits that are not. The figures are
    /// those of the whole distribution, before any truncation.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden_size]`, `uniforms` `[rows]`.
    ///
    /// # Panics
    /// If the model has been put in its plain form since.
    pub fn draw(&self, hidden: Tensor<2>, uniforms: Tensor<1>) -> (Tensor<2>, Tensor<1, Int>) {
        match self.model.operations() {
            #[cfg(feature = "cube")]
            Operations::Kernels => {
                let (weight, is_tied) = self.model.head_weight();
                cube::draw(hidden, weight, uniforms, self.truncation, is_tied)
            }
            Operations::Plain => {
                unreachable!(
                    "a sampler is of a model with kernels, not of {:?}, {:?}, {:?}",
                    hidden.dims(),
                    uniforms.dims(),
                    self.truncation
                )
            }
        }
    }
}
