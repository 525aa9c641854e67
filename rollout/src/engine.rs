//! Batched decoding on the local model.

use std::{
    collections::{HashMap, VecDeque},
    sync::mpsc,
};

use burn::tensor::{Int, Tensor};
use policy::{CausalLm, KvCache, ModelConfig, PADDING_POSITION, Policy, TokenBatch, Tokenizer};
use rayon::prelude::*;

use crate::{
    FinishReason, Generator, Progress, Request, Rollout, RolloutError, Sampled, SamplingParams,
    sample,
};

/// How much the engine holds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences decoded together.
    pub batch_rows: usize,
    /// Prompt tokens, padding included, that go through the model together.
    pub prefill_tokens: usize,
    /// Batches decoded at once, each on a thread of its own with its share of the rows. Small models gain from it,
    /// whose single operations do not fill the cores.
    pub threads: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            batch_rows: 64,
            prefill_tokens: 4096,
            threads: 1,
        }
    }
}

/// Decodes many requests together: finished rows leave, waiting ones enter, equal prompts are computed once.
///
/// A row's result does not depend on its neighbours: tokens lie in the slots of their positions, the slots'
/// number is fixed by the requests and not by who shares the batch, and draws are keyed by the sample.
#[derive(Debug)]
pub struct Engine<'a> {
    model: &'a CausalLm,
    config: &'a ModelConfig,
    tokenizer: Option<&'a Tokenizer>,
    options: EngineOptions,
}

/// Below this many products of rows and vocabulary, matrix libraries change their order of summation.
const SMALL_PRODUCT: usize = 256;

impl<'a> Engine<'a> {
    /// An engine on a policy's weights, which must not track gradients (`model.valid()`).
    pub fn new(policy: &'a Policy, model: &'a CausalLm, options: EngineOptions) -> Self {
        Self {
            model,
            config: &policy.config,
            tokenizer: policy.tokenizer.as_ref(),
            options,
        }
    }

    fn check(&self, requests: &[Request], params: &SamplingParams) -> Result<(), RolloutError> {
        params.validate()?;
        requests
            .iter()
            .try_for_each(|request| self.check_prompt(request))
    }

    fn check_prompt(&self, request: &Request) -> Result<(), RolloutError> {
        let row = request.key.row;
        let context_tokens = self.config.max_position_embeddings;
        let prompt_tokens = request.prompt_ids.len();
        if prompt_tokens == 0 {
            return Err(RolloutError::EmptyPrompt { row });
        }
        if prompt_tokens >= context_tokens {
            return Err(RolloutError::PromptTooLong {
                row,
                prompt_tokens,
                context_tokens,
            });
        }
        let vocab_size = self.config.vocab_size;
        match request
            .prompt_ids
            .iter()
            .find(|&&id| id as usize >= vocab_size)
        {
            Some(&id) => Err(RolloutError::UnknownToken {
                row,
                id,
                vocab_size,
            }),
            None => Ok(()),
        }
    }

    /// One row would take another path through the matrix product than two, and round differently.
    fn least_rows(&self) -> usize {
        (SMALL_PRODUCT / self.config.vocab_size + 1).max(2)
    }
}

impl Generator for Engine<'_> {
    fn generate(
        &self,
        requests: &[Request],
        params: &SamplingParams,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Rollout>, RolloutError> {
        self.check(requests, params)?;
        let limits = Limits::new(self, requests, params);
        let threads = self.options.threads.clamp(1, requests.len().max(1));
        if threads == 1 {
            return Batch::new(self, requests, params, limits).run(on_progress);
        }
        let share = requests.len().div_ceil(threads);
        let limits = Limits {
            rows: limits.rows.div_ceil(threads),
            ..limits
        };
        let (sender, reports) = mpsc::channel();
        std::thread::scope(|scope| {
            let work = |(index, part), sender: mpsc::Sender<_>| {
                let mut report = |progress| {
                    // The receiver outlives every sender, so the report cannot fail.
                    let _ = sender.send((index, progress));
                };
                Batch::new(self, part, params, limits).run(&mut report)
            };
            let threads: Vec<_> = requests
                .chunks(share)
                .enumerate()
                .map(|part| {
                    let sender = sender.clone();
                    scope.spawn(move || work(part, sender))
                })
                .collect();
            drop(sender);
            relay(&reports, threads.len(), requests.len(), on_progress);
            let joined = threads.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            let parts = joined.collect::<Result<Vec<_>, _>>()?;
            Ok(parts.into_iter().flatten().collect())
        })
    }
}

