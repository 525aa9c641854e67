//! A forward pass that keeps the input alone of its first blocks. Its backward pass computes such a block again when it
//! comes to it (arXiv 1604.06174), so that one block's activations are held at a time beside those of the last blocks.

use burn::{
    module::Module,
    nn::RmsNorm,
    optim::GradientsParams,
    tensor::{DType, Device, Gradients, Tensor},
};

use super::{
    CausalLm, PackedTokens, TokenBatch,
    decoder::DecoderLayer,
    operations::{Operations, pulled},
    rope::{Rotation, Visibility},
    rows::RowLayout,
};
use crate::weights::cast;

/// What is kept of a pass, and where its gradient comes in.
#[derive(Debug)]
pub struct BlockInputs {
    /// The input of each block that is computed again, `[1, tokens, hidden_size]`, without a graph.
    inputs: Vec<Tensor<3>>,
    /// The output of the last of them as a leaf: what comes above has its graph up to here.
    top: Tensor<3>,
    batch: TokenBatch,
    layout: RowLayout,
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
    /// `dtype` from weights in f32, with a graph of the last norm and the last `kept` blocks; [`BlockInputs::backward`] goes
    /// on from there. On a device that runs our kernels no result depends on how many these are.
    ///
    /// # Shapes
    /// `[response tokens, hidden_size]`.
    pub fn block_states(
        &self,
        tokens: &PackedTokens,
        dtype: DType,
        kept: usize,
    ) -> (Tensor<2>, BlockInputs) {
        let (batch, layout) = (tokens.batch(), tokens.rows());
        let device = self.device();
        let again = self.model.layers.len().saturating_sub(kept);
        let model = self.valid();
        let mut x = model.embedded(&batch).cast(dtype);
        let mut inputs = Vec::with_capacity(again);
        if again > 0 {
            let around = self.surroundings(&batch, &layout, dtype, &device.clone().inner());
            for (index, layer) in model.model.layers.into_iter().take(again).enumerate() {
                inputs.push(x.clone());
                x = around.block(self, &layer.cast(dtype), index, x);
            }
        }
        let top = Tensor::from_inner(x).require_grad();
        let mut x = top.clone();
        if again < self.model.layers.len() {
            let around = self.surroundings(&batch, &layout, dtype, &device);
            for (index, layer) in self.model.layers.iter().enumerate().skip(again) {
                x = around.block(self, &layer.clone().cast(dtype), index, x);
            }
        }
        let norm = cast(self.model.norm.clone(), dtype);
        let hidden = self.predicting(x, tokens, &norm);
        let kept = BlockInputs {
            inputs,
            top,
            batch,
            layout,
            dtype,
        };
        (hidden, kept)
    }

    /// [`CausalLm::response_states`] by burn's operations or kernels, in the model's own type.
    pub(super) fn packed_states(&self, tokens: &PackedTokens) -> Tensor<2> {
        let batch = tokens.batch();
        let around = self.surroundings(&batch, &tokens.rows(), self.dtype(), &self.device());
        let mut x = self.embedded(&batch);
        for (index, layer) in self.model.layers.iter().enumerate() {
            x = around.block(self, layer, index, x);
        }
        self.predicting(x, tokens, &self.model.norm)
    }

    /// The normed states `[response tokens, hidden_size]`, of `[1, tokens, hidden_size]`, that predict responses.
    fn predicting(&self, x: Tensor<3>, tokens: &PackedTokens, norm: &RmsNorm) -> Tensor<2> {
        let operations = self.operations();
        let [_, count, width] = x.dims();
        let flat = x.reshape([count, width]);
        let predicting = operations.pick_rows(flat, tokens.predictors());
        operations.rms_norm(norm, predicting)
    }

    fn surroundings(
        &self,
        batch: &TokenBatch,
        layout: &RowLayout,
        dtype: DType,
        device: &Device,
    ) -> Surroundings {
        let positions = batch.positions_on(device);
        let rows = layout.on(device);
        let visibilities = self.visibilities(&rows.positions, &rows.positions);
        let in_rows = |visibility: Visibility| visibility.in_rows(rows.clone());
        Surroundings {
            rotation: Rotation::new(positions, &self.inverse_frequencies, dtype),
            visibilities: visibilities.into_iter().map(in_rows).collect(),
            operations: self.operations(),
        }
    }
}

impl Surroundings {
    fn block(
        &self,
        model: &CausalLm,
        layer: &DecoderLayer,
        index: usize,
        x: Tensor<3>,
    ) -> Tensor<3> {
        let visibility = self.visibility(model, index);
        layer.forward(x, &self.rotation, visibility, None, self.operations)
    }

    fn visibility(&self, model: &CausalLm, index: usize) -> &Visibility {
        &self.visibilities[model.window_kind(index)]
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
        let around = model.surroundings(&self.batch, &self.layout, self.dtype, &device);
        let blocks = model.model.layers.iter().zip(self.inputs).enumerate();
        for (index, (layer, input)) in blocks.rev() {
            let x = Tensor::from_inner(input).require_grad();
            let own = layer.clone().cast(self.dtype);
            let operations = around.operations;
            // Nothing reads the block's own result.
            let (mid, gated) = own.before_down(
                x.clone(),
                &around.rotation,
                around.visibility(model, index),
                None,
                operations,
            );
            let mut gradients = operations.pull_block(mid, gated, &own.mlp.down_proj, slope);
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
