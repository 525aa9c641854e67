//! A GGUF file's tensors, dequantized and laid out as Hugging Face has them.

use std::{cell::RefCell, collections::HashSet, fs::File, io::BufReader, path::Path};

use candle_core::{Device, quantized::gguf_file::Content};
use half::bf16;

use super::config::ROPE_FACTORS;
use crate::{
    Family, ModelConfig, PolicyError, SaveDtype,
    tensor_file::{LazyTensor, write_tensors},
};

/// An open file. A read that fails while weights are written is kept until they are.
#[derive(Debug)]
pub(super) struct Source<'a> {
    path: &'a Path,
    pub(super) content: Content,
    file: RefCell<BufReader<File>>,
    failure: RefCell<Option<PolicyError>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a Path, content: Content, file: BufReader<File>) -> Self {
        Self {
            path,
            content,
            file: RefCell::new(file),
            failure: RefCell::new(None),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// A matrix's number of rows.
    pub(super) fn rows(&self, name: &str) -> Result<usize, PolicyError> {
        self.shape(name).map(|shape| shape[0])
    }

    fn shape(&self, name: &str) -> Result<&[usize], PolicyError> {
        let info = self.content.tensor_infos.get(name);
        let info = info.ok_or_else(|| PolicyError::MissingTensor {
            path: self.path.to_owned(),
            name: name.into(),
        })?;
        Ok(info.shape.dims())
    }

    /// A tensor's values, row by row.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>, PolicyError> {
        let read = || {
            let mut file = self.file.borrow_mut();
            let tensor = self.content.tensor(&mut *file, name, &Device::Cpu)?;
            tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
        };
        read().map_err(|error: candle_core::Error| {
            self.error(format!("tensor '{name}' cannot be read: {error}"))
        })
    }

    /// A tensor as the folder has it; zeros, and the failure kept, where it cannot be read.
    fn entry_values(&self, entry: &Entry, dtype: SaveDtype) -> Vec<f32> {
        let values = self.values(&entry.origin).unwrap_or_else(|error| {
            self.failure.replace(Some(error));
            vec![0.0; entry.shape.iter().product()]
        });
        let is_finite = |value: &f32| match dtype {
            SaveDtype::F32 => value.is_finite(),
            // The largest numbers round to infinity.
            SaveDtype::Bf16 => bf16::from_f32(*value).is_finite(),
        };
        if !values.iter().all(is_finite) {
            let message = format!(
                "tensor '{}' holds numbers that are not finite",
                entry.origin
            );
            self.failure.replace(Some(self.error(message)));
        }
        match entry.interleaved_heads {
            Some(heads) => half_split(&values, heads, entry.shape[0]),
            None => values,
        }
    }

    fn error(&self, message: String) -> PolicyError {
        PolicyError::Gguf {
            path: self.path.to_owned(),
            message,
        }
    }
}

/// One tensor of the folder: its name in both formats, its shape, and the heads whose rows are interleaved.
#[derive(Debug)]
struct Entry {
    target: String,
    origin: String,
    shape: Vec<usize>,
    interleaved_heads: Option<usize>,
}

/// Writes every tensor that the configuration asks for and returns how many. One at a time is held in memory.
pub(super) fn write(
    source: &Source<'_>,
    config: &ModelConfig,
    dtype: SaveDtype,
    path: &Path,
) -> Result<usize, PolicyError> {
    let entries = entries(source, config)?;
    check(source, &entries)?;
    let tensors = entries.iter().map(|entry| {
        let tensor = LazyTensor {
            shape: entry.shape.clone(),
            dtype,
            values: Box::new(move || source.entry_values(entry, dtype)),
        };
        (entry.target.clone(), tensor)
    });
    write_tensors(tensors, path)?;
    source.failure.take().map_or(Ok(entries.len()), Err)
}

/// Puts the rows of each head back in Hugging Face's order, whose halves are rotated against each other.
///
/// GGUF files of the llama architecture rotate neighbours: row `2j + p` of a head there is row `p·d/2 + j` here.
fn half_split(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let width = values.len() / rows;
    let head_dim = rows / heads;
    let origin = |row: usize| {
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
        head * head_dim + 2 * pair + half
    };
    (0..rows)
        .flat_map(|row| &values[origin(row) * width..][..width])
        .copied()
        .collect()
}

