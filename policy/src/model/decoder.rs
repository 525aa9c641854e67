//! The decoder and its language-model head.

use std::sync::Arc;

use burn::{
    module::{LoraAdapter, Module, Param},
    nn::{Embedding, EmbeddingConfig, Initializer, Linear, RmsNorm, RmsNormConfig},
    tensor::{DType, Device, Int, Tensor},
};

use super::{
    attention::Attention,
    cache::{KvCache, LayerCache},
    fused::{Adapters, Execution, Shape},
    lora::{self, adapter, cast_linear},
    mlp::{Mlp, projection},
    operations::Operations,
    rope::{PADDING_POSITION, Rotation, Visibility, inverse_frequencies},
};
use crate::{ModelConfig, weights::cast};

/// Token ids with the position of each: `rows` sequences of `length`, padding at [`PADDING_POSITION`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<i32>,
    positions: Vec<i32>,
    rows: usize,
    length: usize,
}

impl TokenBatch {
    /// Sequences padded on the right to `length`, or to the longest of them.
    ///
    /// # Panics
    /// If a sequence is longer than `length`.
    pub fn right_padded(sequences: &[&[u32]], length: Option<usize>) -> Self {
        let longest = sequences
            .iter()
            .map(|sequence| sequence.len())
            .max()
            .unwrap_or(0);
        let length = length.unwrap_or(longest).max(1);
        assert!(
            longest <= length,
            "a sequence of {longest} tokens in rows of {length}"
        );
        let mut ids = vec![0; sequences.len() * length];
        let mut positions = vec![PADDING_POSITION; sequences.len() * length];
        for (row, sequence) in sequences.iter().enumerate() {
            for (column, &id) in sequence.iter().enumerate() {
                ids[row * length + column] = id as i32;
                positions[row * length + column] = column as i32;
            }
        }
        Self {
            ids,
            positions,
            rows: sequences.len(),
            length,
        }
    }

    /// Tokens at their positions, whatever sequences they are of, in one row.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(super) fn one_row(ids: &[u32], positions: &[i32]) -> Self {
        assert_eq!(ids.len(), positions.len(), "one position for each id");
        Self {
            ids: ids.iter().map(|&id| id as i32).collect(),
            positions: positions.to_vec(),
            rows: 1,
            length: ids.len(),
        }
    }

    /// One token a row, each at its own position: a decoding step.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn step(ids: &[u32], positions: &[i32]) -> Self {
        assert_eq!(ids.len(), positions.len(), "one position for each id");
        let rows = ids.len();
        let ids = ids.iter().map(|&id| id as i32).collect();
        Self {
            ids,
            positions: positions.to_vec(),
            rows,
            length: 1,
        }
    }

    /// Rows with an attention mask (1 = a token, 0 = padding, anywhere in the row), row-major.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn masked(ids: &[Vec<u32>], mask: &[Vec<u32>]) -> Self {
        let (rows, length) = (ids.len(), ids.first().map_or(0, Vec::len));
        let mut positions = Vec::with_capacity(rows * length);
        for (ids, mask) in ids.iter().zip(mask) {
            assert_eq!(
                [ids.len(), mask.len()],
                [length, length],
                "rows of one length"
            );
            let mut next = 0;
            for &real in mask {
                positions.push(if real == 0 { PADDING_POSITION } else { next });
                next += i32::from(real != 0);
            }
        }
        let ids = ids.iter().flatten().map(|&id| id as i32).collect();
        Self {
            ids,
            positions,
            rows,
            length,
        }
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.length]
    }

    /// The positions, `[rows, length]`.
    pub(super) fn positions_on(&self, device: &Device) -> Tensor<2, Int> {
        let flat = Tensor::<1, Int>::from_data(self.positions.as_slice(), (device, DType::I32));
        flat.reshape([self.rows, self.length])
    }
}

/// A transformer block: x + attention(norm(x)), then x + feed-forward(norm(x)).
#[derive(Module, Debug)]
pub(super) struct DecoderLayer {
    pub(super) self_attn: Attention,
    pub(super) mlp: Mlp,
    pub(super) input_layernorm: RmsNorm,
    pub(super) post_attention_layernorm: RmsNorm,
}

