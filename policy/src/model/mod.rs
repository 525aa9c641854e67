//! The decoder: plain burn modules whose fields bear Hugging Face's names, so that weights load without a remapping.
//!
//! This form is the truth that faster forms are tested against.

mod attention;
mod cache;
#[cfg(feature = "cube")]
mod cube;
mod decoder;
mod fused;
pub(crate) mod lora;
mod mlp;
mod operations;
mod recompute;
mod rope;
mod rows;
mod sampling;

pub use cache::KvCache;
#[cfg(feature = "cube")]
pub use cube::{CUBE_UNITS, sum_of_units};
pub use decoder::{CausalLm, TokenBatch};
pub use fused::{
    Compute, Decoder, Execution, PackedModel, PackedTokens, Packing, Prefilled, Prefix, Recompute,
};
pub use lora::{LoraConfig, LoraTarget};
pub use operations::Operations;
pub use recompute::BlockInputs;
pub use rope::{PADDING_POSITION, Rotation, Visibility};
pub use sampling::{DRAWN, DeviceDecoder, Truncation};
