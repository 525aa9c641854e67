//! Decoding on the CPU: weights packed once, keys and values in the layout that products read.

use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor, TensorData};
use kernels::{Compute, HeadCache, Start, View, Weight, in_pool, rms_norm, swiglu};
use rayon::prelude::*;

use super::{
    PackedTokens, Recompute,
    block::{Product, Rows},
    shape::{BlockPlan, Layout, Shape},
};
use crate::{CausalLm, PolicyError};

/// Tokens that a fresh row has room for before its cache grows.
const FIRST_TOKENS: usize = 64;

/// A model's weights as decoding reads them: a copy, to be made anew for each version of the policy.
pub struct PackedModel {
    layers: Vec<PackedLayer>,
    norm: Vec<f32>,
    epsilon: f32,
    head: Weight,
    /// `[vocab, width]`.
    embedding: Tensor<2>,
    inverse_frequencies: Vec<f32>,
}

impl std::fmt::Debug for PackedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedModel({} layers)", self.layers.len())
    }
}

struct PackedLayer {
    shape: Arc<Shape>,
    vectors: Vec<f32>,
    qkv: Vec<Weight>,
    output: Weight,
    gate_up: Vec<Weight>,
    down: Weight,
}

/// A prompt's keys and values, by layer and key head.
#[derive(Debug)]
pub struct Prefix {
    caches: Vec<HeadCache>,
    tokens: usize,
}

/// A prompt's keys and values, and the logits after it.
pub type Prefilled = (Arc<Prefix>, Vec<f32>);

/// A tensor's elements on the host, as they are there: the CPU's are not copied one by one.
struct Host(TensorData);

impl Host {
    fn new<const D: usize>(tensor: Tensor<D>) -> Result<Self, PolicyError> {
        let failed = |error: String| PolicyError::Device { message: error };
        let data = tensor.without_autodiff().try_into_data();
        let host = Self(data.map_err(|error| failed(format!("{error:?}")))?);
        match host.0.as_slice::<f32>() {
            Ok(_) => Ok(host),
            Err(error) => Err(failed(format!("{error:?}"))),
        }
    }

    fn cells(&self) -> &[f32] {
        self.0.as_slice().unwrap_or_default()
    }

    /// A matrix in rows of `columns`.
    fn view(&self, columns: usize) -> View<'_> {
        View::dense(self.cells(), columns)
    }
}

impl CausalLm {
    /// The weights for [`Decoder`]; `None` where the model is not on the CPU in f32.
    ///
    /// # Errors
    /// A device that fails to give its weights.
    pub fn pack(&self) -> Result<Option<PackedModel>, PolicyError> {
        if !self.is_fused() {
            return Ok(None);
        }
        let packing = self.execution.packing();
        let layers = self
            .model
            .layers
            .par_iter()
            .zip(&self.shapes)
            .map(|(layer, shape)| {
                let mut matrices = Vec::with_capacity(7);
                for matrix in layer.matrices() {
                    let [_, columns] = matrix.dims();
                    matrices.push((Host::new(matrix)?, columns));
                }
                let views: Vec<View<'_>> = matrices
                    .iter()
                    .map(|(host, columns)| host.view(*columns))
                    .collect();
                Ok(PackedLayer {
                    shape: shape.clone(),
                    vectors: Host::new(layer.vectors())?.cells().to_vec(),
                    qkv: Weight::beside(&views[..3], packing),
                    output: Weight::new(views[3], packing),
                    gate_up: Weight::beside(&views[4..6], packing),
                    down: Weight::new(views[6], packing),
                })
            });
        let embedding = self.model.embed_tokens.weight.val().without_autodiff();
        let head = if let Some(head) = &self.lm_head {
            let weight = head.weight.val();
            let [_, columns] = weight.dims();
            Weight::new(Host::new(weight)?.view(columns), packing)
        } else {
            let [_, columns] = embedding.dims();
            let host = Host::new(embedding.clone())?;
            Weight::new(host.view(columns).transposed(), packing)
        };
        Ok(Some(PackedModel {
            layers: layers.collect::<Result<_, PolicyError>>()?,
            norm: Host::new(self.model.norm.gamma.val())?.cells().to_vec(),
            epsilon: self.shapes.first().map_or(0.0, |shape| shape.epsilon),
            head,
            embedding,
            inverse_frequencies: self.inverse_frequencies.clone(),
        }))
    }
}

impl PackedModel {
    fn embed(&self, ids: &[u32]) -> Result<Vec<f32>, PolicyError> {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let ids =
            Tensor::<1, Int>::from_data(ids.as_slice(), (&self.embedding.device(), DType::I32));
        let rows = Host::new(self.embedding.clone().select(0, ids))?;
        Ok(rows.cells().to_vec())
    }

