//! Generation: sampling parameters, batched decoding with a cache, stop rules and finish reasons.
//!
//! A [`Generator`] turns [`Request`]s into [`Rollout`]s. Every random draw is keyed by the request's
//! [`SampleKey`] and the token's index, so one seed gives one result whatever the batch size or the threads.

mod batch;
mod decoding;
mod engine;
mod error;
mod request;
mod sampler;

pub use engine::{Engine, EngineOptions, IsStopped};
pub use error::RolloutError;
pub use request::{FinishReason, Generator, Progress, Request, Rollout, SampleKey};
pub use sampler::{Sampled, SamplingParams, sample};
