//! The gated feed-forward layer.

use burn::{
    module::Module,
    nn::{Initializer, Linear, LinearConfig},
    tensor::{Device, Tensor},
};

use super::operations::Operations;
use crate::ModelConfig;

/// SwiGLU feed-forward: down(silu(gate(x)) · up(x)) (arXiv 2002.05202).
#[derive(Module, Debug)]
#[allow(
    clippy::struct_field_names,
    reason = "the names of the Hugging Face weights"
)]
pub(super) struct Mlp {
    pub(super) gate_proj: Linear,
    pub(super) up_proj: Linear,
    pub(super) down_proj: Linear,
}

impl Mlp {
    pub(super) fn new(config: &ModelConfig, device: &Device) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |input, output| projection(input, output, config.mlp_bias, device);
        Self {
            gate_proj: linear(width, inner),
            up_proj: linear(width, inner),
            down_proj: linear(inner, width),
        }
    }

    /// silu(gate(x)) · up(x), which the down projection takes.
    ///
    /// # Shapes
    /// `[batch, length, hidden_size]` to `[batch, length, intermediate_size]`.
    pub(super) fn gated(&self, x: Tensor<3>, operations: Operations) -> Tensor<3> {
        let gate = operations.linear(&self.gate_proj, x.clone());
        let up = operations.linear(&self.up_proj, x);
        operations.swiglu(gate, up)
    }
}

/// A linear layer whose weights have yet to be loaded or drawn.
pub(super) fn projection(input: usize, output: usize, bias: bool, device: &Device) -> Linear {
    let mut linear = LinearConfig::new(input, output)
        .with_bias(false)
        .with_initializer(Initializer::Zeros)
        .init(device);
    if bias {
        linear.bias = Some(Initializer::Zeros.init([output], device));
    }
    linear
}