    fn width(&self) -> usize {
        self.norm.len()
    }

    /// Rows of the embedding: the number of logits of a token.
    pub fn vocab_size(&self) -> usize {
        self.head.dims()[1]
    }

    /// Key heads of all layers.
    fn caches(&self, capacity: usize) -> Vec<HeadCache> {
        let attentions = self.layers.iter().map(|layer| &layer.shape.attention);
        attentions
            .flat_map(|attention| {
                (0..attention.kv_heads).map(|_| HeadCache::new(attention.head_dim, capacity))
            })
            .collect()
    }
}

/// Rows of sequences decoded together, each on a prompt that rows may share.
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a PackedModel,
    rows: Vec<Option<Row>>,
    product: Product,
    is_shared: bool,
    logits: Vec<f32>,
}

#[derive(Debug)]
struct Row {
    prefix: Arc<Prefix>,
    own: Vec<HeadCache>,
    tokens: usize,
}

impl<'a> Decoder<'a> {
    /// Room for `rows` sequences. Products are split among threads where `is_shared`, which large models want; where
    /// several decoders run beside each other, each keeps to its own thread.
    pub fn new(model: &'a PackedModel, rows: usize, is_shared: bool) -> Self {
        Self {
            model,
            rows: (0..rows).map(|_| None).collect(),
            product: if is_shared {
                Weight::multiply_shared
            } else {
                Weight::multiply
            },
            is_shared,
            logits: Vec::new(),
        }
    }

    /// Computes prompts: each one's keys and values, and the logits after it.
    ///
    /// # Errors
    /// A device that fails to give embeddings.
    pub fn prefill(&self, prompts: &[&[u32]]) -> Result<Vec<Prefilled>, PolicyError> {
        // Neighbours with one prompt would share it; the prompts are distinct.
        let tokens = PackedTokens::new(prompts.iter().map(|&prompt| (prompt, &[][..])));
        let layout = Arc::new(Layout::new(&tokens, &self.model.inverse_frequencies));
        let mut prefixes: Vec<Vec<HeadCache>> = prompts
            .iter()
            .map(|prompt| self.model.caches(prompt.len()))
            .collect();
        let mut x = self.model.embed(tokens.ids())?;
        let mut first_head = 0;
        for layer in &self.model.layers {
            let attention = &layer.shape.attention;
            x = self.layer(layer, &layout, x, |rows, mixed_rows| {
                let mut mixed = vec![0.0; mixed_rows.len()];
                attention.forward(rows, &layout.groups(), &mut mixed);
                attention.gather_mixed(&mixed, 0..layout.tokens, mixed_rows);
                let mut rest = rows.chunks_exact(attention.row_width());
                for (prompt, caches) in prompts.iter().zip(&mut prefixes) {
                    for row in rest.by_ref().take(prompt.len()) {
                        attention.push(row, &mut caches[first_head..]);
                    }
                }
            });
            first_head += attention.kv_heads;
        }
        let width = self.model.width();
        let mut end = 0;
        let mut results = Vec::with_capacity(prompts.len());
        for (prompt, caches) in prompts.iter().zip(prefixes) {
            end += prompt.len();
            let mut logits = Vec::new();
            self.head(&x[(end - 1) * width..end * width], &mut logits);
            results.push((
                Arc::new(Prefix {
                    caches,
                    tokens: prompt.len(),
                }),
                logits,
            ));
        }
        Ok(results)
    }

    /// Logits of a token.
    pub fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    /// Puts a sequence that continues a prompt into a row.
    pub fn enter(&mut self, row: usize, prefix: &Arc<Prefix>) {
        let old = self.rows[row].take();
        let mut own = old.map_or_else(|| self.model.caches(FIRST_TOKENS), |old| old.own);
        own.iter_mut().for_each(HeadCache::clear);
        self.rows[row] = Some(Row {
            prefix: prefix.clone(),
            own,
            tokens: 0,
        });
    }

    /// One token for each of some rows, in rising order: the logits after each, `[rows, vocab]`.
    ///
    /// # Errors
    /// A device that fails to give embeddings.
    ///
    /// # Panics
    /// If a row was not entered.
    pub fn step(&mut self, rows: &[usize], ids: &[u32]) -> Result<&[f32], PolicyError> {
        if self.is_shared {
            in_pool(|| self.advance(rows, ids))?;
        } else {
            self.advance(rows, ids)?;
        }
        Ok(&self.logits)
    }

