//! The language model: Hugging Face decoders, their tokenizers and chat templates, import and export.

mod config;
mod error;
mod folder;
mod head;
mod model;
mod tokenizer;
mod weights;

pub use config::{Family, ModelConfig, RopeConfig, RopeScaling};
pub use error::PolicyError;
pub use folder::Policy;
pub use head::{HeadOptions, TokenScores};
pub use model::{CausalLm, KvCache, PADDING_POSITION, TokenBatch};
pub use tokenizer::{ChatTemplate, Tokenizer};
pub use weights::{SaveDtype, load_weights, save_weights};
