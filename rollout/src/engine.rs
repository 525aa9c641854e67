//! Batched decoding on the local model.

use std::sync::mpsc;

use policy::{CausalLm, Decoder, ModelConfig, PackedModel, Policy, Tokenizer};

use crate::{
    Generator, Progress, Request, Rollout, RolloutError, SamplingParams,
    batch::{Batch, Limits},
    decoding::{Decoding, SliceDecoding, TensorDecoding},
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
pub struct Engine<'a> {
    model: &'a CausalLm,
    pub(crate) config: &'a ModelConfig,
    pub(crate) tokenizer: Option<&'a Tokenizer>,
    pub(crate) options: EngineOptions,
    pub(crate) is_stopped: IsStopped<'a>,
}

/// Whether what is being generated is not wanted any more; asked before each token, or before some that a
/// device decodes by itself, from any thread.
pub type IsStopped<'a> = &'a (dyn Fn() -> bool + Sync);

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?})", self.options)
    }
}

impl<'a> Engine<'a> {
    /// An engine on a policy's weights, which must not track gradients (`model.valid()`).
    pub fn new(policy: &'a Policy, model: &'a CausalLm, options: EngineOptions) -> Self {
        Self {
            model,
            config: &policy.config,
            tokenizer: policy.tokenizer.as_ref(),
            options,
            is_stopped: &|| false,
        }
    }

    /// The same engine, which gives up with [`RolloutError::Stopped`] once it is told to.
    #[must_use]
    pub fn stopping_when(self, is_stopped: IsStopped<'a>) -> Self {
        Self { is_stopped, ..self }
    }

    fn check(&self, requests: &[Request], params: &SamplingParams) -> Result<(), RolloutError> {
        params.validate()?;
        if self.options.batch_rows == 0 {
            return Err(RolloutError::InvalidParameter {
                name: "batch_rows",
                expected: "at least 1",
                found: "0".to_owned(),
            });
        }
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

    fn decoding<'b>(
        &'b self,
        packed: Option<&'b PackedModel>,
        params: &'b SamplingParams,
        limits: Limits,
    ) -> Box<dyn Decoding + 'b> {
        match packed {
            Some(packed) => Box::new(SliceDecoding {
                decoder: Decoder::new(packed, limits.rows, self.options.threads == 1),
                params,
            }),
            None => Box::new(TensorDecoding::new(self.model, self.config, params, limits)),
        }
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
        let packed = self.model.pack()?;
        let run = |part, limits: Limits, on_progress: &mut dyn FnMut(Progress)| {
            let decoding = self.decoding(packed.as_ref(), params, limits);
            Batch::new(self, decoding, part, params, limits).run(on_progress)
        };
        let threads = self.options.threads.clamp(1, requests.len().max(1));
        if threads == 1 {
            return run(requests, limits, on_progress);
        }
        let share = requests.len().div_ceil(threads);
        let limits = Limits {
            rows: limits.rows.div_ceil(threads),
            ..limits
        };
        let (sender, reports) = mpsc::channel();
        std::thread::scope(|scope| {
            let run = &run;
            let work = move |(index, part), sender: mpsc::Sender<_>| {
                let mut report = |progress| {
                    // The receiver outlives every sender, so the report cannot fail.
                    let _ = sender.send((index, progress));
                };
                run(part, limits, &mut report)
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
