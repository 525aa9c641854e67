//! What a block's inner loops need to know of the model and of the batch.

use std::{ops::Range, sync::Arc};

use kernels::{Attention, Compute, Rotary, Segment};

use super::{PackedTokens, low_rank::Adapters};
use crate::ModelConfig;

/// How much of a block's forward pass is kept for its backward pass; the rest is computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recompute {
    /// Everything is kept but what is cheap element by element: about 23 kB a token and layer of a 135M model.
    Nothing,
    /// The feed-forward layer is computed again: about 9 kB.
    #[default]
    FeedForward,
    /// The whole block is, from its input: about 2 kB.
    Block,
}

impl ModelConfig {
    /// Bytes that a training pass keeps of each token until its backward pass, in f32, all blocks together.
    pub fn activation_bytes(&self, recompute: Recompute) -> usize {
        let shape = Shape::new(self, None);
        let attention = shape.attention.row_width() + shape.mixed_width();
        let kept = match recompute {
            Recompute::Block => 0,
            Recompute::FeedForward => attention,
            Recompute::Nothing => attention + 2 * shape.inner,
        };
        self.num_hidden_layers * (shape.width + kept) * size_of::<f32>()
    }
}

/// One batch's layout, shared by all blocks.
#[derive(Debug)]
pub(super) struct Layout {
    groups: Vec<Vec<Segment>>,
    pub(super) rotary: Rotary,
    pub(super) tokens: usize,
}

impl Layout {
    pub(super) fn new(tokens: &PackedTokens, inverse_frequencies: &[f32]) -> Self {
        Self {
            groups: tokens.groups().map(<[Segment]>::to_vec).collect(),
            rotary: Rotary::new(tokens.positions(), inverse_frequencies),
            tokens: tokens.ids().len(),
        }
    }

    /// One token of each of several sequences, whose keys lie in caches.
    pub(super) fn steps(positions: &[i32], inverse_frequencies: &[f32]) -> Self {
        Self {
            groups: Vec::new(),
            rotary: Rotary::new(positions, inverse_frequencies),
            tokens: positions.len(),
        }
    }

    pub(super) fn groups(&self) -> Vec<&[Segment]> {
        self.groups.iter().map(Vec::as_slice).collect()
    }
}

/// A block's sizes and where its small vectors lie in the one that holds them all.
#[derive(Debug, Clone)]
pub(in crate::model) struct Shape {
    pub(super) attention: Attention,
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) epsilon: f32,
    pub(super) vectors: Vectors,
}

/// Ranges of a block's norms and biases in their concatenation.
#[derive(Debug, Clone)]
pub(super) struct Vectors {
    pub(super) input_norm: Range<usize>,
    pub(super) post_norm: Range<usize>,
    pub(super) query_norm: Option<Range<usize>>,
    pub(super) key_norm: Option<Range<usize>>,
    /// Of queries, keys and values.
    pub(super) qkv_bias: Option<Range<usize>>,
    pub(super) output_bias: Option<Range<usize>>,
    /// Of gate and up.
    pub(super) gate_up_bias: Option<Range<usize>>,
    pub(super) down_bias: Option<Range<usize>>,
    pub(super) len: usize,
}

impl Shape {
    pub(in crate::model) fn new(config: &ModelConfig, window: Option<usize>) -> Self {
        let attention = Attention {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            window,
        };
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mut len = 0;
        let mut take = |count: usize| {
            len += count;
            len - count..len
        };
        let head_norm = config.family == crate::Family::Qwen3;
        let vectors = Vectors {
            input_norm: take(width),
            post_norm: take(width),
            query_norm: head_norm.then(|| take(config.head_dim)),
            key_norm: head_norm.then(|| take(config.head_dim)),
            qkv_bias: config.attention_bias.then(|| take(attention.row_width())),
            output_bias: config.attention_output_bias.then(|| take(width)),
            gate_up_bias: config.mlp_bias.then(|| take(2 * inner)),
            down_bias: config.mlp_bias.then(|| take(width)),
            len: 0,
        };
        let vectors = Vectors { len, ..vectors };
        Self {
            attention,
            width,
            inner,
            epsilon: config.rms_norm_eps as f32,
            vectors,
        }
    }

    /// Width of the heads side by side.
    pub(super) fn mixed_width(&self) -> usize {
        self.attention.heads * self.attention.head_dim
    }

    /// Widths of queries, of keys and of values.
    pub(super) fn qkv_widths(&self) -> [usize; 3] {
        let keys = self.attention.kv_heads * self.attention.head_dim;
        [self.mixed_width(), keys, keys]
    }
}

/// All that one block's operation is given besides tensors.
#[derive(Debug, Clone)]
pub(super) struct BlockPlan {
    pub(super) shape: Arc<Shape>,
    pub(super) layout: Arc<Layout>,
    pub(super) recompute: Recompute,
    pub(super) compute: Compute,
    pub(super) adapters: Arc<Adapters>,
}
