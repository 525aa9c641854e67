//! A pass with gradients: the hidden states of sequences, and a loss's way back to the weights.

use burn::{
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{DType, Gradients, Tensor},
};
use policy::{BlockInputs, CausalLm};

use crate::batch::Collated;

/// The hidden states that predict the response tokens, and what the way back below them needs.
pub(crate) struct Pass {
    /// `[tokens, hidden_size]`.
    pub(crate) hidden: Tensor<2>,
    /// Where the backward pass goes on, if it may compute blocks again.
    blocks: Option<BlockInputs>,
}

impl Pass {
    /// Sequences through a model of f32 weights that computes in `dtype`, with the graphs of the last `kept` blocks; its
    /// form on the CPU has an execution that says what is kept.
    pub(crate) fn new(collated: &Collated, model: &CausalLm, dtype: DType, kept: usize) -> Self {
        if model.is_fused() {
            let hidden = collated.hidden(model);
            return Self {
                hidden,
                blocks: None,
            };
        }
        let (hidden, blocks) = collated.hidden_of_blocks(model, dtype, kept);
        Self {
            hidden,
            blocks: Some(blocks),
        }
    }

    /// What is left to do once a loss above the hidden states went back to them.
    pub(crate) fn below(self) -> Below {
        Below(self.blocks)
    }
}

/// The way back below hidden states.
pub(crate) struct Below(Option<BlockInputs>);

impl Below {
    /// A way that ends with the loss's own backward pass.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    /// The weights' gradients: those of the loss's own backward pass, and those of the blocks.
    pub(crate) fn gradients(
        self,
        model: &CausalLm,
        mut above: Gradients,
    ) -> (GradientsParams, Gradients) {
        let own = GradientsParams::from_module(&mut above, model);
        let Some(blocks) = self.0 else {
            return (own, above);
        };
        let mut total = GradientsAccumulator::<CausalLm>::default();
        total.accumulate(model, own);
        blocks.backward(model, &mut above, |part| total.accumulate(model, part));
        (total.grads(), above)
    }
}