/// Adds up the threads' progress as it comes.
fn relay(
    reports: &mpsc::Receiver<(usize, Progress)>,
    threads: usize,
    total: usize,
    on_progress: &mut dyn FnMut(Progress),
) {
    let mut latest = vec![
        Progress {
            finished: 0,
            total: 0,
            tokens: 0
        };
        threads
    ];
    for (index, progress) in reports {
        latest[index] = progress;
        on_progress(Progress {
            finished: latest.iter().map(|progress| progress.finished).sum(),
            total,
            tokens: latest.iter().map(|progress| progress.tokens).sum(),
        });
    }
}

/// Sizes that a call's requests fix, so that no row's result depends on who shares its batch.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Sequences decoded together.
    rows: usize,
    /// The longest prompt, to which all are padded.
    prompt_length: usize,
    /// Slots of a row's cache: the longest sequence, and one more for padding.
    capacity: usize,
}

impl Limits {
    fn new(engine: &Engine<'_>, requests: &[Request], params: &SamplingParams) -> Self {
        let longest = requests
            .iter()
            .map(|request| request.prompt_ids.len())
            .max()
            .unwrap_or(1);
        let total = longest
            .saturating_add(params.max_new_tokens)
            .min(engine.config.max_position_embeddings);
        let prompt_length = longest.max(2);
        Self {
            rows: engine.options.batch_rows.min(requests.len()),
            prompt_length,
            capacity: total.max(prompt_length) + 1,
        }
    }
}

/// A sequence being decoded.
#[derive(Debug)]
struct Active {
    request: usize,
    response_ids: Vec<u32>,
    log_probs: Vec<f32>,
}

/// The state of one call: rows, cache, and what waits.
struct Batch<'a> {
    engine: &'a Engine<'a>,
    requests: &'a [Request],
    params: &'a SamplingParams,
    limits: Limits,
    waiting: VecDeque<usize>,
    rows: Vec<Option<Active>>,
    cache: KvCache,
    finished: Vec<Option<Rollout>>,
    tokens: usize,
}

impl<'a> Batch<'a> {
    fn new(
        engine: &'a Engine<'a>,
        requests: &'a [Request],
        params: &'a SamplingParams,
        limits: Limits,
    ) -> Self {
        let rows = limits.rows.min(requests.len()).max(engine.least_rows());
        Self {
            engine,
            requests,
            params,
            limits,
            waiting: (0..requests.len()).collect(),
            rows: (0..rows).map(|_| None).collect(),
            cache: new_cache(engine, rows, limits.capacity),
            finished: requests.iter().map(|_| None).collect(),
            tokens: 0,
        }
    }

    fn run(mut self, on_progress: &mut dyn FnMut(Progress)) -> Result<Vec<Rollout>, RolloutError> {
        while !self.is_done() {
            self.admit()?;
            on_progress(self.progress());
            self.shrink();
            self.step()?;
        }
        on_progress(self.progress());
        Ok(self.finished.into_iter().flatten().collect())
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.rows.iter().all(Option::is_none)
    }

    fn progress(&self) -> Progress {
        let finished = self
            .finished
            .iter()
            .filter(|rollout| rollout.is_some())
            .count();
        Progress {
            finished,
            total: self.requests.len(),
            tokens: self.tokens,
        }
    }

    /// Fills free rows with waiting requests, a group's common prompt computed once.
    fn admit(&mut self) -> Result<(), RolloutError> {
        while !self.waiting.is_empty() {
            let free: Vec<usize> = (0..self.rows.len())
                .filter(|&i| self.rows[i].is_none())
                .collect();
            if free.is_empty() {
                break;
            }
            let entering = self.next_entrants(free.len());
            self.enter(&entering, &free[..entering.len()])?;
        }
        Ok(())
    }

