//! What rows of sequences are decoded on: tensors on any device, or the CPU's own loops.

use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor};
use policy::{
    CausalLm, DRAWN, Decoder, DeviceDecoder, KvCache, ModelConfig, PADDING_POSITION, Prefix,
    TokenBatch, Truncation,
};
use rand::RngExt;
use rayon::prelude::*;

use crate::{RolloutError, SampleKey, Sampled, SamplingParams, batch::Limits, sample};

/// What a row draws: token `index` of the sample `key`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) key: SampleKey,
    pub(crate) index: usize,
}

/// A row that goes on: the token that it feeds to the model, its position, and what is drawn after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feed {
    pub(crate) row: usize,
    pub(crate) id: u32,
    pub(crate) position: i32,
    pub(crate) draw: Draw,
}

/// A token, or `None` where its logits are not finite.
pub(crate) type Drawn = Option<Sampled>;

/// Rows that decode tokens. A row's tokens do not depend on what the others hold.
pub(crate) trait Decoding {
    /// Computes distinct prompts, puts prompt `sources[i]` into row `rows[i]`, and draws the first token of each row.
    fn enter(
        &mut self,
        prompts: &[&[u32]],
        sources: &[usize],
        rows: &[usize],
        draws: &[Draw],
    ) -> Result<Vec<Drawn>, RolloutError>;

    /// How many rows should be free before requests enter, where as many wait: each time costs all rows a pass of the prompts
    /// that enter.
    fn least_entrants(&self) -> usize {
        1
    }

    /// Takes `rows` apart from the rest, which nothing will enter any more: row `rows[i]` becomes row i. Gives the number
    /// of rows that there are then, or `None` where it is not worth it.
    fn shrink(&mut self, rows: &[usize]) -> Option<usize>;

    /// The next tokens of each of `rows`, in rising order: one, or up to `most` where that is cheaper. Those after a
    /// row's end mean nothing.
    fn advance(&mut self, rows: &[Feed], most: usize) -> Result<Vec<Vec<Drawn>>, RolloutError>;
}

/// Draws from logits on the host, a row after the other in `logits`.
fn draw_all(logits: &[f32], draws: &[Draw], params: &SamplingParams) -> Vec<Drawn> {
    let vocab = logits.len() / draws.len().max(1);
    let rows = draws.par_iter().zip(logits.par_chunks_exact(vocab.max(1)));
    rows.map(|(draw, logits)| sample(logits, params, &draw.key, draw.index))
        .collect()
}

/// The CPU's own loops.
pub(crate) struct SliceDecoding<'a> {
    pub(crate) decoder: Decoder<'a>,
    pub(crate) params: &'a SamplingParams,
}

impl Decoding for SliceDecoding<'_> {
    fn enter(
        &mut self,
        prompts: &[&[u32]],
        sources: &[usize],
        rows: &[usize],
        draws: &[Draw],
    ) -> Result<Vec<Drawn>, RolloutError> {
        let (prefixes, logits): (Vec<Arc<Prefix>>, Vec<Vec<f32>>) =
            self.decoder.prefill(prompts)?.into_iter().unzip();
        for (&source, &row) in sources.iter().zip(rows) {
            self.decoder.enter(row, &prefixes[source]);
        }
        let drawn = sources.iter().zip(draws);
        Ok(drawn
            .map(|(&source, draw)| sample(&logits[source], self.params, &draw.key, draw.index))
            .collect())
    }

    fn shrink(&mut self, _rows: &[usize]) -> Option<usize> {
        // Idle rows cost nothing here.
        None
    }

    fn advance(&mut self, feeds: &[Feed], _most: usize) -> Result<Vec<Vec<Drawn>>, RolloutError> {
        let rows: Vec<usize> = feeds.iter().map(|feed| feed.row).collect();
        let ids: Vec<u32> = feeds.iter().map(|feed| feed.id).collect();
        let draws: Vec<Draw> = feeds.iter().map(|feed| feed.draw).collect();
        let logits = self.decoder.step(&rows, &ids)?;
        let drawn = draw_all(logits, &draws, self.params);
        Ok(drawn.into_iter().map(|drawn| vec![drawn]).collect())
    }
}

