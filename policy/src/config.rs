//! The architecture of a decoder, read from a Hugging Face `config.json` in its old or its transformers-5 form.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{PolicyError, files::read_json};

/// The families of decoders that Anneal runs. They share one block and differ in biases, norms and windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3 and what follows its layout, SmolLM2 among them.
    Llama,
    /// Qwen 2 and 2.5: biases on the query, key and value projections.
    Qwen2,
    /// Qwen 3: an RMS norm on every query and key head.
    Qwen3,
    /// Mistral: a sliding window on every layer.
    Mistral,
}

impl Family {
    /// The families' names as `model_type` spells them.
    pub const NAMES: [&'static str; 4] = ["llama", "qwen2", "qwen3", "mistral"];

    fn parse(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            "mistral" => Some(Self::Mistral),
            _ => None,
        }
    }
}

/// How rotary frequencies are stretched beyond the pretraining context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's blend: low frequencies divided, high ones kept, a smooth passage between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The pretraining context, in tokens.
        original_max_position_embeddings: f64,
    },
}

/// Rotary position embedding: its base and its scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// The base θ of the frequencies θ^(-2i/d).
    pub theta: f64,
    /// The scaling of those frequencies.
    pub scaling: RopeScaling,
}

/// A decoder's architecture. Every size has been checked, so that a model may be built from it.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a key of config.json"
)]
pub struct ModelConfig {
    /// The family, which decides what the block contains.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The longest sequence that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// ε of the RMS norms.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Whether the query, key and value projections have biases.
    pub attention_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub attention_output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether the head is the embedding's transpose.
    pub tie_word_embeddings: bool,
    /// Per layer, how many keys a query sees (itself included), or all of them.
    pub sliding_windows: Vec<Option<usize>>,
    /// The file's own content, written back on save so that nothing in it is lost.
    raw: Map<String, Value>,
}

/// Upper bounds that no published model comes near; past them a file is broken or hostile.
const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 12;
const MAX_VOCAB: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 30;
pub(crate) const MAX_CONFIG_BYTES: u64 = 1 << 20;

impl ModelConfig {
    /// Reads `DIR/config.json`.
    ///
    /// # Errors
    /// A missing or unreadable file, invalid JSON, an unknown family, a missing field, a size out of range.
    pub fn load(dir: &Path) -> Result<Self, PolicyError> {
        let path = dir.join("config.json");
        let value = read_json(&path, MAX_CONFIG_BYTES)?;
        Self::from_json(&value, &path)
    }