    fn advance(&mut self, rows: &[usize], ids: &[u32]) -> Result<(), PolicyError> {
        let is_shared = self.is_shared;
        let mut active: Vec<Row> = rows
            .iter()
            .map(|&row| {
                self.rows[row]
                    .take()
                    .expect("a row that decodes was entered")
            })
            .collect();
        let positions: Vec<i32> = active
            .iter()
            .map(|row| (row.prefix.tokens + row.tokens) as i32)
            .collect();
        let layout = Arc::new(Layout::steps(&positions, &self.model.inverse_frequencies));
        let mut x = self.model.embed(ids)?;
        let mut first_head = 0;
        for layer in &self.model.layers {
            let attention = &layer.shape.attention;
            let widths = [attention.row_width(), layer.shape.mixed_width()];
            x = self.layer(layer, &layout, x, |rows, mixed_rows| {
                let attend =
                    |scores: &mut Vec<f32>, row: &mut Row, cells: &[f32], mixed: &mut [f32]| {
                        let own = &mut row.own[first_head..];
                        attention.push(cells, own);
                        let prefix = &row.prefix.caches[first_head..];
                        attention.step(cells, [prefix, own], scores, mixed);
                    };
                if is_shared {
                    let parts = active.par_iter_mut().zip(rows.par_chunks_exact(widths[0]));
                    let parts = parts.zip(mixed_rows.par_chunks_exact_mut(widths[1]));
                    parts.for_each_init(Vec::new, |scores, ((row, cells), mixed)| {
                        attend(scores, row, cells, mixed);
                    });
                } else {
                    let mut scores = Vec::new();
                    let parts = active.iter_mut().zip(rows.chunks_exact(widths[0]));
                    for ((row, cells), mixed) in parts.zip(mixed_rows.chunks_exact_mut(widths[1])) {
                        attend(&mut scores, row, cells, mixed);
                    }
                }
            });
            first_head += attention.kv_heads;
        }
        for (&row, mut state) in rows.iter().zip(active) {
            state.tokens += 1;
            self.rows[row] = Some(state);
        }
        let mut logits = std::mem::take(&mut self.logits);
        self.head(&x, &mut logits);
        self.logits = logits;
        Ok(())
    }

    /// A block on rows of tokens; `attend` turns queries, keys and values into attention's result.
    fn layer(
        &self,
        layer: &PackedLayer,
        layout: &Arc<Layout>,
        x: Vec<f32>,
        mut attend: impl FnMut(&[f32], &mut [f32]),
    ) -> Vec<f32> {
        let shape = &layer.shape;
        let plan = BlockPlan {
            shape: shape.clone(),
            layout: layout.clone(),
            recompute: Recompute::default(),
            compute: Compute::default(),
            // Merged as the weights were packed.
            adapters: Arc::default(),
        };
        let block = Rows {
            plan: &plan,
            shape,
            vectors: &layer.vectors,
            product: self.product,
        };
        let tokens = x.len() / shape.width;
        let mut normed = vec![0.0; x.len()];
        let mut rows = vec![0.0; tokens * shape.attention.row_width()];
        block.raw(
            &x,
            &layer.qkv.iter().collect::<Vec<_>>(),
            &mut normed,
            &mut rows,
        );
        block.place(&mut rows, 0);
        let mut mixed_rows = vec![0.0; tokens * shape.mixed_width()];
        attend(&rows, &mut mixed_rows);
        let mut h = vec![0.0; x.len()];
        block.residual(&x, &mixed_rows, &layer.output, &mut h);
        let mut gate_up = vec![0.0; tokens * 2 * shape.inner];
        block.gate_up(
            &h,
            &layer.gate_up.iter().collect::<Vec<_>>(),
            &mut normed,
            &mut gate_up,
        );
        let mut activated = vec![0.0; tokens * shape.inner];
        if self.is_shared {
            let parts = activated.par_chunks_exact_mut(shape.inner);
            parts
                .zip(gate_up.par_chunks_exact(2 * shape.inner))
                .with_min_len(4)
                .for_each(|(activated, gate_up)| swiglu(gate_up, shape.inner, activated));
        } else {
            swiglu(&gate_up, shape.inner, &mut activated);
        }
        let mut y = x;
        block.finish(&h, &activated, &layer.down, &mut y);
        y
    }

    fn head(&self, x: &[f32], logits: &mut Vec<f32>) {
        let (width, vocab) = (self.model.width(), self.model.vocab_size());
        let mut normed = vec![0.0; x.len()];
        rms_norm(x, &self.model.norm, self.model.epsilon, &mut normed);
        logits.resize(x.len() / width * vocab, 0.0);
        (self.product)(
            &self.model.head,
            View::dense(&normed, width),
            logits,
            vocab,
            Start::Zero,
        );
    }
}