    /// As many waiting requests as there are free rows, or fewer where their distinct prompts exceed the budget.
    fn next_entrants(&mut self, free: usize) -> Vec<usize> {
        let budget = (self.engine.options.prefill_tokens / self.limits.prompt_length).max(1);
        let mut prompts: Vec<&[u32]> = Vec::new();
        let mut entering = Vec::new();
        while let Some(&next) = self.waiting.front() {
            let prompt = self.requests[next].prompt_ids.as_slice();
            if !prompts.contains(&prompt) {
                if prompts.len() == budget {
                    break;
                }
                prompts.push(prompt);
            }
            if entering.len() == free {
                break;
            }
            self.waiting.pop_front();
            entering.push(next);
        }
        entering
    }

    /// Computes the entrants' prompts, copies them into the cache and samples each one's first token.
    fn enter(&mut self, entering: &[usize], rows: &[usize]) -> Result<(), RolloutError> {
        let mut distinct: Vec<&[u32]> = Vec::new();
        let mut place = HashMap::new();
        let sources: Vec<usize> = entering
            .iter()
            .map(|&request| {
                let prompt = self.requests[request].prompt_ids.as_slice();
                *place.entry(prompt).or_insert_with(|| {
                    distinct.push(prompt);
                    distinct.len() - 1
                })
            })
            .collect();
        let (prefix, logits) = self.prefill(&distinct)?;
        self.cache.adopt(&prefix, &sources, rows);
        for ((&request, &row), &source) in entering.iter().zip(rows).zip(&sources) {
            let mut active = Active {
                request,
                response_ids: Vec::new(),
                log_probs: Vec::new(),
            };
            let sampled = self.draw(&active, &logits[source])?;
            self.rows[row] = self.advance(&mut active, sampled)?.then_some(active);
        }
        Ok(())
    }

    /// Prompts through the model, padded to the call's longest: their cache and the logits after each.
    fn prefill(&self, prompts: &[&[u32]]) -> Result<(KvCache, Vec<Vec<f32>>), RolloutError> {
        let mut padded = prompts.to_vec();
        let least = self.engine.least_rows();
        padded.resize(prompts.len().max(least), prompts[0]);
        let mut cache = new_cache(self.engine, padded.len(), self.limits.prompt_length + 1);
        let batch = TokenBatch::right_padded(&padded, Some(self.limits.prompt_length));
        let hidden = self.engine.model.hidden_states(&batch, Some(&mut cache));
        let [rows, length, width] = hidden.dims();
        let last: Vec<i32> = padded
            .iter()
            .enumerate()
            .map(|(row, prompt)| (row * length + prompt.len() - 1) as i32)
            .collect();
        let last = Tensor::<1, Int>::from_data(last.as_slice(), &hidden.device());
        let logits = self
            .engine
            .model
            .logits(hidden.reshape([rows * length, width]).select(0, last));
        Ok((cache, split_rows(logits)?))
    }

    /// Halves the batch while nothing waits and at most half of its rows are active.
    fn shrink(&mut self) {
        let active: Vec<usize> = (0..self.rows.len())
            .filter(|&i| self.rows[i].is_some())
            .collect();
        let target = active.len().max(self.engine.least_rows());
        if !self.waiting.is_empty() || active.is_empty() || 2 * target > self.rows.len() {
            return;
        }
        let mut cache = new_cache(self.engine, target, self.limits.capacity);
        let targets: Vec<usize> = (0..active.len()).collect();
        cache.adopt(&self.cache, &active, &targets);
        self.cache = cache;
        let mut rows: Vec<Option<Active>> = active.iter().map(|&i| self.rows[i].take()).collect();
        rows.resize_with(target, || None);
        self.rows = rows;
    }

    /// One token for every active row.
    fn step(&mut self) -> Result<(), RolloutError> {
        if self.rows.iter().all(Option::is_none) {
            return Ok(());
        }
        let (ids, positions): (Vec<u32>, Vec<i32>) = self
            .rows
            .iter()
            .map(|row| self.last_token(row.as_ref()))
            .unzip();
        let batch = TokenBatch::step(&ids, &positions);
        let hidden = self
            .engine
            .model
            .hidden_states(&batch, Some(&mut self.cache));
        let [rows, _, width] = hidden.dims();
        let logits = split_rows(self.engine.model.logits(hidden.reshape([rows, width])))?;
        let draws: Vec<Option<Result<Sampled, RolloutError>>> = self
            .rows
            .par_iter()
            .zip(&logits)
            .map(|(row, logits)| row.as_ref().map(|active| self.draw(active, logits)))
            .collect();
        for (row, sampled) in draws.into_iter().enumerate() {
            let (Some(sampled), Some(mut active)) = (sampled, self.rows[row].take()) else {
                continue;
            };
            self.rows[row] = self.advance(&mut active, sampled?)?.then_some(active);
        }
        Ok(())
    }