    /// Reads a configuration from its JSON; `path` is named in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn from_json(value: &Value, path: &Path) -> Result<Self, PolicyError> {
        let raw = value
            .as_object()
            .cloned()
            .ok_or_else(|| PolicyError::InvalidConfig {
                path: path.to_owned(),
                field: "config.json".into(),
                message: "expected a JSON object".into(),
            })?;
        let reader = Reader { fields: &raw, path };
        let family = reader.family()?;
        let layers = reader.size("num_hidden_layers", 1, MAX_LAYERS)?;
        let heads = reader.size("num_attention_heads", 1, MAX_WIDTH)?;
        let hidden_size = reader.size("hidden_size", 1, MAX_WIDTH)?;
        let projection_bias = reader.flag("attention_bias", false)?;
        let config = Self {
            family,
            vocab_size: reader.size("vocab_size", 1, MAX_VOCAB)?,
            hidden_size,
            intermediate_size: reader.size("intermediate_size", 1, MAX_WIDTH)?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: reader.size_or("num_key_value_heads", heads, 1, MAX_WIDTH)?,
            head_dim: reader.size_or("head_dim", hidden_size / heads, 2, MAX_WIDTH)?,
            max_position_embeddings: reader.size_or(
                "max_position_embeddings",
                2048,
                1,
                MAX_CONTEXT,
            )?,
            rms_norm_eps: reader.number_or("rms_norm_eps", 1e-6)?,
            rope: reader.rope()?,
            attention_bias: projection_bias || family == Family::Qwen2,
            attention_output_bias: projection_bias && family != Family::Qwen2,
            mlp_bias: reader.flag("mlp_bias", false)?,
            tie_word_embeddings: reader.flag("tie_word_embeddings", false)?,
            sliding_windows: reader.sliding_windows(family, layers)?,
            raw: raw.clone(),
        };
        reader.check(&config)?;
        Ok(config)
    }

    /// The file's content with `dtype` set, ready to be written beside weights of that type.
    pub fn to_json(&self, dtype: &str) -> Value {
        let mut raw = self.raw.clone();
        let key = if raw.contains_key("torch_dtype") {
            "torch_dtype"
        } else {
            "dtype"
        };
        raw.insert(key.into(), dtype.into());
        Value::Object(raw)
    }

    /// The end-of-text ids that the configuration names; `generation_config.json` may add others.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        token_ids(self.raw.get("eos_token_id"))
    }

    /// Number of parameters, a tied head counted once.
    pub fn parameters(&self) -> u64 {
        let [hidden, inner, vocab] =
            [self.hidden_size, self.intermediate_size, self.vocab_size].map(|n| n as u64);
        let query = (self.num_attention_heads * self.head_dim) as u64;
        let key = (self.num_key_value_heads * self.head_dim) as u64;
        // Each size is within its bounds, and their product may still be beyond 64 bits.
        let block = (2 * query + 2 * key).saturating_mul(hidden);
        let block = block.saturating_add(3 * hidden * inner + 2 * hidden);
        let layers = block.saturating_mul(self.num_hidden_layers as u64);
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        layers.saturating_add(embeddings * vocab * hidden + hidden)
    }
}

/// Token ids in a field that holds one id, a list of them, or nothing.
pub(crate) fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(single) => id(single).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Reads fields of one configuration file, naming the field in every error.
struct Reader<'a> {
    fields: &'a Map<String, Value>,
    path: &'a Path,
}

