//! Weights to and from the safetensors files of a Hugging Face folder.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Component, Path, PathBuf},
};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    nn::Linear,
    tensor::{DType, Device, Tensor, TensorData},
};
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use crate::{
    CausalLm, PolicyError,
    adapter::factor_of,
    files::read_json,
    model::lora,
    shard::{Shard, is_float},
    tensor_file::{LazyTensor, write_tensors},
};

pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// An entry has a hundred bytes, and no published model half a million of tensors.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Loads a folder's weights into a model, cast to `dtype`.
///
/// # Errors
/// A file missing, truncated or not safetensors; an index or a link that leaves the folder; a tensor missing, of another
/// shape than the configuration's, of a type that is not f32, f16 or bf16, with a number that is not finite, in two
/// files, or one that the configuration has no place for.
pub fn load_weights(model: CausalLm, dir: &Path, dtype: DType) -> Result<CausalLm, PolicyError> {
    let mut expected = Expected::default();
    model.visit(&mut expected);
    let mut shards = Vec::new();
    let mut tensors = Tensors::new();
    for path in weight_files(dir)? {
        let (shard, contents) = Shard::open(path)?;
        for (name, info) in contents {
            let stored = Stored {
                shard: shards.len(),
                info,
            };
            if tensors.insert(name.clone(), stored).is_some() {
                let message = format!("holds the tensor '{name}', which another file has too");
                return Err(invalid(shard.path(), &message));
            }
        }
        shards.push(shard);
    }
    // All that the headers can get wrong is found before any tensor is read.
    expected.check(&tensors, &shards, dir)?;
    expected.check_leftovers(&tensors, &shards)?;
    let mut loader = Loader {
        dtype,
        path: TensorPath::default(),
        tensors,
        shards,
        error: None,
    };
    let model = model.map(&mut loader);
    loader.error.map_or(Ok(model), Err)
}

pub(crate) fn invalid(path: &Path, message: &impl ToString) -> PolicyError {
    PolicyError::InvalidWeights {
        path: path.to_owned(),
        message: message.to_string(),
    }
}

/// The safetensors files of a folder: one, or those that its index names.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, PolicyError> {
    let single = dir.join(SINGLE_FILE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = dir.join(INDEX_FILE);
    if !index.exists() {
        return Err(PolicyError::NotFound {
            path: dir.to_owned(),
            what: format!("{SINGLE_FILE} or {INDEX_FILE}"),
        });
    }
    let names = shards(&index)?;
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// The files that an index names; each must be a plain name, as it becomes a path.
pub(crate) fn shards(index: &Path) -> Result<BTreeSet<String>, PolicyError> {
    let value = read_json(index, MAX_INDEX_BYTES)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| invalid(index, &"has no 'weight_map' object"))?;
    let shard = |name: &Value| {
        let plain = name.as_str().filter(|name| is_plain_file_name(name));
        let message = || format!("names {name}, which is not a file of this folder");
        plain
            .map(str::to_owned)
            .ok_or_else(|| invalid(index, &message()))
    };
    map.values().map(shard).collect()
}

/// Whether a name stays in its folder: no separators, no `..`, no drive, no NUL; and is one of weights.
fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
    plain && name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0'])
}

/// A parameter's place in the module tree, as Hugging Face names it.
#[derive(Debug, Default)]
pub(crate) struct TensorPath {
    names: Vec<String>,
    containers: Vec<String>,
}

impl TensorPath {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        self.names.push(name.into());
        self.containers.push(container.into());
    }

    pub(crate) fn exit(&mut self) {
        self.names.pop();
        self.containers.pop();
    }

    /// `model.layers.0.mlp.up_proj.weight`; burn calls a norm's weight `gamma`.
    pub(crate) fn name(&self) -> String {
        let joined = self.names.join(".");
        match joined.strip_suffix(".gamma") {
            Some(stem) => format!("{stem}.weight"),
            None => joined,
        }
    }

    /// burn keeps linear weights as `[input, output]`, the files as `[output, input]`.
    fn is_transposed(&self, rank: usize) -> bool {
        rank == 2
            && self
                .containers
                .last()
                .is_some_and(|kind| kind == "Struct:Linear")
    }

    fn file_shape(&self, mut shape: Vec<usize>) -> Vec<usize> {
        if self.is_transposed(shape.len()) {
            shape.reverse();
        }
        shape
    }
}

/// The names and shapes that a model asks for.
#[derive(Debug, Default)]
struct Expected {
    path: TensorPath,
    shapes: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for Expected {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = self.path.file_shape(param.lazy_shape().to_vec());
        self.shapes.push((self.path.name(), shape));
    }
}

/// Where a tensor is, and what.
struct Stored {
    /// The place of its file among the model's.
    shard: usize,
    info: TensorInfo,
}

type Tensors = HashMap<String, Stored>;

impl Expected {
    fn check(&self, tensors: &Tensors, shards: &[Shard], dir: &Path) -> Result<(), PolicyError> {
        for (name, shape) in &self.shapes {
            let Stored { shard, info } =
                tensors
                    .get(name)
                    .ok_or_else(|| PolicyError::MissingTensor {
                        path: dir.to_owned(),
                        name: name.clone(),
                    })?;
            let path = shards[*shard].path();
            if info.shape != *shape {
                return Err(PolicyError::TensorShape {
                    path: path.to_owned(),
                    name: name.clone(),
                    expected: shape.clone(),
                    found: info.shape.clone(),
                });
            }
            if !is_float(info.dtype) {
                let message = format!(
                    "tensor '{name}' is {:?}; f32, f16 and bf16 are read",
                    info.dtype
                );
                return Err(invalid(path, &message));
            }
        }
        Ok(())
    }

