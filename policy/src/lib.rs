//! The language model: Hugging Face decoders, their tokenizers and chat templates, import and export.
//!
//! ```no_run
//! use burn::tensor::{DType, Device};
//! use policy::{EntropyPass, HeadOptions, PackedTokens, Policy};
//!
//! let policy = Policy::load("models/mine".as_ref(), DType::F32, &Device::flex())?;
//! let tokenizer = policy.require_tokenizer()?;
//! let (prompt, response) = (tokenizer.encode("2+2=", true)?, tokenizer.encode("4", false)?);
//! // log π and the entropy of every token of the response.
//! let tokens = PackedTokens::new([(&prompt[..], &response[..])]);
//! let options = HeadOptions { temperature: 1.0, entropy: EntropyPass::Values };
//! let states = policy.model.response_states(&tokens);
//! let scores = policy.model.score_tokens(states, tokens.targets(), options);
//! println!("{} {:?}", scores.log_probs, scores.entropies);
//! # Ok::<(), policy::PolicyError>(())
//! ```

mod adapter;
mod chat;
mod config;
mod device;
mod error;
mod files;
mod fingerprint;
mod folder;
mod gguf;
mod head;
mod hub;
mod initialization;
mod model;
mod output;
mod shard;
mod tensor_file;
#[cfg(test)]
mod tiny;
mod tokenizer;
mod value_head;
mod weights;

pub use adapter::{AdapterBase, import_adapter};
pub use chat::{ChatTemplate, Message};
pub use config::{Family, ModelConfig, RopeConfig, RopeScaling};
pub use device::{
    BACKENDS, DeviceReport, device_memory_bytes, find_device, list_devices, open_device,
};
pub use error::PolicyError;
pub use folder::Policy;
pub use gguf::{ImportSummary, import_gguf};
pub use head::{EntropyPass, HeadOptions, TokenScores, head_part_bytes};
pub use hub::resolve_model;
pub use model::{
    BlockInputs, CausalLm, Compute, DRAWN, Decoder, DeviceDecoder, Execution, KvCache, LoraConfig,
    LoraTarget, Operations, PADDING_POSITION, PackedModel, PackedTokens, Packing, Prefilled,
    Prefix, Recompute, Rotation, TokenBatch, Truncation, Visibility,
};
#[cfg(feature = "cube")]
pub use model::{CUBE_UNITS, sum_of_units};
pub use output::OutputFolder;
pub use tokenizer::Tokenizer;
pub use value_head::ValueHead;
pub use weights::{SaveDtype, load_weights, save_weights};
