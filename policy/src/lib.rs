//! The language model: Hugging Face decoders, their tokenizers and chat templates, import and export.

mod chat;
mod config;
mod device;
mod error;
mod files;
mod folder;
mod gguf;
mod head;
mod hub;
mod initialization;
mod model;
mod output;
mod shard;
mod tokenizer;
mod value_head;
mod weights;

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
    BlockInputs, CausalLm, Compute, DRAWN, Decoder, DeviceDecoder, Execution, KvCache, Operations,
    PADDING_POSITION, PackedModel, PackedTokens, Packing, Prefilled, Prefix, Recompute, Rotation,
    TokenBatch, Truncation, Visibility,
};
pub use output::OutputFolder;
pub use tokenizer::Tokenizer;
pub use value_head::ValueHead;
pub use weights::{SaveDtype, load_weights, save_weights};