    /// The token that a row feeds to the model, and its position; padding for an idle row.
    fn last_token(&self, row: Option<&Active>) -> (u32, i32) {
        let Some(active) = row else {
            return (0, PADDING_POSITION);
        };
        let prompt = self.requests[active.request].prompt_ids.len();
        let last = active.response_ids.last().copied().unwrap_or(0);
        (last, (prompt + active.response_ids.len() - 1) as i32)
    }

    fn draw(&self, active: &Active, logits: &[f32]) -> Result<Sampled, RolloutError> {
        let key = &self.requests[active.request].key;
        let token = active.response_ids.len();
        sample(logits, self.params, key, token).ok_or(RolloutError::NonFiniteLogits {
            row: key.row,
            token,
        })
    }

    /// Takes a sampled token in; `false` once the response has ended and been filed.
    fn advance(&mut self, active: &mut Active, sampled: Sampled) -> Result<bool, RolloutError> {
        active.response_ids.push(sampled.id);
        active.log_probs.push(sampled.log_prob);
        self.tokens += 1;
        let Some(finish) = self.finish(active)? else {
            return Ok(true);
        };
        let request = &self.requests[active.request];
        self.finished[active.request] = Some(Rollout {
            prompt_ids: request.prompt_ids.clone(),
            response_ids: std::mem::take(&mut active.response_ids),
            sampler_log_probs: std::mem::take(&mut active.log_probs),
            finish,
            key: request.key,
        });
        Ok(false)
    }

    fn finish(&self, active: &Active) -> Result<Option<FinishReason>, RolloutError> {
        let ids = &active.response_ids;
        let last = ids.last().copied().unwrap_or(0);
        if !self.params.ignore_stops {
            if self.params.stop_token_ids.contains(&last) {
                return Ok(Some(FinishReason::EndToken));
            }
            if self.ends_in_stop_string(ids)? {
                return Ok(Some(FinishReason::StopString));
            }
        }
        let length = self.requests[active.request].prompt_ids.len() + ids.len();
        let is_full = length >= self.engine.config.max_position_embeddings;
        let is_long = ids.len() >= self.params.max_new_tokens;
        Ok((is_long || is_full).then_some(FinishReason::Length))
    }

    /// Whether the newest token completed a stop string; only the tail that could hold one is decoded.
    fn ends_in_stop_string(&self, ids: &[u32]) -> Result<bool, RolloutError> {
        let stops = &self.params.stop_strings;
        let Some(longest) = stops.iter().map(String::len).max() else {
            return Ok(false);
        };
        let Some(tokenizer) = self.engine.tokenizer else {
            return Ok(false);
        };
        // A token may be a part of a character, so the tail begins some tokens before the longest stop could.
        let tail = &ids[ids.len().saturating_sub(longest + 4)..];
        let text = tokenizer.decode(tail, false)?;
        Ok(stops.iter().any(|stop| text.contains(stop.as_str())))
    }
}

fn new_cache(engine: &Engine<'_>, rows: usize, capacity: usize) -> KvCache {
    let model = engine.model;
    KvCache::new(
        engine.config,
        rows,
        capacity,
        model.dtype(),
        &model.device(),
    )
}

/// Logits on the host, a vector a row.
fn split_rows(logits: Tensor<2>) -> Result<Vec<Vec<f32>>, RolloutError> {
    let [_, vocab] = logits.dims();
    let failed = |error: &dyn std::fmt::Debug| RolloutError::Device {
        message: format!("{error:?}"),
    };
    let values = logits
        .try_into_vec_as::<f32>()
        .map_err(|error| failed(&error))?;
    Ok(values.chunks_exact(vocab).map(<[f32]>::to_vec).collect())
}
