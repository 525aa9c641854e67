//! A model's adapters as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors` in a folder of their own.

mod import;

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::{LoraAdapter, Module, ModuleMapper, Param},
    tensor::{DType, Tensor, TensorData},
};
use safetensors::tensor::TensorInfo;
use serde_json::json;

use crate::{
    CausalLm, LoraConfig, PolicyError, SaveDtype,
    hub::{HubName, MAIN_REVISION},
    model::lora::factor_name,
    output::write_json,
    shard::{Shard, is_float},
    tensor_file::{LazyTensor, write_tensors},
    weights::{TensorPath, invalid, replace, values},
};

pub use import::import_adapter;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// The model that adapters are for, as PEFT looks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdapterBase {
    /// A folder or a hub name; nothing where nobody else can find it.
    pub model: Option<String>,
    /// The hub's revision, where it is not the main one.
    pub revision: Option<String>,
}

impl AdapterBase {
    /// The model that [`resolve_model`](crate::resolve_model) finds by a name; the empty one is nobody's.
    pub fn of(name_or_path: &str) -> Self {
        if name_or_path.is_empty() {
            return Self::default();
        }
        let path = Path::new(name_or_path);
        if path.is_dir() {
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            return Self {
                model: Some(whole.to_string_lossy().into_owned()),
                revision: None,
            };
        }
        match HubName::parse(name_or_path) {
            Some(HubName { model, revision }) => Self {
                model: Some(model),
                revision: (revision != MAIN_REVISION).then_some(revision),
            },
            None => Self {
                model: Some(name_or_path.to_owned()),
                revision: None,
            },
        }
    }
}

/// A factor's name in PEFT's files, which have it as `[outputs, inputs]`.
fn peft_name(layer: &str, factor: &str) -> String {
    format!("base_model.model.{layer}.{factor}.weight")
}

impl CausalLm {
    /// Writes the adapters to a folder, which must exist, in f32.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save_adapters(
        &self,
        config: &LoraConfig,
        base: &AdapterBase,
        dir: &Path,
    ) -> Result<(), PolicyError> {
        let targets: Vec<&str> = config.targets.iter().map(|target| target.name()).collect();
        let settings = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.model,
            "revision": base.revision,
            "r": config.rank,
            "lora_alpha": config.alpha,
            "lora_dropout": 0.0,
            "target_modules": targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
        });
        write_json(&dir.join(CONFIG), &settings)?;
        let adapters = self.adapters().into_iter();
        let tensors = adapters.flat_map(|(layer, LoraAdapter { a, b, .. })| {
            [("lora_A", a), ("lora_B", b)].map(|(factor, param)| {
                let turned = param.val().transpose();
                let tensor = LazyTensor {
                    shape: turned.dims().to_vec(),
                    dtype: SaveDtype::F32,
                    values: Box::new(move || values(turned.clone())),
                };
                (peft_name(&layer, factor), tensor)
            })
        });
        write_tensors(tensors, &dir.join(WEIGHTS))
    }

    /// The same model with the adapters that [`CausalLm::save_adapters`] wrote, in place of those that it has.
    ///
    /// # Errors
    /// A file that is missing or damaged, or adapters of other layers or another rank than the model's.
    pub fn load_adapters(self, dir: &Path) -> Result<Self, PolicyError> {
        let (shard, contents) = Shard::open(dir.join(WEIGHTS))?;
        let mut loader = Loader {
            path: TensorPath::default(),
            tensors: contents.into_iter().collect(),
            shard,
            error: None,
        };
        let model = self.map(&mut loader);
        if let Some(error) = loader.error {
            return Err(error);
        }
        match loader.tensors.into_keys().next() {
            Some(name) => {
                let message = format!("holds '{name}', which the model has no adapter for");
                Err(invalid(loader.shard.path(), &message))
            }
            None => Ok(model),
        }
    }
}

