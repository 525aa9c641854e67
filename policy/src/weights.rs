//! Weights to and from the safetensors files of a Hugging Face folder.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Component, Path, PathBuf},
};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{DType, Device, Tensor, TensorData},
};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

use crate::{CausalLm, PolicyError};

pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Loads a folder's weights into a model, cast to `dtype`.
///
/// # Errors
/// A file missing, truncated or not safetensors; an index that leaves the folder; a tensor missing, of another shape
/// than the configuration's, of a type that is not f32, f16 or bf16, or one that the configuration has no place for.
pub fn load_weights(model: CausalLm, dir: &Path, dtype: DType) -> Result<CausalLm, PolicyError> {
    let files = weight_files(dir)?;
    let mut loader = Loader {
        dtype,
        path: TensorPath::default(),
        file: None,
        error: None,
    };
    let mut expected = Expected::default();
    model.visit(&mut expected);
    let mut buffers = Vec::with_capacity(files.len());
    for file in &files {
        let io = |source| PolicyError::Io {
            path: file.clone(),
            source,
        };
        buffers.push((file.as_path(), std::fs::read(file).map_err(io)?));
    }
    let mut tensors = HashMap::new();
    for (file, bytes) in &buffers {
        let parsed = SafeTensors::deserialize(bytes).map_err(|error| invalid(file, &error))?;
        for (name, view) in parsed.tensors() {
            tensors.insert(name, (*file, view));
        }
    }
    expected.check(&tensors, dir)?;
    expected.check_leftovers(&tensors)?;
    loader.file = Some(&tensors);
    let model = model.map(&mut loader);
    loader.error.map_or(Ok(model), Err)
}

fn invalid(path: &Path, message: &impl ToString) -> PolicyError {
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
    let text = std::fs::read_to_string(index).map_err(|source| PolicyError::Io {
        path: index.to_owned(),
        source,
    })?;
    let value: Value = serde_json::from_str(&text).map_err(|source| PolicyError::InvalidJson {
        path: index.to_owned(),
        source,
    })?;
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

type Tensors<'a> = HashMap<String, (&'a Path, TensorView<'a>)>;

impl Expected {
    fn check(&self, tensors: &Tensors<'_>, dir: &Path) -> Result<(), PolicyError> {
        for (name, shape) in &self.shapes {
            let (path, view) = tensors
                .get(name)
                .ok_or_else(|| PolicyError::MissingTensor {
                    path: dir.to_owned(),
                    name: name.clone(),
                })?;
            if view.shape() != shape {
                return Err(PolicyError::TensorShape {
                    path: path.to_path_buf(),
                    name: name.clone(),
                    expected: shape.clone(),
                    found: view.shape().to_vec(),
                });
            }
            if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let message = format!(
                    "tensor '{name}' is {:?}; f32, f16 and bf16 are read",
                    view.dtype()
                );
                return Err(invalid(path, &message));
            }
        }
        Ok(())
    }

    /// A tensor without a place means that the weights are another model's, which would run without it, and wrongly.
    fn check_leftovers(&self, tensors: &Tensors<'_>) -> Result<(), PolicyError> {
        let places: HashSet<&str> = self.shapes.iter().map(|(name, _)| name.as_str()).collect();
        let leftover = |name: &&String| !places.contains(name.as_str()) && !is_redundant(name);
        let Some(name) = tensors.keys().filter(leftover).min() else {
            return Ok(());
        };
        let message = format!(
            "holds the tensor '{name}', which config.json has no place for: it describes another model"
        );
        Err(invalid(tensors[name].0, &message))
    }
}

/// What files hold beside a model's parameters: frequencies that follow from the configuration, and a tied head.
fn is_redundant(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight"
}

/// Replaces each parameter by the file's tensor of its name.
struct Loader<'a> {
    dtype: DType,
    path: TensorPath,
    file: Option<&'a Tensors<'a>>,
    error: Option<PolicyError>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let Some((_, view)) = self.file.and_then(|tensors| tensors.get(&name)) else {
            return param;
        };
        let data = TensorData::new(widen(view), view.shape().to_vec());
        let is_transposed = self.path.is_transposed(D);
        replace(&param, &name, data, self.dtype, is_transposed)
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

/// A tensor's values as f32, exactly.
fn widen(view: &TensorView<'_>) -> Vec<f32> {
    let data = view.data();
    match view.dtype() {
        Dtype::F16 => data
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).into())
            .collect(),
        Dtype::BF16 => data
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).into())
            .collect(),
        _ => data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    }
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
