//! Import of GGUF files: dequantized, and written as the Hugging Face folder that they were made from.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Tensors are decoded by candle.

mod config;
mod header;
mod metadata;
mod pre_tokenizer;
mod tensors;
mod vocabulary;

use std::{
    fs::{self, File},
    io::BufReader,
    path::Path,
};

use candle_core::quantized::gguf_file::Content;

pub(crate) use self::pre_tokenizer::{LLAMA3, QWEN2};
use self::{metadata::Metadata, tensors::Source, vocabulary::Vocabulary};
use crate::{
    Family, ModelConfig, OutputFolder, PolicyError, SaveDtype, Tokenizer, output::write_json,
};

/// What an import wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportSummary {
    /// The family of the decoder.
    pub family: Family,
    /// Number of tensors in `model.safetensors`.
    pub tensors: usize,
    /// Number of parameters, a tied head counted once.
    pub parameters: u64,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Whether the file had a chat template.
    pub has_chat_template: bool,
}

/// Writes the model of a GGUF file to `out_dir` as a Hugging Face folder, with weights of type `dtype`.
///
/// Llama (SmolLM2 and Mistral among them), Qwen 2 and Qwen 3 decoders are imported, from F32, F16, BF16, `Q4_0` to
/// `Q8_0` and the K-quants. The folder appears whole or not at all; its parent folders are made.
///
/// # Errors
/// A file that is damaged, or holds another architecture, tokenizer or type; an output folder that is in use.
pub fn import_gguf(
    path: &Path,
    out_dir: &Path,
    dtype: SaveDtype,
) -> Result<ImportSummary, PolicyError> {
    let output = OutputFolder::create(out_dir)?;
    let source = open(path)?;
    let metadata = Metadata::new(&source.content.metadata, path);
    let vocabulary = Vocabulary::read(&metadata)?;
    let config_path = output.path().join("config.json");
    let config = config::read(&metadata, &source, &vocabulary)?;
    let config = ModelConfig::from_json(&config, path)?;
    write_json(&config_path, &config.to_json(dtype.config_name()))?;
    write_json(
        &output.path().join("generation_config.json"),
        &vocabulary.generation(),
    )?;
    vocabulary.write(output.path(), config.max_position_embeddings)?;
    let tokenizer =
        Tokenizer::load(output.path()).map_err(|error| metadata.error(error.to_string()))?;
    tokenizer
        .check_fits(config.vocab_size)
        .map_err(|error| metadata.error(error.to_string()))?;
    let tensors = tensors::write(
        &source,
        &config,
        dtype,
        &output.path().join("model.safetensors"),
    )?;
    output.publish()?;
    Ok(ImportSummary {
        family: config.family,
        tensors,
        parameters: config.parameters(),
        vocab_size: config.vocab_size,
        has_chat_template: tokenizer.chat_template().is_some(),
    })
}

/// Opens a file whose header has been found to be sound.
fn open(path: &Path) -> Result<Source<'_>, PolicyError> {
    let io = |source| PolicyError::Io {
        path: path.to_owned(),
        source,
    };
    let invalid = |message: String| PolicyError::Gguf {
        path: path.to_owned(),
        message,
    };
    // Before it is opened: to open a pipe is to wait for its other end.
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(PolicyError::NotRegular {
            path: path.to_owned(),
        });
    }
    let size_bytes = metadata.len();
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    header::check(&mut file, size_bytes).map_err(invalid)?;
    let mut file = BufReader::new(file.into_inner());
    std::io::Seek::rewind(&mut file).map_err(io)?;
    let content = Content::read(&mut file).map_err(|error| invalid(error.to_string()))?;
    Ok(Source::new(path, content, file))
}
