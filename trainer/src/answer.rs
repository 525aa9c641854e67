//! Problems to scored groups: prompts, generation, decoding and scoring, for training and evaluation alike.

use policy::{CausalLm, Policy};
use reward::{Problem, Response, Reward, score_all};
use rollout::{
    Engine, EngineOptions, Generator, IsStopped, Progress, Request, Rollout, RolloutError,
    SampleKey, SamplingParams,
};

use crate::{Group, PromptFormat, Scored, TrainerError, failpoint::failpoint, parallel::workers};

/// What answers problems, and what scores the answers.
pub struct Answerer<'a> {
    /// The model.
    pub policy: &'a Policy,
    /// Its weights as they generate, without gradients.
    pub model: CausalLm,
    /// How problems become prompts.
    pub format: PromptFormat<'a>,
    /// What scores responses.
    pub reward: &'a dyn Reward,
    /// How responses are sampled.
    pub params: &'a SamplingParams,
    /// Sequences decoded together.
    pub batch_rows: usize,
    /// Whether answers are not wanted any more.
    pub is_stopped: IsStopped<'a>,
}

/// Which random draws a set of answers makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerKey {
    /// The run's seed.
    pub seed: u64,
    /// The training step; 0 outside of training.
    pub step: u64,
    /// The first problem's row; the others follow.
    pub first_row: u64,
}

/// Whether a policy's context holds a prompt with its longest response.
pub(crate) fn has_room(policy: &Policy, prompt_tokens: usize, max_new_tokens: usize) -> bool {
    prompt_tokens.saturating_add(max_new_tokens) <= policy.config.max_position_embeddings
}

/// How an engine decodes a policy's `model`: small ones on several threads, each with its share of the rows.
pub(crate) fn engine_options(
    policy: &Policy,
    model: &CausalLm,
    batch_rows: usize,
) -> EngineOptions {
    EngineOptions {
        batch_rows,
        threads: workers(policy.config.parameters(), &model.device()),
        ..Default::default()
    }
}

/// The problem of an answer that could not be generated, which the engine knows by its row alone.
fn name_problem(error: RolloutError, problems: &[Problem], first_row: u64) -> TrainerError {
    let problem = match error {
        RolloutError::NonFiniteLogits { row, .. } => problems.get((row - first_row) as usize),
        _ => None,
    };
    match problem {
        Some(problem) => TrainerError::Answer {
            id: problem.id.clone(),
            source: Box::new(error),
        },
        None => error.into(),
    }
}

impl Answerer<'_> {
    /// Samples `samples` responses to each problem and scores them, in the problems' order.
    ///
    /// # Errors
    /// A prompt that leaves no room for its response, or a model that fails to generate.
    pub fn answer(
        &self,
        problems: Vec<Problem>,
        samples: usize,
        key: AnswerKey,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Group>, TrainerError> {
        let requests = self.requests(&problems, samples, key)?;
        let options = engine_options(self.policy, &self.model, self.batch_rows);
        let engine = Engine::new(self.policy, &self.model, options).stopping_when(self.is_stopped);
        let rollouts = engine.generate(&requests, self.params, on_progress);
        let rollouts = rollouts.map_err(|error| name_problem(error, &problems, key.first_row))?;
        failpoint("answers-generated");
        let scored = self.score(problems, rollouts, samples);
        failpoint("answers-scored");
        scored
    }

    /// The prompt's tokens, with room left in the context for the longest response.
    ///
    /// # Errors
    /// A problem that cannot be encoded, or that leaves no room.
    pub(crate) fn prompt(&self, problem: &Problem) -> Result<Vec<u32>, TrainerError> {
        let prompt_ids = self.format.encode(problem)?;
        self.check(problem, prompt_ids.len())?;
        Ok(prompt_ids)
    }

    fn requests(
        &self,
        problems: &[Problem],
        samples: usize,
        key: AnswerKey,
    ) -> Result<Vec<Request>, TrainerError> {
        let mut requests = Vec::with_capacity(problems.len() * samples);
        for (problem, row) in problems.iter().zip(key.first_row..) {
            let prompt_ids = self.prompt(problem)?;
            requests.extend((0..samples as u64).map(|sample| Request {
                prompt_ids: prompt_ids.clone(),
                key: SampleKey {
                    seed: key.seed,
                    step: key.step,
                    row,
                    sample,
                },
            }));
        }
        Ok(requests)
    }

    fn check(&self, problem: &Problem, prompt_tokens: usize) -> Result<(), TrainerError> {
        let context_tokens = self.policy.config.max_position_embeddings;
        let max_new_tokens = self.params.max_new_tokens;
        if has_room(self.policy, prompt_tokens, max_new_tokens) {
            return Ok(());
        }
        let id = problem.id.clone();
        Err(TrainerError::PromptTooLong {
            id,
            prompt_tokens,
            max_new_tokens,
            context_tokens,
        })
    }

    fn score(
        &self,
        problems: Vec<Problem>,
        rollouts: Vec<Rollout>,
        samples: usize,
    ) -> Result<Vec<Group>, TrainerError> {
        let tokenizer = self.policy.require_tokenizer()?;
        let decode = |rollout: &Rollout| tokenizer.decode(&rollout.response_ids, true);
        let texts = rollouts.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let answered = texts.iter().zip(&rollouts).enumerate();
        let pairs: Vec<_> = answered
            .map(|(index, (text, rollout))| {
                let response = Response {
                    text,
                    tokens: rollout.response_ids.len(),
                    truncated: rollout.finish.is_truncated(),
                };
                (&problems[index / samples], response)
            })
            .collect();
        let scores = score_all(self.reward, &pairs);
        if (self.is_stopped)() {
            // Some were not waited for.
            return Err(RolloutError::Stopped.into());
        }
        let scored = rollouts.into_iter().zip(texts).zip(scores);
        let mut scored = scored.map(|((rollout, text), score)| Scored {
            rollout,
            text,
            score,
        });
        let group = |problem| Group {
            problem,
            samples: scored.by_ref().take(samples).collect(),
        };
        Ok(problems.into_iter().map(group).collect())
    }
}