fn entries(source: &Source<'_>, config: &ModelConfig) -> Result<Vec<Entry>, PolicyError> {
    let plain = |target: &str, origin: &str, shape: &[usize]| Entry {
        target: target.into(),
        origin: origin.into(),
        shape: shape.into(),
        interleaved_heads: None,
    };
    let [vocab, hidden] = [config.vocab_size, config.hidden_size];
    let mut entries = vec![
        plain(
            "model.embed_tokens.weight",
            "token_embd.weight",
            &[vocab, hidden],
        ),
        plain("model.norm.weight", "output_norm.weight", &[hidden]),
    ];
    if !config.tie_word_embeddings {
        entries.push(plain("lm_head.weight", "output.weight", &[vocab, hidden]));
    }
    // Before the layers are listed: a count that the file cannot have would list without end.
    let layers = config.num_hidden_layers;
    if layers > source.content.tensor_infos.len() {
        return Err(source.error(format!("claims {layers} layers, and has fewer tensors")));
    }
    for layer in 0..layers {
        entries.extend(block(config, layer));
    }
    Ok(entries)
}

/// One layer's tensors.
fn block(config: &ModelConfig, layer: usize) -> Vec<Entry> {
    let query = config.num_attention_heads * config.head_dim;
    let key = config.num_key_value_heads * config.head_dim;
    let [hidden, inner] = [config.hidden_size, config.intermediate_size];
    let interleaved = matches!(config.family, Family::Llama | Family::Mistral);
    let query_heads = interleaved.then_some(config.num_attention_heads);
    let key_heads = interleaved.then_some(config.num_key_value_heads);
    let has_norms = config.family == Family::Qwen3;
    let [bias, output_bias, mlp_bias] = [
        config.attention_bias,
        config.attention_output_bias,
        config.mlp_bias,
    ];
    let projections = [
        (
            "self_attn.q_proj",
            "attn_q",
            [query, hidden],
            bias,
            query_heads,
        ),
        ("self_attn.k_proj", "attn_k", [key, hidden], bias, key_heads),
        ("self_attn.v_proj", "attn_v", [key, hidden], bias, None),
        (
            "self_attn.o_proj",
            "attn_output",
            [hidden, query],
            output_bias,
            None,
        ),
        ("mlp.gate_proj", "ffn_gate", [inner, hidden], mlp_bias, None),
        ("mlp.up_proj", "ffn_up", [inner, hidden], mlp_bias, None),
        ("mlp.down_proj", "ffn_down", [hidden, inner], mlp_bias, None),
    ];
    let norms = [
        ("input_layernorm", "attn_norm", hidden, true),
        ("post_attention_layernorm", "ffn_norm", hidden, true),
        (
            "self_attn.q_norm",
            "attn_q_norm",
            config.head_dim,
            has_norms,
        ),
        (
            "self_attn.k_norm",
            "attn_k_norm",
            config.head_dim,
            has_norms,
        ),
    ];
    let entry = |target: &str, origin: &str, kind: &str, shape: &[usize], heads| Entry {
        target: format!("model.layers.{layer}.{target}.{kind}"),
        origin: format!("blk.{layer}.{origin}.{kind}"),
        shape: shape.into(),
        interleaved_heads: heads,
    };
    let mut entries = Vec::new();
    for (target, origin, shape, has_bias, heads) in projections {
        entries.push(entry(target, origin, "weight", &shape, heads));
        if has_bias {
            entries.push(entry(target, origin, "bias", &shape[..1], heads));
        }
    }
    let norms = norms.iter().filter(|(.., present)| *present);
    entries.extend(
        norms.map(|(target, origin, width, _)| entry(target, origin, "weight", &[*width], None)),
    );
    entries
}

/// Every tensor is there in its shape, and none is left over that would have done something.
fn check(source: &Source<'_>, entries: &[Entry]) -> Result<(), PolicyError> {
    for Entry { origin, shape, .. } in entries {
        let found = source.shape(origin)?;
        if found != shape {
            let message =
                format!("tensor '{origin}' has shape {found:?}; the metadata asks for {shape:?}");
            return Err(source.error(message));
        }
    }
    let used: HashSet<&str> = entries.iter().map(|entry| entry.origin.as_str()).collect();
    let unused = |name: &&String| !used.contains(name.as_str()) && *name != ROPE_FACTORS;
    match source.content.tensor_infos.keys().filter(unused).min() {
        None => Ok(()),
        Some(name) => Err(source.error(format!(
            "tensor '{name}' belongs to no part of this architecture"
        ))),
    }
}
