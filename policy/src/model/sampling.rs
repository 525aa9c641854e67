//! Decoding on a device: tokens are computed and drawn there, and neither logits nor ids cross to the host in between.

use burn::tensor::{DType, Int, Tensor};

#[cfg(feature = "cube")]
use super::cube::StepWeights;
use super::{CausalLm, KvCache};

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

/// Computes and draws tokens on the model's device.
///
/// A token's figures are `[rows, 4]` in the order of [`DRAWN`]. A log-probability that is not finite tells of logits that
/// are not. The figures are those of the whole distribution, before any truncation.
#[derive(Debug)]
pub struct DeviceDecoder<'a> {
    model: &'a CausalLm,
    #[cfg(feature = "cube")]
    truncation: Truncation,
    #[cfg(feature = "cube")]
    weights: StepWeights,
}

impl CausalLm {
    /// Whether [`device_decoder`](Self::device_decoder) gives one.
    pub fn has_device_decoder(&self) -> bool {
        #[cfg(feature = "cube")]
        return self.runs_kernels() && super::cube::takes_heads(self);
        #[cfg(not(feature = "cube"))]
        false
    }

    /// A decoder on the model's device, where that has one, for caches of `capacity` slots. It holds a copy of the projections
    /// that read the same input, and reads the model's own weights otherwise.
    pub fn device_decoder(
        &self,
        truncation: Truncation,
        capacity: usize,
    ) -> Option<DeviceDecoder<'_>> {
        #[cfg(feature = "cube")]
        return self.has_device_decoder().then(|| DeviceDecoder {
            model: self,
            truncation,
            weights: StepWeights::new(self, capacity),
        });
        #[cfg(not(feature = "cube"))]
        {
            let _ = (truncation, capacity);
            None
        }
    }
}

impl DeviceDecoder<'_> {
    /// A token after each hidden state, by a uniform number of [0, 1) each: its figures `[rows, 4]` and its id `[rows]`.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden_size]`, `uniforms` `[rows]`.
    pub fn draw(&self, hidden: Tensor<2>, uniforms: Tensor<1>) -> (Tensor<2>, Tensor<1, Int>) {
        #[cfg(feature = "cube")]
        return super::cube::draw(hidden, self.model.head_weight(), uniforms, self.truncation);
        #[cfg(not(feature = "cube"))]
        unreachable!("{self:?} has no device to draw on: {hidden}, {uniforms}");
    }

    /// Some tokens of every row of the cache, one after the other, from `ids` at `positions`; idle rows are at
    /// [`PADDING_POSITION`](super::PADDING_POSITION) and draw too.
    ///
    /// # Shapes
    /// `ids` and `positions` `[rows]`, `uniforms` `[steps, rows]` in one; figures `[steps · rows, 4]`.
    ///
    /// # Panics
    /// If there is no step, the lengths differ, or the cache has another capacity than the decoder.
    pub fn advance(
        &self,
        ids: &[i32],
        positions: &[i32],
        uniforms: &[f32],
        cache: &mut KvCache,
    ) -> Tensor<2> {
        let device = self.model.device();
        let rows = ids.len();
        let steps = uniforms.len() / rows.max(1);
        assert_eq!(
            uniforms.len(),
            steps.max(1) * rows,
            "uniforms are not [steps, {rows}]"
        );
        let all = cache.occupy(positions, steps);
        let all = Tensor::<1, Int>::from_data(all.as_slice(), (&device, DType::I32));
        let uniforms = Tensor::<1>::from_data(uniforms, (&device, DType::F32));
        let mut ids = Tensor::<1, Int>::from_data(ids, (&device, DType::I32));
        let mut figures = Vec::with_capacity(steps);
        for step in 0..steps {
            let positions = all.clone().narrow(0, step * rows, rows);
            let hidden = self.states(ids, positions, cache);
            let (drawn, next) = self.draw(hidden, uniforms.clone().narrow(0, step * rows, rows));
            figures.push(drawn);
            ids = next;
        }
        Tensor::cat(figures, 0)
    }

    /// Hidden states `[rows, hidden_size]` of one more token a row, written to the cache.
    fn states(
        &self,
        ids: Tensor<1, Int>,
        positions: Tensor<1, Int>,
        cache: &mut KvCache,
    ) -> Tensor<2> {
        #[cfg(feature = "cube")]
        return self.weights.step(ids, positions, cache);
        #[cfg(not(feature = "cube"))]
        unreachable!("{self:?} has no device to decode on: {ids}, {positions}, {cache:?}");
    }
}
