//! A decoder of some hundred parameters, for tests.

use std::path::Path;

use burn::tensor::Device;
use serde_json::json;

use crate::{CausalLm, ModelConfig, Policy};

/// It, with weights drawn from a seed.
pub(crate) fn drawn(seed: u64) -> CausalLm {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 11, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "torch_dtype": "float32",
    });
    let config = ModelConfig::from_json(&config, Path::new("config.json")).unwrap();
    Policy::new(config, None, seed, &Device::flex().autodiff()).model
}