    /// A tensor without a place means that the weights are another model's, which would run without it, and wrongly.
    fn check_leftovers(&self, tensors: &Tensors, shards: &[Shard]) -> Result<(), PolicyError> {
        let places: HashSet<&str> = self.shapes.iter().map(|(name, _)| name.as_str()).collect();
        let leftover = |name: &&String| !places.contains(name.as_str()) && !is_redundant(name);
        let Some(name) = tensors.keys().filter(leftover).min() else {
            return Ok(());
        };
        let message = format!(
            "holds the tensor '{name}', which config.json has no place for: it describes another model"
        );
        Err(invalid(shards[tensors[name].shard].path(), &message))
    }
}

/// What files hold beside a model's parameters: frequencies that follow from the configuration, and a tied head.
fn is_redundant(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight"
}

/// Replaces each parameter by the files' tensor of its name, one at a time in memory.
struct Loader {
    dtype: DType,
    path: TensorPath,
    tensors: Tensors,
    shards: Vec<Shard>,
    error: Option<PolicyError>,
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
        let Some(stored) = self.tensors.get(&name).filter(|_| self.error.is_none()) else {
            return param;
        };
        match self.shards[stored.shard].values(&name, &stored.info) {
            Ok(values) => {
                let data = TensorData::new(values, stored.info.shape.clone());
                let is_transposed = self.path.is_transposed(D);
                replace(&param, &name, data, self.dtype, is_transposed)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// A module in another type, each of its parameters by itself: not for layers with adapters.
pub(crate) fn cast<M: Module>(module: M, dtype: DType) -> M {
    module.map(&mut Cast(dtype))
}

struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}

/// A parameter with another value, on the same device and tracked where that tracks gradients.
///
/// Its id follows from its name: an optimizer's state is kept by ids, and must find its parameters when both are
/// loaded anew.
pub(crate) fn replace<const D: usize>(
    param: &Param<Tensor<D>>,
    name: &str,
    data: TensorData,
    dtype: DType,
    is_transposed: bool,
) -> Param<Tensor<D>> {
    let device = param.lazy_device();
    let mut tensor = Tensor::<D>::from_data(data, (&device.clone().inner(), dtype));
    if is_transposed {
        tensor = contiguous(tensor.transpose());
    }
    if device.is_autodiff() {
        tensor = Tensor::from_inner(tensor).require_grad();
    }
    Param::initialized(ParamId::from(fnv_1a(name)), tensor)
}

/// A parameter of a module that no file names, f32, with an id that follows from its own name.
pub(crate) fn named_parameter<const D: usize>(
    name: &str,
    data: TensorData,
    device: &Device,
) -> Param<Tensor<D>> {
    let mut tensor = Tensor::<D>::from_data(data, (&device.clone().inner(), DType::F32));
    if device.is_autodiff() {
        tensor = Tensor::from_inner(tensor).require_grad();
    }
    Param::initialized(ParamId::from(fnv_1a(name)), tensor)
}

/// The 64-bit FNV-1a hash, which no release of the standard library changes.
pub(crate) fn fnv_1a(text: &str) -> u64 {
    Fnv1a::default().with(text.bytes()).0
}

/// The same of bytes that come one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fnv1a(pub(crate) u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv1a {
    /// With more bytes at its end.
    pub(crate) fn with(self, bytes: impl IntoIterator<Item = u8>) -> Self {
        let bytes = bytes.into_iter();
        Self(bytes.fold(self.0, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }
}

/// Lays a transposed view out anew, so that products read it in order.
fn contiguous<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let device = tensor.device();
    let dtype = tensor.dtype();
    Tensor::from_data(tensor.into_data(), (&device, dtype))
}

/// The type that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveDtype {
    /// 32 bits: what training keeps, so that a checkpoint loses nothing.
    F32,
    /// bfloat16, rounded to nearest even.
    Bf16,
}

impl SaveDtype {
    /// The name in `config.json`.
    pub fn config_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// Writes a model's weights to `DIR/model.safetensors`, under Hugging Face names and shapes, adapters merged into them.
///
/// # Errors
/// The folder cannot be written.
pub fn save_weights(model: &CausalLm, dir: &Path, dtype: SaveDtype) -> Result<(), PolicyError> {
    let mut collector = Collector {
        dtype,
        path: TensorPath::default(),
        adapted: model.adapted_layers(),
        tensors: Vec::new(),
    };
    model.visit(&mut collector);
    write_tensors(collector.tensors, &dir.join(SINGLE_FILE))
}

/// Gathers every parameter's name and shape, and how to read it.
struct Collector<'a> {
    dtype: SaveDtype,
    path: TensorPath,
    /// Layers with adapters.
    adapted: Vec<(String, &'a Linear)>,
    tensors: Vec<(String, LazyTensor<'a>)>,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.name();
        let stem = name.strip_suffix(".weight");
        let adapted = self
            .adapted
            .iter()
            .find(|(layer, _)| Some(layer.as_str()) == stem);
        let values: Box<dyn Fn() -> Vec<f32>> = match adapted {
            Some(&(_, linear)) => Box::new(|| values(lora::weight(linear).transpose())),
            // It is merged.
            None if factor_of(&name).is_some() => return,
            None => {
                let (param, is_transposed) = (param.clone(), self.path.is_transposed(D));
                Box::new(move || {
                    let value = param.val();
                    values(if is_transposed {
                        value.transpose()
                    } else {
                        value
                    })
                })
            }
        };
        let shape = self.path.file_shape(param.lazy_shape().to_vec());
        let tensor = LazyTensor {
            shape,
            dtype: self.dtype,
            values,
        };
        self.tensors.push((name, tensor));
    }
}

/// A tensor's values on the host.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.iter::<f32>().collect()
}
