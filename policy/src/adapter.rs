//! A model's adapters as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors` in a folder of their own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::{
    module::{LoraAdapter, Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Int, Tensor, TensorData},
};
use safetensors::{Dtype, tensor::TensorInfo};
use serde_json::json;

use crate::{
    CausalLm, LoraConfig, PolicyError, SaveDtype,
    model::lora::factor_name,
    output::write_json,
    shard::Shard,
    tensor_file::{LazyTensor, write_tensors},
    weights::{TensorPath, invalid, replace, values},
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// A factor's name in PEFT's files, which have it as `[outputs, inputs]`.
fn peft_name(layer: &str, factor: &str) -> String {
    format!("base_model.model.{layer}.{factor}.weight")
}

impl CausalLm {
    /// Writes the adapters to a folder, which must exist, in f32; `base` is the model that they were made for, a folder or a
    /// hub name.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save_adapters(
        &self,
        config: &LoraConfig,
        base: &str,
        dir: &Path,
    ) -> Result<(), PolicyError> {
        let targets: Vec<&str> = config.targets.iter().map(|target| target.name()).collect();
        let settings = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
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

    /// What tells a model from another: a hash of each frozen parameter's name and shape and of some of its numbers.
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint {
            path: TensorPath::default(),
            hash: FNV_BASIS,
        };
        self.visit(&mut fingerprint);
        format!("{:016x}", fingerprint.hash)
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
        let path = || PathBuf::from(self.shard.path());
        let Some(info) = self.tensors.remove(name) else {
            return Err(PolicyError::MissingTensor {
                path: path(),
                name: name.into(),
            });
        };
        if info.dtype != Dtype::F32 || info.shape != shape {
            let (found, dtype) = (&info.shape, info.dtype);
            let message = format!(
                "tensor '{name}' is {dtype:?} of shape {found:?}, where the run has f32 of {shape:?}"
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
fn factor_of(path: &str) -> Option<(&str, &'static str)> {
    let of = |end, factor| path.strip_suffix(end).map(|layer| (layer, factor));
    of(".weight.lora.a", "lora_A").or_else(|| of(".weight.lora.b", "lora_B"))
}

/// The 64-bit FNV-1a hash of all that is taken in.
struct Fingerprint {
    path: TensorPath,
    hash: u64,
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

impl Fingerprint {
    fn take(&mut self, bytes: impl IntoIterator<Item = u8>) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

impl ModuleVisitor for Fingerprint {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        /// Numbers of each parameter, evenly spread: another training run has moved all of them.
        const MOST: usize = 256;
        let name = self.path.name();
        if factor_of(&name).is_some() {
            return;
        }
        let weight = param.base().without_autodiff();
        let count = weight.shape().num_elements();
        let step = count.div_ceil(MOST).max(1);
        let places = (0..count).step_by(step);
        let places: Vec<i32> = places
            .map(|place| i32::try_from(place).unwrap_or(i32::MAX))
            .collect();
        let device = weight.device();
        let places = Tensor::<1, Int>::from_data(places.as_slice(), (&device, DType::I32));
        let some = weight.reshape([count]).select(0, places);
        self.take(format!("{name} {:?}", param.lazy_shape().to_vec()).into_bytes());
        self.take(values(some).into_iter().flat_map(f32::to_le_bytes));
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use serde_json::json;

    use super::*;
    use crate::{LoraTarget, ModelConfig, Policy};

    fn model() -> CausalLm {
        drawn(3)
    }

    fn drawn(seed: u64) -> CausalLm {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 11, "hidden_size": 8,
            "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "torch_dtype": "float32",
        });
        let config = ModelConfig::from_json(&config, Path::new("config.json")).unwrap();
        Policy::new(config, None, seed, &Device::flex().autodiff()).model
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
        saved.save_adapters(&config, "here", dir.path()).unwrap();
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

    #[test]
    fn a_fingerprint_is_of_the_weights_beneath() {
        let config = lora(2, &LoraTarget::ALL);
        let fingerprint = model().fingerprint();
        assert_eq!(model().with_lora(&config, 1).fingerprint(), fingerprint);
        assert_ne!(drawn(4).fingerprint(), fingerprint);
    }
}
