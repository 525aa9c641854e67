//! What rows of sequences are decoded on: tensors on any device, or the CPU's own loops.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use policy::{CausalLm, Decoder, KvCache, ModelConfig, PADDING_POSITION, Prefix, TokenBatch};

use crate::RolloutError;

/// Rows that decode one token at a time. A row's logits do not depend on what the others hold.
pub(crate) trait Decoding {
    /// Computes distinct prompts, puts prompt `sources[i]` into row `rows[i]`, and gives the logits after each prompt.
    fn enter(
        &mut self,
        prompts: &[&[u32]],
        sources: &[usize],
        rows: &[usize],
    ) -> Result<Vec<Vec<f32>>, RolloutError>;

    /// Takes `rows` apart from the rest, which nothing will enter any more: row `rows[i]` becomes row i. Gives the number
    /// of rows that there are then, or `None` where it is not worth it.
    fn shrink(&mut self, rows: &[usize]) -> Option<usize>;

    /// One token for each of `rows`, in rising order, at its position: the logits after each, one after the other.
    fn step(
        &mut self,
        rows: &[usize],
        ids: &[u32],
        positions: &[i32],
    ) -> Result<&[f32], RolloutError>;
}

/// The CPU's own loops.
pub(crate) struct SliceDecoding<'a>(pub(crate) Decoder<'a>);

impl Decoding for SliceDecoding<'_> {
    fn enter(
        &mut self,
        prompts: &[&[u32]],
        sources: &[usize],
        rows: &[usize],
    ) -> Result<Vec<Vec<f32>>, RolloutError> {
        let (prefixes, logits): (Vec<Arc<Prefix>>, Vec<_>) =
            self.0.prefill(prompts)?.into_iter().unzip();
        for (&source, &row) in sources.iter().zip(rows) {
            self.0.enter(row, &prefixes[source]);
        }
        Ok(logits)
    }

    fn shrink(&mut self, _rows: &[usize]) -> Option<usize> {
        // Idle rows cost nothing here.
        None
    }

    fn step(
        &mut self,
        rows: &[usize],
        ids: &[u32],
        _positions: &[i32],
    ) -> Result<&[f32], RolloutError> {
        Ok(self.0.step(rows, ids)?)
    }
}

/// Tensors on the model's device: rows of a common capacity, idle ones padded.
pub(crate) struct TensorDecoding<'a> {
    model: &'a CausalLm,
    config: &'a ModelConfig,
    cache: KvCache,
    rows: usize,
    prompt_length: usize,
    capacity: usize,
    logits: Vec<f32>,
}

/// Below this many products of rows and vocabulary, matrix libraries change their order of summation.
const SMALL_PRODUCT: usize = 256;

/// One row would take another path through the matrix product than two, and round differently.
fn least_rows(config: &ModelConfig) -> usize {
    (SMALL_PRODUCT / config.vocab_size + 1).max(2)
}

impl<'a> TensorDecoding<'a> {
    /// Room for `rows` sequences whose prompts are at most `prompt_length` long, and whole at most `capacity` - 1.
    pub(crate) fn new(
        model: &'a CausalLm,
        config: &'a ModelConfig,
        rows: usize,
        prompt_length: usize,
        capacity: usize,
    ) -> Self {
        let rows = rows.max(least_rows(config));
        let cache = KvCache::new(config, rows, capacity, model.dtype(), &model.device());
        Self {
            model,
            config,
            cache,
            rows,
            prompt_length,
            capacity,
            logits: Vec::new(),
        }
    }

    fn new_cache(&self, rows: usize, capacity: usize) -> KvCache {
        let model = self.model;
        KvCache::new(self.config, rows, capacity, model.dtype(), &model.device())
    }
}

impl Decoding for TensorDecoding<'_> {
    fn enter(
        &mut self,
        prompts: &[&[u32]],
        sources: &[usize],
        rows: &[usize],
    ) -> Result<Vec<Vec<f32>>, RolloutError> {
        let mut padded = prompts.to_vec();
        padded.resize(prompts.len().max(least_rows(self.config)), prompts[0]);
        let mut prefix = self.new_cache(padded.len(), self.prompt_length + 1);
        let batch = TokenBatch::right_padded(&padded, Some(self.prompt_length));
        let hidden = self.model.hidden_states(&batch, Some(&mut prefix));
        let [count, length, width] = hidden.dims();
        let last: Vec<i32> = padded
            .iter()
            .enumerate()
            .map(|(row, prompt)| (row * length + prompt.len() - 1) as i32)
            .collect();
        let last = Tensor::<1, Int>::from_data(last.as_slice(), &hidden.device());
        let hidden = hidden.reshape([count * length, width]).select(0, last);
        self.cache.adopt(&prefix, sources, rows);
        let logits = self.model.logits(hidden);
        let [_, vocab] = logits.dims();
        Ok(host(logits)?
            .chunks_exact(vocab)
            .map(<[f32]>::to_vec)
            .collect())
    }

    fn shrink(&mut self, rows: &[usize]) -> Option<usize> {
        let target = rows.len().max(least_rows(self.config));
        if 2 * target > self.rows {
            return None;
        }
        let mut cache = self.new_cache(target, self.capacity);
        let targets: Vec<usize> = (0..rows.len()).collect();
        cache.adopt(&self.cache, rows, &targets);
        (self.cache, self.rows) = (cache, target);
        Some(target)
    }

    fn step(
        &mut self,
        rows: &[usize],
        ids: &[u32],
        positions: &[i32],
    ) -> Result<&[f32], RolloutError> {
        let mut all = (vec![0; self.rows], vec![PADDING_POSITION; self.rows]);
        for ((&row, &id), &position) in rows.iter().zip(ids).zip(positions) {
            (all.0[row], all.1[row]) = (id, position);
        }
        let batch = TokenBatch::step(&all.0, &all.1);
        let hidden = self.model.hidden_states(&batch, Some(&mut self.cache));
        let [count, _, width] = hidden.dims();
        let logits = self.model.logits(hidden.reshape([count, width]));
        let [_, vocab] = logits.dims();
        let logits = host(logits)?;
        let of = |&row: &usize| &logits[row * vocab..(row + 1) * vocab];
        self.logits = rows.iter().flat_map(of).copied().collect();
        Ok(&self.logits)
    }
}

fn host(logits: Tensor<2>) -> Result<Vec<f32>, RolloutError> {
    let values = logits.try_into_vec_as::<f32>();
    values.map_err(|error| RolloutError::Device {
        message: format!("{error:?}"),
    })
}
