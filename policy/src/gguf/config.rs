//! The architecture in a GGUF file's metadata, as `config.json` has it.

use std::f64::consts::TAU;

use serde_json::{Map, Value, json};

use super::{metadata::Metadata, tensors::Source, vocabulary::Vocabulary};
use crate::PolicyError;

/// The tensor that carries Llama 3.1's scaling of the rotary frequencies, as a divisor for each.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The divisors are float32, and were computed in float32.
const FACTOR_TOLERANCE: f64 = 1e-3;

const LLAMA3_LOW_FREQ_FACTOR: f64 = 1.0;
const LLAMA3_HIGH_FREQ_FACTOR: f64 = 4.0;
const LLAMA3_CONTEXT: f64 = 8192.0;

/// The fields of `config.json`.
pub(super) fn read(
    metadata: &Metadata<'_>,
    source: &Source<'_>,
    vocabulary: &Vocabulary,
) -> Result<Value, PolicyError> {
    let key = "general.architecture";
    let architecture = metadata.require(key, metadata.text(key))?;
    let reader = Reader {
        metadata,
        source,
        architecture,
    };
    let window = reader.size("attention.sliding_window")?;
    let (model_type, class) = match (architecture, window) {
        ("llama", None) => ("llama", "LlamaForCausalLM"),
        ("llama", Some(_)) => ("mistral", "MistralForCausalLM"),
        ("qwen2", _) => ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", _) => ("qwen3", "Qwen3ForCausalLM"),
        (other, _) => {
            let message =
                format!("the architecture '{other}' is not read; llama, qwen2 and qwen3 are");
            return Err(metadata.error(message));
        }
    };
    let mut fields = Map::new();
    fields.insert("architectures".into(), json!([class]));
    fields.insert("model_type".into(), model_type.into());
    fields.extend(reader.sizes()?);
    fields.extend(reader.rope()?);
    fields.insert("hidden_act".into(), "silu".into());
    fields.insert(
        "attention_bias".into(),
        source.has("blk.0.attn_q.bias").into(),
    );
    fields.insert("mlp_bias".into(), source.has("blk.0.ffn_up.bias").into());
    fields.insert(
        "tie_word_embeddings".into(),
        (!source.has("output.weight")).into(),
    );
    if model_type == "mistral" {
        fields.insert("sliding_window".into(), window.into());
    }
    fields.extend(vocabulary.token_ids());
    fields.insert("use_cache".into(), true.into());
    fields.insert("dtype".into(), "float32".into());
    Ok(Value::Object(fields))
}

struct Reader<'a> {
    metadata: &'a Metadata<'a>,
    source: &'a Source<'a>,
    architecture: &'a str,
}

type Fields = Map<String, Value>;

impl Reader<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str) -> Result<Option<usize>, PolicyError> {
        self.metadata.size(&self.key(name))
    }

    fn require_size(&self, name: &str) -> Result<usize, PolicyError> {
        self.metadata.require(&self.key(name), self.size(name))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, PolicyError> {
        self.metadata.number(&self.key(name))
    }

    fn sizes(&self) -> Result<Fields, PolicyError> {
        if self
            .size("expert_count")?
            .is_some_and(|experts| experts > 0)
        {
            return Err(self.metadata.error("mixtures of experts are not read"));
        }
        let heads = self.require_size("attention.head_count")?;
        let epsilon = "attention.layer_norm_rms_epsilon";
        let epsilon = self
            .metadata
            .require(&self.key(epsilon), self.number(epsilon))?;
        let fields = json!({
            "vocab_size": self.source.rows("token_embd.weight")?,
            "hidden_size": self.require_size("embedding_length")?,
            "intermediate_size": self.require_size("feed_forward_length")?,
            "num_hidden_layers": self.require_size("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.size("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": self.head_dim(heads)?,
            "max_position_embeddings": self.require_size("context_length")?,
            "rms_norm_eps": epsilon,
        });
        Ok(fields.as_object().cloned().unwrap_or_default())
    }

    fn head_dim(&self, heads: usize) -> Result<usize, PolicyError> {
        let rotated = self.size("rope.dimension_count")?;
        let width = match self.size("attention.key_length")?.or(rotated) {
            Some(width) => width,
            None => self.require_size("embedding_length")? / heads.max(1),
        };
        if rotated.is_some_and(|rotated| rotated != width) {
            return Err(self
                .metadata
                .error("heads that are rotated in part are not read"));
        }
        if self
            .size("attention.value_length")?
            .is_some_and(|value| value != width)
        {
            return Err(self
                .metadata
                .error("values of another width than keys are not read"));
        }
        Ok(width)
    }

    fn rope(&self) -> Result<Fields, PolicyError> {
        let theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        let scaling = match self.metadata.text(&self.key("rope.scaling.type"))? {
            None | Some("none") => self.llama3_scaling(theta)?,
            Some("linear") => {
                let factor = "rope.scaling.factor";
                let factor = self
                    .metadata
                    .require(&self.key(factor), self.number(factor))?;
                json!({"rope_type": "linear", "factor": factor})
            }
            Some(other) => {
                let message = format!("the rotary scaling '{other}' is not read; linear is");
                return Err(self.metadata.error(message));
            }
        };
        Ok(Map::from_iter([
            ("rope_theta".to_owned(), theta.into()),
            ("rope_scaling".to_owned(), scaling),
        ]))
    }

    /// Finds the factor of Llama 3.1's scaling in its divisors; the other settings are the same in all such models.
    fn llama3_scaling(&self, theta: f64) -> Result<Value, PolicyError> {
        if !self.source.has(ROPE_FACTORS) {
            return Ok(Value::Null);
        }
        let divisors = self.source.values(ROPE_FACTORS)?;
        let factor = divisors.iter().copied().fold(1.0, f32::max).into();
        let count = divisors.len() as f64;
        let is_llama3 = divisors.iter().enumerate().all(|(index, divisor)| {
            let wavelength = TAU * theta.powf(index as f64 / count);
            (llama3_divisor(wavelength, factor) / f64::from(*divisor) - 1.0).abs()
                < FACTOR_TOLERANCE
        });
        if !is_llama3 {
            return Err(self
                .metadata
                .error(format!("{ROPE_FACTORS} is not Llama 3.1's scaling")));
        }
        Ok(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LLAMA3_LOW_FREQ_FACTOR,
            "high_freq_factor": LLAMA3_HIGH_FREQ_FACTOR,
            "original_max_position_embeddings": LLAMA3_CONTEXT as u64,
        }))
    }
}

/// What a frequency of this wavelength is divided by: 1 where short, `factor` where long, a blend between.
fn llama3_divisor(wavelength: f64, factor: f64) -> f64 {
    let [low, high] = [LLAMA3_LOW_FREQ_FACTOR, LLAMA3_HIGH_FREQ_FACTOR];
    let smooth = ((LLAMA3_CONTEXT / wavelength - low) / (high - low)).clamp(0.0, 1.0);
    1.0 / ((1.0 - smooth) / factor + smooth)
}
