//! A PEFT adapter and the model that it is for, as one model.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device};
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::{CONFIG, WEIGHTS};
use crate::{
    ImportSummary, LoraConfig, LoraTarget, OutputFolder, Policy, PolicyError, SaveDtype, Tokenizer,
    config::MAX_CONFIG_BYTES, files::read_json, resolve_model, shard::Shard, weights::SINGLE_FILE,
};

/// What PEFT has besides, and this has not: each changes what is computed.
const UNSUPPORTED: [&str; 15] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layers_to_transform",
];

/// Merges the adapter of a PEFT folder into the model that it is for, and writes that to `out_dir` as a Hugging Face folder, with
/// weights of type `dtype`. The model is `base`, a folder or a hub name, or what the adapter names where there is none. A
/// tokenizer that lies with the adapter takes the place of the model's.
///
/// # Errors
/// A folder that is no LoRA adapter, or one of a kind that is not supported; a model that cannot be loaded or does not fit; an
/// output folder that is in use.
pub fn import_adapter(
    dir: &Path,
    base: Option<&str>,
    out_dir: &Path,
    dtype: SaveDtype,
) -> Result<ImportSummary, PolicyError> {
    let output = OutputFolder::create(out_dir)?;
    let settings = Settings::read(dir)?;
    let mut policy = Policy::load(&settings.base(base)?, DType::F32, &Device::flex())?;
    if dir.join("tokenizer.json").exists() {
        let tokenizer = Tokenizer::load(dir)?;
        tokenizer.check_fits(policy.config.vocab_size)?;
        policy.tokenizer = Some(tokenizer);
    }
    let (_, tensors) = Shard::open(dir.join(WEIGHTS))?;
    let lora = settings.lora(&tensors, policy.config.hidden_size)?;
    // The factors are the file's.
    let adapted = policy.model.with_lora(&lora, 0).load_adapters(dir);
    policy.model = adapted.map_err(|error| settings.explain(error))?;
    policy.save(output.path(), dtype)?;
    let (_, written) = Shard::open(output.path().join(SINGLE_FILE))?;
    output.publish()?;
    let tokenizer = policy.tokenizer.as_ref();
    Ok(ImportSummary {
        family: policy.config.family,
        tensors: written.len(),
        parameters: policy.config.parameters(),
        vocab_size: policy.config.vocab_size,
        has_chat_template: tokenizer.is_some_and(|tokenizer| tokenizer.chat_template().is_some()),
    })
}

/// An adapter's `adapter_config.json`.
struct Settings {
    path: PathBuf,
    fields: BTreeMap<String, Value>,
}

impl Settings {
    fn read(dir: &Path) -> Result<Self, PolicyError> {
        let path = dir.join(CONFIG);
        if !path.exists() {
            return Err(PolicyError::NotFound {
                path: dir.to_owned(),
                what: format!("{CONFIG} (a Hugging Face folder needs no import)"),
            });
        }
        let Value::Object(fields) = read_json(&path, MAX_CONFIG_BYTES)? else {
            return Err(PolicyError::InvalidConfig {
                path,
                field: "all of it".into(),
                message: "is no object".into(),
            });
        };
        let settings = Self {
            path,
            fields: fields.into_iter().collect(),
        };
        settings.check()?;
        Ok(settings)
    }

    fn error(&self, field: &str, message: impl Into<String>) -> PolicyError {
        PolicyError::InvalidConfig {
            path: self.path.clone(),
            field: field.into(),
            message: message.into(),
        }
    }

    /// A tensor that is missing is one of a layer that has no adapter, where its like have.
    fn explain(&self, error: PolicyError) -> PolicyError {
        match error {
            PolicyError::MissingTensor { name, .. } => {
                let message = format!(
                    "has some blocks alone ({name} is not there), which is not supported; merge the adapter by PEFT"
                );
                self.error("target_modules", message)
            }
            error => error,
        }
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }

    fn check(&self) -> Result<(), PolicyError> {
        let kind = self.fields.get("peft_type");
        if self.text("peft_type") != Some("LORA") {
            let found = kind.map_or("nothing".to_owned(), Value::to_string);
            return Err(self.error("peft_type", format!("is {found}; LORA alone is imported")));
        }
        let is_set = |field: &&&str| match self.fields.get(**field) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if let Some(field) = UNSUPPORTED.iter().find(is_set) {
            return Err(self.error(
                field,
                "is set, and is not supported; merge the adapter by PEFT",
            ));
        }
        // The others leave another base beneath than the one that is named.
        let beginnings = ["gaussian", "eva", "orthogonal"];
        if let Some(beginning) = self.text("init_lora_weights")
            && !beginnings.contains(&beginning)
        {
            let message = format!(
                "is {beginning:?}, which changes the model beneath; convert or merge the adapter by PEFT"
            );
            return Err(self.error("init_lora_weights", message));
        }
        match self.text("bias") {
            None | Some("none") => Ok(()),
            Some(_) => Err(self.error("bias", "is not \"none\"; merge the adapter by PEFT")),
        }
    }

    /// The folder of the model that it is for.
    fn base(&self, given: Option<&str>) -> Result<PathBuf, PolicyError> {
        const FIELD: &str = "base_model_name_or_path";
        if let Some(given) = given {
            return resolve_model(given);
        }
        let Some(name) = self.text(FIELD).filter(|name| !name.is_empty()) else {
            return Err(self.error(FIELD, "is not there; say by --base what the adapter is for"));
        };
        let name = match self.text("revision") {
            Some(revision) if !Path::new(name).is_dir() => format!("{name}@{revision}"),
            _ => name.to_owned(),
        };
        resolve_model(&name).map_err(|error| {
            let message =
                format!("is {name:?}, which is not to be had ({error}); say by --base where it is");
            self.error(FIELD, message)
        })
    }

    /// The adapter of a model of that width; which layers it is for is told by its tensors.
    fn lora(
        &self,
        tensors: &[(String, TensorInfo)],
        hidden_size: usize,
    ) -> Result<LoraConfig, PolicyError> {
        let rank = self.fields.get("r").and_then(Value::as_u64);
        let rank = rank.and_then(|rank| usize::try_from(rank).ok());
        let Some(rank) = rank.filter(|rank| (1..=hidden_size).contains(rank)) else {
            return Err(self.error("r", format!("is not a whole number in 1..={hidden_size}")));
        };
        let alpha = self.fields.get("lora_alpha").and_then(Value::as_f64);
        let Some(alpha) = alpha.filter(|alpha| LoraConfig::ALPHAS.contains(alpha)) else {
            return Err(self.error("lora_alpha", "is not a number in 1e-6..=1e6"));
        };
        let is_stable = self.fields.get("use_rslora") == Some(&Value::Bool(true));
        let has = |target: &LoraTarget| {
            let end = format!(".{}.lora_A.weight", target.name());
            tensors.iter().any(|(name, _)| name.ends_with(&end))
        };
        let targets: Vec<LoraTarget> = LoraTarget::ALL.into_iter().filter(has).collect();
        if targets.is_empty() {
            let message = format!("has no layer that {WEIGHTS} has an adapter for");
            return Err(self.error("target_modules", message));
        }
        Ok(LoraConfig {
            rank,
            // α/√r where rsLoRA (arXiv 2312.03732) has it, α/r else.
            alpha: alpha * if is_stable { (rank as f64).sqrt() } else { 1.0 },
            targets,
        })
    }
}