impl Reader<'_> {
    fn error(&self, field: &str, message: impl Into<String>) -> PolicyError {
        PolicyError::InvalidConfig {
            path: self.path.to_owned(),
            field: field.into(),
            message: message.into(),
        }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn family(&self) -> Result<Family, PolicyError> {
        let known = Family::NAMES.join(", ");
        let name = self
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| self.error("model_type", format!("is missing; known are {known}")))?;
        Family::parse(name)
            .ok_or_else(|| self.error("model_type", format!("'{name}' is not one of {known}")))
    }

    fn size(&self, field: &str, least: usize, most: usize) -> Result<usize, PolicyError> {
        let value = self
            .get(field)
            .ok_or_else(|| self.error(field, "is missing"))?;
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.filter(|n| (least..=most).contains(n)).ok_or_else(|| {
            self.error(
                field,
                format!("must be a whole number in {least}..={most}, not {value}"),
            )
        })
    }

    fn size_or(
        &self,
        field: &str,
        default: usize,
        least: usize,
        most: usize,
    ) -> Result<usize, PolicyError> {
        if self.get(field).is_some() {
            self.size(field, least, most)
        } else {
            Ok(default)
        }
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, PolicyError> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.error(field, format!("must be true or false, not {other}"))),
        }
    }

    fn number_or(&self, field: &str, default: f64) -> Result<f64, PolicyError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => self.positive(field, value),
        }
    }

    fn positive(&self, field: &str, value: &Value) -> Result<f64, PolicyError> {
        value
            .as_f64()
            .filter(|x| x.is_finite() && *x > 0.0)
            .ok_or_else(|| self.error(field, format!("must be a positive number, not {value}")))
    }

    /// Transformers 5 gathers θ and the scaling in `rope_parameters`; before, they were `rope_theta` and `rope_scaling`.
    fn rope(&self) -> Result<RopeConfig, PolicyError> {
        let nested = self
            .get("rope_parameters")
            .or_else(|| self.get("rope_scaling"));
        let empty = Map::new();
        let parameters = match nested {
            None => &empty,
            Some(Value::Object(map)) => map,
            Some(other) => {
                return Err(self.error("rope_scaling", format!("must be an object, not {other}")));
            }
        };
        let theta = match parameters.get("rope_theta") {
            Some(value) => self.positive("rope_parameters.rope_theta", value)?,
            None => self.number_or("rope_theta", 10_000.0)?,
        };
        Ok(RopeConfig {
            theta,
            scaling: self.rope_scaling(parameters)?,
        })
    }

    fn rope_scaling(&self, parameters: &Map<String, Value>) -> Result<RopeScaling, PolicyError> {
        let kind = parameters
            .get("rope_type")
            .or_else(|| parameters.get("type"))
            .filter(|kind| !kind.is_null());
        let number = |name: &str| {
            let field = format!("rope_scaling.{name}");
            let value = parameters
                .get(name)
                .ok_or_else(|| self.error(&field, "is missing"))?;
            self.positive(&field, value)
        };
        let Some(kind) = kind else {
            return Ok(RopeScaling::None);
        };
        match kind.as_str() {
            Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear {
                factor: number("factor")?,
            }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            }),
            _ => Err(self.error(
                "rope_scaling.rope_type",
                format!("{kind} is not one of default, linear, llama3"),
            )),
        }
    }

    /// Which layers slide: all of Mistral's, those that Qwen's `layer_types` or `max_window_layers` name.
    fn sliding_windows(
        &self,
        family: Family,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, PolicyError> {
        let window = match self.get("sliding_window") {
            None => None,
            Some(_) => Some(self.size("sliding_window", 1, MAX_CONTEXT)?),
        };
        match family {
            Family::Llama => Ok(vec![None; layers]),
            Family::Mistral => Ok(vec![window; layers]),
            Family::Qwen2 | Family::Qwen3 => {
                let slides = self.flag("use_sliding_window", false)?;
                self.qwen_windows(window.filter(|_| slides), layers)
            }
        }
    }

    fn qwen_windows(
        &self,
        window: Option<usize>,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, PolicyError> {
        if let Some(types) = self.get("layer_types") {
            let types = types
                .as_array()
                .ok_or_else(|| self.error("layer_types", format!("must be a list, not {types}")))?;
            if types.len() != layers {
                let found = types.len();
                let message = format!("names {found} layers where num_hidden_layers is {layers}");
                return Err(self.error("layer_types", message));
            }
            let window_of = |kind: &Value| match kind.as_str() {
                Some("sliding_attention") => Ok(window),
                Some("full_attention") => Ok(None),
                _ => Err(self.error(
                    "layer_types",
                    format!("{kind} is not one of full_attention, sliding_attention"),
                )),
            };
            return types.iter().map(window_of).collect();
        }
        let first = self.size_or("max_window_layers", layers, 0, MAX_LAYERS)?;
        Ok((0..layers)
            .map(|layer| window.filter(|_| layer >= first))
            .collect())
    }

    fn check(&self, config: &ModelConfig) -> Result<(), PolicyError> {
        let heads = config.num_attention_heads;
        let groups = config.num_key_value_heads;
        if !heads.is_multiple_of(groups) {
            let message = format!("{groups} does not divide num_attention_heads {heads}");
            return Err(self.error("num_key_value_heads", message));
        }
        if config.head_dim < 2 || !config.head_dim.is_multiple_of(2) {
            let message = format!(
                "must be even for rotary embeddings, and 2 or more, not {} (hidden_size {} over {heads} heads, \
                 where it is not given)",
                config.head_dim, config.hidden_size
            );
            return Err(self.error("head_dim", message));
        }
        match self.get("hidden_act") {
            None => Ok(()),
            Some(Value::String(name)) if name == "silu" || name == "swish" => Ok(()),
            Some(other) => Err(self.error("hidden_act", format!("{other} is not silu"))),
        }
    }
}