impl DecoderLayer {
    fn new(config: &ModelConfig, device: &Device) -> Self {
        Self {
            self_attn: Attention::new(config, device),
            mlp: Mlp::new(config, device),
            input_layernorm: norm(config, device),
            post_attention_layernorm: norm(config, device),
        }
    }

    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        visibility: &Visibility,
        cache: Option<&mut LayerCache>,
        operations: Operations,
    ) -> Tensor<3> {
        let (x, gated) = self.before_down(x, rotation, visibility, cache, operations);
        let fed = operations.linear(&self.mlp.down_proj, gated);
        operations.add(x, fed)
    }

    /// All but the last product: the residual stream after attention, and what the down projection takes.
    ///
    /// # Shapes
    /// `[batch, length, hidden_size]` to the same, and to `[batch, length, intermediate_size]`.
    pub(super) fn before_down(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        visibility: &Visibility,
        cache: Option<&mut LayerCache>,
        operations: Operations,
    ) -> (Tensor<3>, Tensor<3>) {
        let normed = operations.rms_norm(&self.input_layernorm, x.clone());
        let attention = &self.self_attn;
        let mixed = attention.forward(normed, rotation, visibility, cache, operations);
        let x = operations.add(x, mixed);
        let normed = operations.rms_norm(&self.post_attention_layernorm, x.clone());
        let gated = self.mlp.gated(normed, operations);
        (x, gated)
    }
}

impl DecoderLayer {
    /// Query, key, value, output, gate, up, down.
    pub(super) fn linears(&self) -> [&Linear; 7] {
        let (attention, mlp) = (&self.self_attn, &self.mlp);
        [
            &attention.q_proj,
            &attention.k_proj,
            &attention.v_proj,
            &attention.o_proj,
            &mlp.gate_proj,
            &mlp.up_proj,
            &mlp.down_proj,
        ]
    }

    /// The same, to be changed.
    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 7] {
        let (attention, mlp) = (&mut self.self_attn, &mut self.mlp);
        [
            &mut attention.q_proj,
            &mut attention.k_proj,
            &mut attention.v_proj,
            &mut attention.o_proj,
            &mut mlp.gate_proj,
            &mut mlp.up_proj,
            &mut mlp.down_proj,
        ]
    }

    /// Query, key, value, output, gate, up, down, each `[inputs, outputs]`, as products take them.
    pub(super) fn matrices(&self) -> [Tensor<2>; 7] {
        self.linears().map(lora::weight)
    }

    /// The same without their adapters, with the factors of these in one and where they lie in it; of nothing where there
    /// are none.
    pub(super) fn bases(&self) -> ([Tensor<2>; 7], Option<Tensor<1>>, Adapters) {
        let linears = self.linears();
        let mut adapters = Adapters::default();
        let mut factors = Vec::new();
        for (index, linear) in linears.into_iter().enumerate() {
            let Some(LoraAdapter { a, b, scale }) = adapter(linear) else {
                continue;
            };
            let (a, b) = (a.val(), b.val());
            let ([inputs, rank], [_, outputs]) = (a.dims(), b.dims());
            adapters.push(index, [inputs, rank, outputs], *scale as f32);
            factors.extend([a.reshape([inputs * rank]), b.reshape([rank * outputs])]);
        }
        let bases = linears.map(|linear| match adapter(linear) {
            Some(_) => linear.weight.base(),
            None => linear.weight.val(),
        });
        let factors = (!factors.is_empty()).then(|| Tensor::cat(factors, 0));
        (bases, factors, adapters)
    }

    /// The same in another type, as [`CausalLm::cast`] does it.
    pub(super) fn cast(mut self, dtype: DType) -> Self {
        for linear in self.linears_mut() {
            cast_linear(linear, dtype);
        }
        let attention = &mut self.self_attn;
        attention.q_norm = cast(attention.q_norm.take(), dtype);
        attention.k_norm = cast(attention.k_norm.take(), dtype);
        self.input_layernorm = cast(self.input_layernorm, dtype);
        self.post_attention_layernorm = cast(self.post_attention_layernorm, dtype);
        self
    }

    /// Norms and biases in one, in the order of [`Shape`]'s ranges.
    pub(super) fn vectors(&self) -> Tensor<1> {
        let attention = &self.self_attn;
        let norms = [
            Some(&self.input_layernorm),
            Some(&self.post_attention_layernorm),
            attention.q_norm.as_ref(),
            attention.k_norm.as_ref(),
        ];
        let norms = norms.into_iter().flatten().map(|norm| norm.gamma.val());
        let biases = self
            .linears()
            .into_iter()
            .filter_map(|linear| linear.bias.as_ref());
        Tensor::cat(norms.chain(biases.map(Param::val)).collect(), 0)
    }
}

