//! A decoding step in few kernels: projections that read the same input are one product, and what lies between products is
//! one kernel.

use burn::{
    module::Param,
    nn::{Linear, RmsNorm},
    tensor::{DType, Device, Int, Tensor},
};

use super::{
    HeadLayout, Placing, add_bias, add_norm, decode_attention, gated, place_heads, product,
    rms_norm,
};
use crate::model::{
    CausalLm, KvCache, attention::Attention, decoder::DecoderLayer, operations::Operations,
};

/// A model's weights as a decoding step reads them, with the angles of every position.
#[derive(Debug)]
pub(in crate::model) struct StepWeights {
    embedding: Tensor<2>,
    layers: Vec<StepLayer>,
    /// The last norm.
    norm: Norm,
    /// Cosines and sines, `[capacity, head_dim / 2]`.
    angles: [Tensor<2>; 2],
}

#[derive(Debug)]
struct StepLayer {
    input_norm: Norm,
    /// Queries, keys and values, `[width, (heads + 2 · groups) · head_dim]`.
    projections: Tensor<2>,
    placing: Placing,
    window: Option<usize>,
    output: Linear,
    middle_norm: Norm,
    /// Gate and up, `[width, 2 · inner]`.
    gate_up: Tensor<2>,
    gate_up_bias: Option<Tensor<1>>,
    down: Linear,
}

#[derive(Debug)]
struct Norm {
    gamma: Tensor<1>,
    epsilon: f64,
}

impl Norm {
    fn new(norm: &RmsNorm) -> Self {
        Self {
            gamma: norm.gamma.val(),
            epsilon: norm.epsilon,
        }
    }
}

impl StepWeights {
    pub(in crate::model) fn new(model: &CausalLm, capacity: usize) -> Self {
        let model = &model.clone().merged();
        let layers = model.model.layers.iter().zip(&model.windows);
        Self {
            embedding: model.model.embed_tokens.weight.val(),
            layers: layers
                .map(|(layer, &window)| StepLayer::new(layer, window))
                .collect(),
            norm: Norm::new(&model.model.norm),
            angles: angles(&model.inverse_frequencies, capacity, &model.device()),
        }
    }

    /// Hidden states `[rows, width]`, after the last norm, of tokens `ids` `[rows]` at `positions` `[rows]`, whose keys and
    /// values go into the cache.
    pub(in crate::model) fn step(
        &self,
        ids: Tensor<1, Int>,
        positions: Tensor<1, Int>,
        cache: &mut KvCache,
    ) -> Tensor<2> {
        let kernels = Operations::Kernels;
        let (capacity, [angles, _]) = (cache.dims()[1], self.angles[0].dims());
        assert_eq!(capacity, angles, "slots of the cache and of the decoder");
        let mut x = self.embedding.clone().select(0, ids);
        let Some(first) = self.layers.first() else {
            return rms_norm(x, self.norm.gamma.clone(), self.norm.epsilon);
        };
        let norm = &first.input_norm;
        let mut normed = rms_norm(x.clone(), norm.gamma.clone(), norm.epsilon);
        for (index, layer) in self.layers.iter().enumerate() {
            let projected = product(normed, layer.projections.clone());
            let (query, kept) = cache.layer(index).change(|kept| {
                place_heads(
                    projected,
                    &layer.placing,
                    &self.angles,
                    positions.clone(),
                    kept,
                )
            });
            let [rows, heads, head_dim] = query.dims();
            let mixed = decode_attention(query, kept, positions.clone(), layer.window);
            let mixed = kernels.linear(&layer.output, mixed.reshape([rows, heads * head_dim]));
            let norm = &layer.middle_norm;
            [x, normed] = add_norm(x, mixed, norm.gamma.clone(), norm.epsilon);
            let mut gate_up = product(normed, layer.gate_up.clone());
            if let Some(bias) = &layer.gate_up_bias {
                gate_up = add_bias(gate_up, bias.clone());
            }
            let fed = kernels.linear(&layer.down, gated(gate_up));
            let next = self.layers.get(index + 1);
            let norm = next.map_or(&self.norm, |next| &next.input_norm);
            [x, normed] = add_norm(x, fed, norm.gamma.clone(), norm.epsilon);
        }
        normed
    }
}

impl StepLayer {
    fn new(layer: &DecoderLayer, window: Option<usize>) -> Self {
        let (attention, mlp) = (&layer.self_attn, &layer.mlp);
        let gate_up = [&mlp.gate_proj, &mlp.up_proj];
        Self {
            input_norm: Norm::new(&layer.input_layernorm),
            projections: beside(&[&attention.q_proj, &attention.k_proj, &attention.v_proj]),
            placing: placing(attention),
            window,
            output: attention.o_proj.clone(),
            middle_norm: Norm::new(&layer.post_attention_layernorm),
            gate_up: beside(&gate_up),
            gate_up_bias: gate_up
                .iter()
                .any(|l| l.bias.is_some())
                .then(|| biases(&gate_up)),
            down: mlp.down_proj.clone(),
        }
    }
}

fn placing(attention: &Attention) -> Placing {
    let projections = [&attention.q_proj, &attention.k_proj, &attention.v_proj];
    let head_dim = attention.head_dim;
    let heads = |linear: &Linear| linear.weight.base().dims()[1] / head_dim;
    let norms = [&attention.q_norm, &attention.k_norm];
    let has_norm = norms.iter().all(|norm| norm.is_some());
    let weight = attention.q_proj.weight.base();
    let ones = Tensor::ones([head_dim], (&weight.device(), weight.dtype()));
    Placing {
        bias: biases(&projections),
        norms: norms.map(|norm| {
            norm.as_ref()
                .map_or_else(|| ones.clone(), |n| n.gamma.val())
        }),
        sizes: HeadLayout {
            heads: heads(&attention.q_proj),
            groups: heads(&attention.k_proj),
            head_dim,
            has_norm,
        },
        epsilon: attention
            .q_norm
            .as_ref()
            .map_or(0.0, |norm| norm.epsilon as f32),
    }
}

/// Weights that read one input, in one.
fn beside(linears: &[&Linear]) -> Tensor<2> {
    Tensor::cat(linears.iter().map(|l| l.weight.val()).collect(), 1)
}

/// Their biases in one, zeros where they have none.
fn biases(linears: &[&Linear]) -> Tensor<1> {
    let bias = |linear: &&Linear| {
        let weight = linear.weight.base();
        let zeros = || Tensor::zeros([weight.dims()[1]], (&weight.device(), weight.dtype()));
        linear.bias.as_ref().map_or_else(zeros, Param::val)
    };
    Tensor::cat(linears.iter().map(bias).collect(), 0)
}

/// Cosines and sines of the angles of every position, computed on the host.
fn angles(frequencies: &[f32], capacity: usize, device: &Device) -> [Tensor<2>; 2] {
    let table = |turn: fn(f32) -> f32| {
        let of = |position: usize| {
            frequencies
                .iter()
                .map(move |&frequency| turn(position as f32 * frequency))
        };
        let cells: Vec<f32> = (0..capacity).flat_map(of).collect();
        let flat = Tensor::<1>::from_data(cells.as_slice(), (device, DType::F32));
        flat.reshape([capacity, frequencies.len()])
    };
    [table(f32::cos), table(f32::sin)]
}
