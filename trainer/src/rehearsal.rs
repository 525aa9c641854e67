//! A step of a given size, to measure what it costs.

use std::time::Instant;

use reward::{Problem, Score};
use rollout::{Engine, Generator, Request, SampleKey, SamplingParams};

use crate::{
    Group, Observer, Scored, StepMetrics, Trainer, TrainerError, answer::engine_options,
    step::Sampling,
};

/// A step's size. The group's is the configuration's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rehearsal {
    /// Prompts, made up of arbitrary tokens.
    pub prompts: usize,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens of each response, whatever is sampled.
    pub response_tokens: usize,
}

impl Trainer {
    /// One whole step on made-up prompts, with rewards that tell nothing: generation, and one update or as many as the
    /// configuration has.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn rehearse(
        &mut self,
        size: &Rehearsal,
        observer: &mut dyn Observer,
    ) -> Result<StepMetrics, TrainerError> {
        let started = Instant::now();
        self.state.step += 1;
        let requests = self.made_up(size);
        let params = SamplingParams {
            max_new_tokens: size.response_tokens,
            ignore_stops: true,
            ..self.sampling.clone()
        };
        let model = self.sampling_model();
        let options = engine_options(&self.policy, &model, self.config.rollout.batch_rows);
        let engine = Engine::new(&self.policy, &model, options);
        let rollouts = engine.generate(&requests, &params, &mut |_| ())?;
        drop(model);
        let mut sampling = Sampling::default();
        let groups = rollouts
            .chunks(self.config.rollout.group_size)
            .map(|rollouts| Group {
                problem: Problem {
                    id: "made up".into(),
                    prompt: String::new(),
                    answer: String::new(),
                    source: "made up".into(),
                    system: None,
                    numbers: None,
                    solution: None,
                },
                samples: rollouts
                    .iter()
                    .map(|rollout| Scored {
                        rollout: rollout.clone(),
                        text: String::new(),
                        score: Score::binary(rollout.key.sample.is_multiple_of(2), None, "made_up"),
                    })
                    .collect(),
            });
        sampling.take(groups.collect(), None);
        Ok(self.learn(sampling, started, observer)?.metrics)
    }

    fn made_up(&self, size: &Rehearsal) -> Vec<Request> {
        let vocab = self.policy.config.vocab_size as u64;
        let group = self.config.rollout.group_size as u64;
        let step = self.state.step;
        let token = |prompt: u64, place: u64| {
            let key = SampleKey {
                seed: self.config.seed,
                step,
                row: prompt,
                sample: place,
            };
            (rand::RngExt::random_range(&mut key.rng(0), 0..vocab)) as u32
        };
        (0..size.prompts as u64)
            .flat_map(|row| {
                let tokens = 0..size.prompt_tokens as u64;
                let prompt_ids: Vec<u32> = tokens.map(|place| token(row, place)).collect();
                (0..group).map(move |sample| Request {
                    prompt_ids: prompt_ids.clone(),
                    key: SampleKey {
                        seed: self.config.seed,
                        step,
                        row,
                        sample,
                    },
                })
            })
            .collect()
    }
}
