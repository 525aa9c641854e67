//! The state of one call: which sequence is in which row, what waits and what has ended.

use std::collections::{HashMap, VecDeque};

use crate::{
    Engine, FinishReason, Progress, Request, Rollout, RolloutError, SamplingParams,
    decoding::{Decoding, Draw, Drawn, Feed},
};

/// Sizes that a call's requests fix, so that no row's result depends on who shares its batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Sequences decoded together.
    pub(crate) rows: usize,
    /// The longest prompt, to which all are padded.
    pub(crate) prompt_length: usize,
    /// Slots of a row's cache: the longest sequence, and one more for padding.
    pub(crate) capacity: usize,
}

impl Limits {
    pub(crate) fn new(engine: &Engine<'_>, requests: &[Request], params: &SamplingParams) -> Self {
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
#[derive(Debug, Default)]
struct Active {
    request: usize,
    response_ids: Vec<u32>,
    log_probs: Vec<f32>,
    entropies: Vec<f32>,
    entropies_at_temperature: Vec<f32>,
}

/// The state of one call: rows, cache, and what waits.
pub(crate) struct Batch<'a> {
    engine: &'a Engine<'a>,
    requests: &'a [Request],
    params: &'a SamplingParams,
    limits: Limits,
    waiting: VecDeque<usize>,
    rows: Vec<Option<Active>>,
    decoding: Box<dyn Decoding + 'a>,
    finished: Vec<Option<Rollout>>,
    tokens: usize,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        engine: &'a Engine<'a>,
        decoding: Box<dyn Decoding + 'a>,
        requests: &'a [Request],
        params: &'a SamplingParams,
        limits: Limits,
    ) -> Self {
        let rows = limits.rows.min(requests.len());
        Self {
            engine,
            requests,
            params,
            limits,
            waiting: (0..requests.len()).collect(),
            rows: (0..rows).map(|_| None).collect(),
            decoding,
            finished: requests.iter().map(|_| None).collect(),
            tokens: 0,
        }
    }