/// Embedding, blocks and the last norm: Hugging Face's `model`.
#[derive(Module, Debug)]
pub(super) struct DecoderModel {
    pub(super) embed_tokens: Embedding,
    pub(super) layers: Vec<DecoderLayer>,
    pub(super) norm: RmsNorm,
}

/// A causal language model: the decoder and its head.
#[derive(Module, Debug)]
pub struct CausalLm {
    pub(super) model: DecoderModel,
    pub(super) lm_head: Option<Linear>,
    #[module(skip)]
    pub(super) inverse_frequencies: Vec<f32>,
    #[module(skip)]
    pub(super) shapes: Vec<Arc<Shape>>,
    #[module(skip)]
    pub(super) execution: Execution,
    #[module(skip)]
    pub(super) windows: Vec<Option<usize>>,
}

impl CausalLm {
    /// A model whose weights have yet to be loaded or drawn; none is allocated until it is first read.
    pub fn new(config: &ModelConfig, device: &Device) -> Self {
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let embedding = EmbeddingConfig::new(vocab, width).with_initializer(Initializer::Zeros);
        let head = || projection(width, vocab, false, device);
        Self {
            model: DecoderModel {
                embed_tokens: embedding.init(device),
                layers: (0..config.num_hidden_layers)
                    .map(|_| DecoderLayer::new(config, device))
                    .collect(),
                norm: norm(config, device),
            },
            lm_head: (!config.tie_word_embeddings).then(head),
            inverse_frequencies: inverse_frequencies(&config.rope, config.head_dim),
            shapes: config
                .sliding_windows
                .iter()
                .map(|&window| Arc::new(Shape::new(config, window)))
                .collect(),
            execution: Execution::default(),
            windows: config.sliding_windows.clone(),
        }
    }

    /// The residual stream after the last norm, for every token of the batch.
    ///
    /// With a cache, the batch's tokens see what is in it and are added to it.
    ///
    /// # Shapes
    /// `[rows, length, hidden_size]`; rows at padding hold nothing of use.
    pub fn hidden_states(&self, batch: &TokenBatch, mut cache: Option<&mut KvCache>) -> Tensor<3> {
        let keys = cache.as_deref_mut().map(|cache| {
            cache.announce(&batch.positions, batch.length);
            cache.positions()
        });
        let positions = batch.positions_on(&self.device());
        let keys = keys.unwrap_or_else(|| positions.clone());
        let operations = self.operations();
        let mut x = self.embedded(batch);
        let rotation = Rotation::new(positions.clone(), &self.inverse_frequencies, x.dtype());
        let visibilities = self.visibilities(&positions, &keys);
        for (index, layer) in self.model.layers.iter().enumerate() {
            let slot = cache.as_deref_mut().map(|cache| cache.layer(index));
            let visibility = &visibilities[self.window_kind(index)];
            x = layer.forward(x, &rotation, visibility, slot, operations);
        }
        operations.rms_norm(&self.model.norm, x)
    }

    /// The tokens' rows of the embedding, `[rows, length, hidden_size]`.
    pub(super) fn embedded(&self, batch: &TokenBatch) -> Tensor<3> {
        let weight = self.model.embed_tokens.weight.val();
        let [_, width] = weight.dims();
        let picked = self.operations().pick_rows(weight, &batch.ids);
        picked.reshape([batch.rows, batch.length, width])
    }

