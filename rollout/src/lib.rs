//! Generation: sampling parameters, batched decoding with a cache, stop rules and finish reasons.
//!
//! A [`Generator`] turns [`Request`]s into [`Rollout`]s. Every random draw is keyed by the request's
//! [`SampleKey`] and the token's index, so one seed gives one result whatever the batch size or the threads.
//!
//! ```no_run
//! use burn::tensor::{DType, Device};
//! use policy::Policy;
//! use rollout::{Engine, EngineOptions, Generator, Request, SampleKey, SamplingParams};
//!
//! let policy = Policy::load("models/mine".as_ref(), DType::F32, &Device::flex())?;
//! let tokenizer = policy.require_tokenizer()?;
//! let request = Request {
//!     prompt_ids: tokenizer.encode("What is 2+2?", true)?,
//!     key: SampleKey { seed: 1, step: 0, row: 0, sample: 0 },
//! };
//! let engine = Engine::new(&policy, &policy.model, EngineOptions::default());
//! let rollouts = engine.generate(&[request], &SamplingParams::default(), &mut |_| ())?;
//! println!("{}", tokenizer.decode(&rollouts[0].response_ids, true)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