    pub(crate) fn run(
        mut self,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Rollout>, RolloutError> {
        while !self.is_done() {
            if (self.engine.is_stopped)() {
                return Err(RolloutError::Stopped);
            }
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

    /// Fills free rows with waiting requests, a group's common prompt computed once, where there are enough of both.
    fn admit(&mut self) -> Result<(), RolloutError> {
        while !self.waiting.is_empty() {
            let free: Vec<usize> = (0..self.rows.len())
                .filter(|&i| self.rows[i].is_none())
                .collect();
            let least = self.decoding.least_entrants().min(self.waiting.len());
            let all_are_free = free.len() == self.rows.len();
            if free.is_empty() || free.len() < least && !all_are_free {
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
        let draws: Vec<Draw> = entering
            .iter()
            .map(|&request| Draw {
                key: self.requests[request].key,
                index: 0,
            })
            .collect();
        let drawn = self.decoding.enter(&distinct, &sources, rows, &draws)?;
        for ((&request, &row), drawn) in entering.iter().zip(rows).zip(drawn) {
            let mut active = Active {
                request,
                ..Active::default()
            };
            self.rows[row] = self.advance(&mut active, drawn)?.then_some(active);
        }
        Ok(())
    }

    /// Drops idle rows once nothing waits for them.
    fn shrink(&mut self) {
        let active: Vec<usize> = self.active();
        if !self.waiting.is_empty() || active.is_empty() {
            return;
        }
        let Some(target) = self.decoding.shrink(&active) else {
            return;
        };
        let mut rows: Vec<Option<Active>> = active.iter().map(|&i| self.rows[i].take()).collect();
        rows.resize_with(target, || None);
        self.rows = rows;
    }

    fn active(&self) -> Vec<usize> {
        let rows = self.rows.iter().enumerate();
        rows.filter_map(|(row, active)| active.as_ref().map(|_| row))
            .collect()
    }

    /// The next tokens of every active row.
    fn step(&mut self) -> Result<(), RolloutError> {
        let rows = self.active();
        let feeds: Vec<Feed> = rows.iter().filter_map(|&row| self.feed(row)).collect();
        if feeds.is_empty() {
            return Ok(());
        }
        let most = feeds.iter().map(|feed| self.remaining(feed.draw.index));
        let most = most.max().unwrap_or(1);
        let drawn = self.decoding.advance(&feeds, most)?;
        for (row, drawn) in rows.into_iter().zip(drawn) {
            let Some(mut active) = self.rows[row].take() else {
                continue;
            };
            let mut goes_on = true;
            for drawn in drawn {
                goes_on = self.advance(&mut active, drawn)?;
                if !goes_on {
                    break;
                }
            }
            self.rows[row] = goes_on.then_some(active);
        }
        Ok(())
    }

    /// Tokens that a response of `tokens` may still have.
    fn remaining(&self, tokens: usize) -> usize {
        self.params.max_new_tokens.saturating_sub(tokens).max(1)
    }

    /// What a row feeds to the model, and what it draws next.
    fn feed(&self, row: usize) -> Option<Feed> {
        let active = self.rows[row].as_ref()?;
        let request = &self.requests[active.request];
        let tokens = active.response_ids.len();
        Some(Feed {
            row,
            id: active.response_ids.last().copied().unwrap_or(0),
            position: (request.prompt_ids.len() + tokens - 1) as i32,
            draw: Draw {
                key: request.key,
                index: tokens,
            },
        })
    }

    /// Takes a sampled token in; `false` once the response has ended and been filed.
    fn advance(&mut self, active: &mut Active, drawn: Drawn) -> Result<bool, RolloutError> {
        let sampled = drawn.ok_or(RolloutError::NonFiniteLogits {
            row: self.requests[active.request].key.row,
            token: active.response_ids.len(),
        })?;
        active.response_ids.push(sampled.id);
        active.log_probs.push(sampled.log_prob);
        active.entropies.push(sampled.entropy);
        let warm = sampled.entropy_at_temperature;
        active.entropies_at_temperature.push(warm);
        self.tokens += 1;
        let Some(finish) = self.finish(active)? else {
            return Ok(true);
        };
        let request = &self.requests[active.request];
        self.finished[active.request] = Some(Rollout {
            prompt_ids: request.prompt_ids.clone(),
            response_ids: std::mem::take(&mut active.response_ids),
            sampler_log_probs: std::mem::take(&mut active.log_probs),
            sampler_entropies: std::mem::take(&mut active.entropies),
            sampler_entropies_at_temperature: std::mem::take(&mut active.entropies_at_temperature),
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

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, path::Path, rc::Rc};

    use burn::tensor::Device;
    use policy::{ModelConfig, Policy};
    use serde_json::json;

    use super::*;
    use crate::{EngineOptions, SampleKey, Sampled};

    /// Sequences end after as many tokens as their keys say; how many entered each time is taken down.
    struct Counted {
        least: usize,
        entered: Rc<RefCell<Vec<usize>>>,
    }

    fn drawn(draw: &Draw) -> Sampled {
        let last = (draw.key.row * 5 + draw.key.sample * 3) % 11;
        Sampled {
            id: u32::from((draw.index as u64) < last),
            log_prob: -1.0,
            entropy: 1.0,
            entropy_at_temperature: 1.0,
        }
    }

    impl Decoding for Counted {
        fn enter(
            &mut self,
            _: &[&[u32]],
            _: &[usize],
            rows: &[usize],
            draws: &[Draw],
        ) -> Result<Vec<Drawn>, RolloutError> {
            self.entered.borrow_mut().push(rows.len());
            Ok(draws.iter().map(|draw| Some(drawn(draw))).collect())
        }

        fn least_entrants(&self) -> usize {
            self.least
        }

        fn shrink(&mut self, _: &[usize]) -> Option<usize> {
            None
        }

        fn advance(&mut self, rows: &[Feed], _: usize) -> Result<Vec<Vec<Drawn>>, RolloutError> {
            Ok(rows
                .iter()
                .map(|feed| vec![Some(drawn(&feed.draw))])
                .collect())
        }
    }

    #[test]
    fn requests_enter_some_at_a_time_and_all_are_answered() {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "hidden_size": 8,
            "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": true,
        });
        let config = ModelConfig::from_json(&config, Path::new("test")).unwrap();
        let policy = Policy::new(config, None, 0, &Device::flex());
        let engine = Engine::new(&policy, &policy.model, EngineOptions::default());
        let request = |index: u64| Request {
            prompt_ids: vec![(index / 8) as u32 % 8],
            key: SampleKey {
                seed: 1,
                step: 1,
                row: index / 8,
                sample: index % 8,
            },
        };
        let requests: Vec<Request> = (0..59).map(request).collect();
        let params = SamplingParams {
            stop_token_ids: vec![0],
            max_new_tokens: 20,
            ..SamplingParams::default()
        };
        let run = |least: usize| {
            let entered = Rc::new(RefCell::new(Vec::new()));
            let decoding = Counted {
                least,
                entered: Rc::clone(&entered),
            };
            let limits = Limits {
                rows: 16,
                capacity: 32,
                prompt_length: 1,
            };
            let batch = Batch::new(&engine, Box::new(decoding), &requests, &params, limits);
            let rollouts = batch.run(&mut |_| ()).unwrap();
            (rollouts, entered.take())
        };
        let (one_by_one, often) = run(1);
        let (together, seldom) = run(4);
        assert_eq!(one_by_one, together);
        assert_eq!(together.len(), 59);
        assert_eq!(seldom.iter().sum::<usize>(), 59);
        let (last, before) = seldom.split_last().unwrap();
        assert!(
            before.iter().all(|&count| count >= 4) && *last >= 1,
            "{seldom:?}"
        );
        assert!(2 * seldom.len() < often.len() + 4, "{seldom:?}, {often:?}");
    }
}