    /// One mask for each window that occurs, with its bias where the operations add one.
    pub(super) fn visibilities(
        &self,
        queries: &Tensor<2, Int>,
        keys: &Tensor<2, Int>,
    ) -> Vec<Visibility> {
        let needs_bias = self.operations() == Operations::Plain;
        let of = |window| {
            let visibility = Visibility::new(queries.clone(), keys.clone(), window);
            if needs_bias {
                visibility.with_bias()
            } else {
                visibility
            }
        };
        self.window_kinds().into_iter().map(of).collect()
    }

    /// Kernels of our own where the device runs them, unless the plain form was asked for.
    pub(super) fn operations(&self) -> Operations {
        if self.execution.plain {
            return Operations::Plain;
        }
        Operations::of(&self.device())
    }

    /// Of rows of `length`, how many queries' scores a block holds at once.
    pub fn scores_held(&self, length: usize) -> usize {
        self.operations().queries_at_once(length)
    }

    /// Whether kernels of our own compute it, as on GPUs.
    pub fn runs_kernels(&self) -> bool {
        self.operations().are_kernels()
    }

    fn window_kinds(&self) -> Vec<Option<usize>> {
        let mut kinds = self.windows.clone();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    pub(super) fn window_kind(&self, layer: usize) -> usize {
        let kinds = self.window_kinds();
        kinds
            .iter()
            .position(|kind| *kind == self.windows[layer])
            .unwrap_or(0)
    }

    /// Next-token logits of hidden states.
    ///
    /// # Shapes
    /// `[tokens, hidden_size]` to `[tokens, vocab_size]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => hidden.matmul(head.weight.val()),
            None => hidden.matmul(self.model.embed_tokens.weight.val().transpose()),
        }
    }

    /// The head's weight: the embedding's `[vocab, hidden_size]` where it is tied to that, with whether it is.
    pub(super) fn head_weight(&self) -> (Tensor<2>, bool) {
        match &self.lm_head {
            Some(head) => (head.weight.val(), false),
            None => (self.model.embed_tokens.weight.val(), true),
        }
    }

    /// The same weights in another type. Where they track gradients, so does the cast: the gradient of what is
    /// computed from it arrives at the original, in the original's type. A weight with an adapter stays as it is: products
    /// take both, merged, in their own type.
    #[must_use]
    pub fn cast(self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            return self;
        }
        let layers = self.model.layers.into_iter();
        Self {
            model: DecoderModel {
                embed_tokens: cast(self.model.embed_tokens, dtype),
                layers: layers.map(|layer| layer.cast(dtype)).collect(),
                norm: cast(self.model.norm, dtype),
            },
            lm_head: cast(self.lm_head, dtype),
            ..self
        }
    }

    /// The same with the head's weight in another type, as [`CausalLm::cast`] does it with all: what scores hidden states that come from elsewhere.
    #[must_use]
    pub fn cast_head(mut self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            return self;
        }
        match self.lm_head.take() {
            Some(head) => self.lm_head = Some(cast(head, dtype)),
            None => self.model.embed_tokens = cast(self.model.embed_tokens, dtype),
        }
        self
    }

    /// Rows of the embedding: the number of token ids.
    pub fn vocab_size(&self) -> usize {
        self.model.embed_tokens.weight.lazy_shape()[0]
    }

    /// Columns of the embedding: the width of hidden states.
    pub fn hidden_size(&self) -> usize {
        self.model.embed_tokens.weight.lazy_shape()[1]
    }

    /// The device that holds the weights.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.val().device()
    }

    /// The weights' type.
    pub fn dtype(&self) -> DType {
        self.model.embed_tokens.weight.val().dtype()
    }
}

fn norm(config: &ModelConfig, device: &Device) -> RmsNorm {
    RmsNormConfig::new(config.hidden_size)
        .with_epsilon(config.rms_norm_eps)
        .init(device)
}