/// Tensors on the model's device: rows of a common capacity, idle ones padded.
pub(crate) struct TensorDecoding<'a> {
    model: &'a CausalLm,
    config: &'a ModelConfig,
    params: &'a SamplingParams,
    /// Where the device decodes by itself, so that no logits leave it.
    decoder: Option<DeviceDecoder<'a>>,
    cache: KvCache,
    rows: usize,
    prompt_length: usize,
    capacity: usize,
}

/// Tokens that a device decodes by itself before the host looks at them: it waits for the device once for all of them, and
/// a row that ends within them is decoded in vain for what is left of them.
const BURST: usize = 8;

/// Below this many products of rows and vocabulary, matrix libraries change their order of summation.
const SMALL_PRODUCT: usize = 256;

/// What a device's matrix units multiply at once: somewhat fewer rows cost as much. Each has a cache of its own, so a few rows
/// stay as few.
const DEVICE_ROWS: usize = 16;

/// One row would take another path through the matrix product than two, and round differently.
fn least_rows(config: &ModelConfig) -> usize {
    (SMALL_PRODUCT / config.vocab_size + 1).max(2)
}

/// Rows that are decoded where `rows` are asked for.
fn padded_rows(model: &CausalLm, config: &ModelConfig, rows: usize) -> usize {
    let rows = rows.max(least_rows(config));
    if 2 * rows >= DEVICE_ROWS && model.has_device_decoder() {
        rows.next_multiple_of(DEVICE_ROWS)
    } else {
        rows
    }
}

impl<'a> TensorDecoding<'a> {
    /// Room for `rows` sequences whose prompts are at most `prompt_length` long, and whole at most `capacity` - 1.
    pub(crate) fn new(
        model: &'a CausalLm,
        config: &'a ModelConfig,
        params: &'a SamplingParams,
        limits: Limits,
    ) -> Self {
        let rows = padded_rows(model, config, limits.rows);
        let cache = KvCache::new(
            config,
            rows,
            limits.capacity,
            model.dtype(),
            &model.device(),
        );
        Self {
            model,
            config,
            params,
            decoder: model.device_decoder(truncation(params), limits.capacity),
            cache,
            rows,
            prompt_length: limits.prompt_length,
            capacity: limits.capacity,
        }
    }

    fn new_cache(&self, rows: usize, capacity: usize) -> KvCache {
        let model = self.model;
        KvCache::new(self.config, rows, capacity, model.dtype(), &model.device())
    }
}

impl TensorDecoding<'_> {
    /// Draws after the first of hidden states `[rows, width]`.
    fn draw(&self, hidden: Tensor<2>, draws: &[Draw]) -> Result<Vec<Drawn>, RolloutError> {
        let [rows, _] = hidden.dims();
        let Some(decoder) = &self.decoder else {
            let logits = host(self.model.logits(hidden).cast(DType::F32))?;
            let vocab = logits.len() / rows;
            return Ok(draw_all(&logits[..draws.len() * vocab], draws, self.params));
        };
        let mut uniforms: Vec<f32> = draws.iter().copied().map(uniform).collect();
        uniforms.resize(rows, 0.0);
        let uniforms = Tensor::<1>::from_data(uniforms.as_slice(), &hidden.device());
        let (drawn, _) = decoder.draw(hidden, uniforms);
        let figures = host(drawn)?;
        let drawn = figures.chunks_exact(DRAWN).take(draws.len());
        Ok(drawn.map(sampled).collect())
    }

    /// Several tokens of every row, the host waiting once.
    fn burst(&mut self, feeds: &[Feed], steps: usize) -> Result<Vec<Vec<Drawn>>, RolloutError> {
        let mut ids = vec![0; self.rows];
        let mut positions = vec![PADDING_POSITION; self.rows];
        // Idle rows draw too, and nobody looks.
        let mut uniforms = vec![0.0; steps * self.rows];
        for feed in feeds {
            (ids[feed.row], positions[feed.row]) = (feed.id as i32, feed.position);
            for step in 0..steps {
                uniforms[step * self.rows + feed.row] = uniform(Draw {
                    index: feed.draw.index + step,
                    ..feed.draw
                });
            }
        }
        let decoder = self
            .decoder
            .as_ref()
            .expect("bursts are for devices that decode");
        let figures = decoder.advance(&ids, &positions, &uniforms, &mut self.cache);
        let figures = host(figures)?;
        let of = |row: usize, step: usize| {
            let start = (step * self.rows + row) * DRAWN;
            sampled(&figures[start..start + DRAWN])
        };
        Ok(feeds
            .iter()
            .map(|feed| (0..steps).map(|step| of(feed.row, step)).collect())
            .collect())
    }
}

