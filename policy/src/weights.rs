//! Weights to and from the safetensors files of a Hugging Face folder.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Component, Path, PathBuf},
};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{DType, Device, Tensor, TensorData},
};
use half::bf16;
use safetensors::{
    Dtype,
    tensor::{TensorInfo, TensorView},
};
use serde_json::Value;

use crate::{CausalLm, PolicyError, files::read_json, shard::Shard};

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
            if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
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

impl CausalLm {
    /// The same weights in another type. Where they track gradients, so does the cast: the gradient of what is
    /// computed from it arrives at the original, in the original's type.
    #[must_use]
    pub fn cast(self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            return self;
        }
        cast(self, dtype)
    }
}

/// A part of a model in another type, as [`CausalLm::cast`] does it.
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
fn fnv_1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
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

/// Writes a model's weights to `DIR/model.safetensors`, under Hugging Face names and shapes.
///
/// # Errors
/// The folder cannot be written.
pub fn save_weights(model: &CausalLm, dir: &Path, dtype: SaveDtype) -> Result<(), PolicyError> {
    let mut collector = Collector {
        dtype,
        path: TensorPath::default(),
        tensors: Vec::new(),
    };
    model.visit(&mut collector);
    let views = collector.tensors.iter().map(|(name, shape, bytes)| {
        let dtype = match dtype {
            SaveDtype::F32 => Dtype::F32,
            SaveDtype::Bf16 => Dtype::BF16,
        };
        TensorView::new(dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let path = dir.join(SINGLE_FILE);
    let views = views
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid(&path, &error))?;
    // transformers refuses files without this mark of their layout.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| invalid(&path, &e))?;
    std::fs::write(&path, bytes).map_err(|source| PolicyError::Io { path, source })
}

/// Gathers every parameter's name, shape and bytes.
struct Collector {
    dtype: SaveDtype,
    path: TensorPath,
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let value = if self.path.is_transposed(D) {
            value.transpose()
        } else {
            value
        };
        let shape = value.dims().to_vec();
        let data = value.into_data().convert::<f32>();
        let values = data.iter::<f32>();
        let bytes = match self.dtype {
            SaveDtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
            SaveDtype::Bf16 => values
                .flat_map(|x| bf16::from_f32(x).to_le_bytes())
                .collect(),
        };
        self.tensors.push((self.path.name(), shape, bytes));
    }
}