/// Puts a file's factors in the place of a model's.
struct Loader {
    path: TensorPath,
    /// Those that have not found their place yet.
    tensors: BTreeMap<String, TensorInfo>,
    shard: Shard,
    error: Option<PolicyError>,
}

impl Loader {
    /// The factor's values, `[outputs, inputs]`.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<TensorData, PolicyError> {
        let Some(info) = self.tensors.remove(name) else {
            return Err(PolicyError::MissingTensor {
                path: self.shard.path().to_owned(),
                name: name.into(),
            });
        };
        if !is_float(info.dtype) || info.shape != shape {
            let (found, dtype) = (&info.shape, info.dtype);
            let message = format!(
                "tensor '{name}' is {dtype:?} of shape {found:?}, where an adapter of this rank has floats of {shape:?}"
            );
            return Err(invalid(self.shard.path(), &message));
        }
        let values = self.shard.values(name, &info)?;
        Ok(TensorData::new(values, info.shape))
    }
}

impl ModuleMapper for Loader {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let Some((layer, factor)) = factor_of(&name).filter(|_| self.error.is_none()) else {
            return param;
        };
        let mut shape = param.lazy_shape().to_vec();
        shape.reverse();
        match self.take(&peft_name(layer, factor), &shape) {
            Ok(data) => replace(&param, &factor_name(layer, factor), data, DType::F32, true),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// The layer and the factor that a parameter is, if it is one.
pub(crate) fn factor_of(path: &str) -> Option<(&str, &'static str)> {
    let of = |end, factor| path.strip_suffix(end).map(|layer| (layer, factor));
    of(".weight.lora.a", "lora_A").or_else(|| of(".weight.lora.b", "lora_B"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LoraTarget, tiny::drawn};

    fn model() -> CausalLm {
        drawn(3)
    }

    fn lora(rank: usize, targets: &[LoraTarget]) -> LoraConfig {
        LoraConfig {
            rank,
            alpha: 8.0,
            targets: targets.to_vec(),
        }
    }

    #[test]
    fn saved_adapters_are_read_back_and_others_refused() {
        let dir = tempfile::tempdir().unwrap();
        let targets = [LoraTarget::QProj, LoraTarget::DownProj];
        let config = lora(2, &targets);
        let saved = model().with_lora(&config, 5);
        let base = AdapterBase::of("someone/model@v2");
        saved.save_adapters(&config, &base, dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(CONFIG)).unwrap();
        let written: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (key, value) in [
            ("peft_type", json!("LORA")),
            ("r", json!(2)),
            ("lora_alpha", json!(8.0)),
            ("target_modules", json!(["q_proj", "down_proj"])),
            ("base_model_name_or_path", json!("someone/model")),
            ("revision", json!("v2")),
        ] {
            assert_eq!(written[key], value, "{key}");
        }
        let load = |config: &LoraConfig| {
            let model = model().with_lora(config, 6);
            model.load_adapters(dir.path())
        };
        let cells = |model: &CausalLm| {
            let adapters = model.adapters().into_iter();
            let cells = adapters.map(|(layer, adapter)| (layer, values(adapter.a.val())));
            cells.collect::<Vec<_>>()
        };
        let read = load(&config).unwrap();
        assert_eq!(cells(&read), cells(&saved));
        assert_ne!(cells(&model().with_lora(&config, 6)), cells(&saved));
        assert_eq!(read.trained_parameters(), 2 * 2 * ((8 + 8) + (12 + 8)));
        let refused = |config: &LoraConfig, words: &[&str]| {
            let error = load(config).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        };
        refused(&lora(3, &targets), &["lora_A", "[2, 8]", "[3, 8]"]);
        refused(&lora(2, &targets[..1]), &["down_proj", "no adapter"]);
        refused(&lora(2, &LoraTarget::ALL), &["k_proj", "missing"]);
        let file = dir.path().join(WEIGHTS);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        refused(&config, &[WEIGHTS]);
        std::fs::remove_file(&file).unwrap();
        refused(&config, &[WEIGHTS]);
    }
}
