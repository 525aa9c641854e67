//! A forward pass that keeps the input of each block alone. Its backward pass computes a block again when it comes to it
//! (arXiv 1604.06174), so that one block's activations are held at a time.

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{DType, Device, Gradients, Tensor},
};

use super::{
    CausalLm, PackedTokens, Recompute, TokenBatch,
    decoder::DecoderLayer,
    operations::Operations,
    rope::{Rotation, Visibility},
};
use crate::weights::cast;

/// What is kept of a pass, and where its gradient comes in.
#[derive(Debug)]
pub struct BlockInputs {
    /// Each block's input, `[rows, length, hidden_size]`, without a graph.
    inputs: Vec<Tensor<3>>,
    /// The last block's output as a leaf: what comes above has its graph up to here.
    top: Tensor<3>,
    batch: TokenBatch,
    dtype: DType,
}

/// What the blocks of a pass share.
struct Surroundings {
    rotation: Rotation,
    visibilities: Vec<Visibility>,
    operations: Operations,
}

impl CausalLm {
    /// The hidden states that predict the response tokens, as [`CausalLm::response_states`] gives them, computed in
    /// `dtype` from weights in f32, with a graph of the last norm alone; [`BlockInputs::backward`] goes on from there.
    ///
    /// # Shapes
    /// `[response tokens, hidden_size]`.
    pub fn block_states(&self, tokens: &PackedTokens, dtype: DType) -> (Tensor<2>, BlockInputs) {
        let (batch, predictors) = tokens.padded();
        let device = self.device();
        let around = self.surroundings(&batch, dtype, &device.clone().inner());
        let model = self.valid();
        let mut x = model.embedded(&batch).cast(dtype);
        let mut inputs = Vec::with_capacity(model.model.layers.len());
        for (index, layer) in model.model.layers.into_iter().enumerate() {
            inputs.push(x.clone());
            x = self.block(&cast(layer, dtype), index, x, &around);
        }
        let top = Tensor::from_inner(x).require_grad();
        let [rows, length, width] = top.dims();
        let flat = top.clone().reshape([rows * length, width]);
        let predicting = around.operations.pick_rows(flat, &predictors);
        let norm = cast(self.model.norm.clone(), dtype);
        let hidden = around.operations.rms_norm(&norm, predicting);
        let kept = BlockInputs {
            inputs,
            top,
            batch,
            dtype,
        };
        (hidden, kept)
    }

    /// Whether training computes blocks again by [`CausalLm::block_states`]: where the execution asks for that, and the
    /// device has no form of its own that does it.
    pub fn recomputes_blocks(&self) -> bool {
        !self.is_fused() && self.execution.recompute != Recompute::Nothing
    }

    fn surroundings(&self, batch: &TokenBatch, dtype: DType, device: &Device) -> Surroundings {
        let positions = batch.positions_on(device);
        Surroundings {
            rotation: Rotation::new(positions.clone(), &self.inverse_frequencies, dtype),
            visibilities: self.visibilities(&positions, &positions),
            operations: self.operations(),
        }
    }

    fn block(
        &self,
        layer: &DecoderLayer,
        index: usize,
        x: Tensor<3>,
        around: &Surroundings,
    ) -> Tensor<3> {
        let visibility = &around.visibilities[self.window_kind(index)];
        layer.forward(x, &around.rotation, visibility, None, around.operations)
    }
}

impl BlockInputs {
    /// Goes on with a backward pass below the states: each block from the last to the first, then the embedding. Gives
    /// back each part's gradients as they come; a weight may have some in several of them.
    ///
    /// # Panics
    /// If `model` is not the one that made the pass.
    pub fn backward(
        self,
        model: &CausalLm,
        above: &mut Gradients,
        mut add: impl FnMut(GradientsParams),
    ) {
        let Some(mut slope) = self.top.grad_remove(above) else {
            return;
        };
        let device = model.device();
        let around = model.surroundings(&self.batch, self.dtype, &device);
        let layers = model.model.layers.iter().enumerate().rev();
        for ((index, layer), input) in layers.zip(self.inputs.into_iter().rev()) {
            let x = Tensor::from_inner(input).require_grad();
            let y = model.block(&cast(layer.clone(), self.dtype), index, x.clone(), &around);
            let mut gradients = pulled(y, slope);
            add(GradientsParams::from_module(&mut gradients, layer));
            slope = x
                .grad_remove(&mut gradients)
                .expect("a block's output depends on its input");
        }
        let embedding = &model.model.embed_tokens;
        if embedding.weight.base().is_require_grad() {
            let y = model.embedded(&self.batch).cast(self.dtype);
            let mut gradients = pulled(y, slope);
            add(GradientsParams::from_module(&mut gradients, embedding));
        }
    }
}

/// The gradients of whatever `y` comes from, given `y`'s own.
fn pulled(y: Tensor<3>, slope: Tensor<3>) -> Gradients {
    (y * Tensor::from_inner(slope)).sum().backward()
}