/// The uniform number that draws a token, below 1 as an f32 too.
fn uniform(draw: Draw) -> f32 {
    const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;
    let uniform: f64 = draw.key.rng(draw.index).random();
    (uniform as f32).min(BELOW_ONE)
}

/// A device's figures of a drawn token.
fn sampled(figures: &[f32]) -> Drawn {
    let [id, log_prob, entropy, entropy_at_temperature] = *figures else {
        return None;
    };
    log_prob.is_finite().then_some(Sampled {
        id: id as u32,
        log_prob,
        entropy,
        entropy_at_temperature,
    })
}

fn truncation(params: &SamplingParams) -> Truncation {
    Truncation {
        temperature: params.temperature as f32,
        top_k: u32::try_from(params.top_k).unwrap_or(0),
        top_p: params.top_p as f32,
        min_p: params.min_p as f32,
    }
}

impl Decoding for TensorDecoding<'_> {
    /// With an eighth of the rows at once a group's prompt is mostly computed once, and a device decodes in between.
    fn least_entrants(&self) -> usize {
        self.rows.div_ceil(8)
    }

    fn enter(
        &mut self,
        prompts: &[&[u32]],
        sources: &[usize],
        rows: &[usize],
        draws: &[Draw],
    ) -> Result<Vec<Drawn>, RolloutError> {
        let mut padded = prompts.to_vec();
        padded.resize(prompts.len().max(least_rows(self.config)), prompts[0]);
        let mut prefix = self.new_cache(padded.len(), self.prompt_length + 1);
        let batch = TokenBatch::right_padded(&padded, Some(self.prompt_length));
        let hidden = self.model.hidden_states(&batch, Some(&mut prefix));
        let [count, length, width] = hidden.dims();
        // As many rows as a product needs to round alike whoever enters; those beyond the draws are not looked at.
        let mut taken = sources.to_vec();
        let entering = padded_rows(self.model, self.config, sources.len());
        taken.resize(entering, sources[0]);
        let last: Vec<i32> = taken
            .iter()
            .map(|&source| (source * length + padded[source].len() - 1) as i32)
            .collect();
        let last = Tensor::<1, Int>::from_data(last.as_slice(), (&hidden.device(), DType::I32));
        let hidden = hidden.reshape([count * length, width]).select(0, last);
        self.cache.adopt(&prefix, sources, rows);
        self.draw(hidden, draws)
    }

    fn shrink(&mut self, rows: &[usize]) -> Option<usize> {
        let target = padded_rows(self.model, self.config, rows.len());
        if 2 * target > self.rows {
            return None;
        }
        let mut cache = self.new_cache(target, self.capacity);
        let targets: Vec<usize> = (0..rows.len()).collect();
        cache.adopt(&self.cache, rows, &targets);
        (self.cache, self.rows) = (cache, target);
        Some(target)
    }

    fn advance(&mut self, feeds: &[Feed], most: usize) -> Result<Vec<Vec<Drawn>>, RolloutError> {
        if self.decoder.is_some() {
            return self.burst(feeds, most.clamp(1, BURST));
        }
        let mut all = (vec![0; self.rows], vec![PADDING_POSITION; self.rows]);
        for feed in feeds {
            (all.0[feed.row], all.1[feed.row]) = (feed.id, feed.position);
        }
        let batch = TokenBatch::step(&all.0, &all.1);
        let hidden = self.model.hidden_states(&batch, Some(&mut self.cache));
        let [count, _, width] = hidden.dims();
        // Logits of all rows, idle ones too: the product's rounding depends on how many there are.
        let logits = host(
            self.model
                .logits(hidden.reshape([count, width]))
                .cast(DType::F32),
        )?;
        let vocab = logits.len() / count;
        let drawn = feeds.par_iter().map(|feed| {
            let logits = &logits[feed.row * vocab..(feed.row + 1) * vocab];
            vec![sample(logits, self.params, &feed.draw.key, feed.draw.index)]
        });
        Ok(drawn.collect())
    }
}

fn host(values: Tensor<2>) -> Result<Vec<f32>, RolloutError> {
    let values = values.try_into_vec_as::<f32>();
    values.map_err(|error| RolloutError::Device {
        message: format!("{error:?}"),
    })
}
