//! A whole policy: weights, architecture and tokenizer of one Hugging Face folder.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use serde_json::Value;

use crate::{
    CausalLm, ModelConfig, PolicyError, SaveDtype, Tokenizer,
    config::{MAX_CONFIG_BYTES, token_ids},
    files::read_json,
    initialization::draw_weights,
    load_weights,
    output::write_json,
    save_weights,
};

/// A language model as it is trained, sampled and saved.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The weights.
    pub model: CausalLm,
    /// The architecture.
    pub config: ModelConfig,
    /// The tokenizer, where the folder has one.
    pub tokenizer: Option<Tokenizer>,
    generation_config: Option<Value>,
    /// Where it was loaded from, for errors.
    path: PathBuf,
}

const GENERATION_CONFIG: &str = "generation_config.json";

impl Policy {
    /// Loads a Hugging Face folder, its weights cast to `dtype`.
    ///
    /// # Errors
    /// Whatever is missing or wrong in the folder, and a tokenizer with ids beyond the embedding.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self, PolicyError> {
        Self::load_over(dir, dir, dtype, device)
    }

    /// The same with the weights of another folder.
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn load_over(
        dir: &Path,
        weights: &Path,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, PolicyError> {
        if !dir.is_dir() {
            return Err(PolicyError::NotFound {
                path: dir.to_owned(),
                what: "a model folder".into(),
            });
        }
        let config = ModelConfig::load(dir)?;
        let has_tokenizer = dir.join("tokenizer.json").exists();
        let tokenizer = has_tokenizer.then(|| Tokenizer::load(dir)).transpose()?;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.check_fits(config.vocab_size)?;
        }
        let generation_config = optional_json(&dir.join(GENERATION_CONFIG))?;
        check_end_tokens(&config, dir)?;
        let model = load_weights(CausalLm::new(&config, device), weights, dtype)?;
        Ok(Self {
            model,
            config,
            tokenizer,
            generation_config,
            path: dir.to_owned(),
        })
    }

    /// A policy with weights freshly drawn from a seed.
    pub fn new(
        config: ModelConfig,
        tokenizer: Option<Tokenizer>,
        seed: u64,
        device: &Device,
    ) -> Self {
        let model = draw_weights(CausalLm::new(&config, device), seed);
        Self {
            model,
            config,
            tokenizer,
            generation_config: None,
            path: PathBuf::from("a model that was drawn"),
        }
    }

    /// Writes a folder that [`Policy::load`] and transformers open. It must exist; files in it are replaced.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, dir: &Path, dtype: SaveDtype) -> Result<(), PolicyError> {
        write_json(
            &dir.join("config.json"),
            &self.config.to_json(dtype.config_name()),
        )?;
        if let Some(generation) = &self.generation_config {
            write_json(&dir.join(GENERATION_CONFIG), generation)?;
        }
        if let Some(tokenizer) = &self.tokenizer {
            tokenizer.save(dir)?;
        }
        save_weights(&self.model, dir, dtype)
    }

    /// The tokenizer, or an error that says that the folder has none.
    ///
    /// # Errors
    /// The folder had no `tokenizer.json`.
    pub fn require_tokenizer(&self) -> Result<&Tokenizer, PolicyError> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| PolicyError::NotFound {
                path: self.path.clone(),
                what: "tokenizer.json".into(),
            })
    }

    /// Every id that ends a text: those of both configurations and the tokenizer's own.
    pub fn end_token_ids(&self) -> Vec<u32> {
        let mut ids = self.config.eos_token_ids();
        if let Some(generation) = &self.generation_config {
            ids.extend(token_ids(generation.get("eos_token_id")));
        }
        ids.extend(self.tokenizer.as_ref().and_then(Tokenizer::eos_token_id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The id that a taught response ends with: the tokenizer's own, which of a chat model's end tokens is the one
    /// that ends a turn; where it names none, the first of the configurations'.
    pub fn end_token_id(&self) -> Option<u32> {
        let own = self.tokenizer.as_ref().and_then(Tokenizer::eos_token_id);
        let generation = self.generation_config.as_ref();
        let named = || {
            let generation = token_ids(generation.and_then(|config| config.get("eos_token_id")));
            let all = self.config.eos_token_ids().into_iter().chain(generation);
            all.into_iter().next()
        };
        own.or_else(named)
    }
}

/// An end token beyond the vocabulary would never come.
fn check_end_tokens(config: &ModelConfig, dir: &Path) -> Result<(), PolicyError> {
    let beyond = |id: &u32| *id as usize >= config.vocab_size;
    match config.eos_token_ids().into_iter().find(beyond) {
        Some(id) => Err(PolicyError::InvalidConfig {
            path: dir.join("config.json"),
            field: "eos_token_id".into(),
            message: format!("{id} is not below vocab_size {}", config.vocab_size),
        }),
        None => Ok(()),
    }
}

fn optional_json(path: &Path) -> Result<Option<Value>, PolicyError> {
    path.exists()
        .then(|| read_json(path, MAX_CONFIG_BYTES))
        .transpose()
}
