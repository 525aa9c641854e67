//! Writing safetensors, one tensor in memory at a time.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    fs::{self, File},
    path::Path,
};

use half::bf16;
use safetensors::{Dtype, SafeTensorError, View};

use crate::{PolicyError, SaveDtype, weights::invalid};

/// A tensor whose values are made when it is written.
pub(crate) struct LazyTensor<'a> {
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: SaveDtype,
    /// As many as the shape has, row-major.
    pub(crate) values: Box<dyn Fn() -> Vec<f32> + 'a>,
}

impl fmt::Debug for LazyTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LazyTensor({:?}, {:?})", self.shape, self.dtype)
    }
}

impl View for LazyTensor<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            SaveDtype::F32 => Dtype::F32,
            SaveDtype::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = (self.values)().into_iter();
        match self.dtype {
            SaveDtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
            SaveDtype::Bf16 => values
                .flat_map(|x| bf16::from_f32(x).to_le_bytes())
                .collect(),
        }
    }

    fn data_len(&self) -> usize {
        let width = match self.dtype {
            SaveDtype::F32 => 4,
            SaveDtype::Bf16 => 2,
        };
        self.shape.iter().product::<usize>() * width
    }
}

/// Writes tensors, in the order that their names have, to a file that transformers opens.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_tensors<'a>(
    tensors: impl IntoIterator<Item = (String, LazyTensor<'a>)>,
    path: &Path,
) -> Result<(), PolicyError> {
    // transformers refuses files without this mark of their layout.
    let mark = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let io = |source| PolicyError::Io {
        path: path.to_owned(),
        source,
    };
    // The library makes files that only their owner reads; this one shall have the folder's usual mode.
    let permissions = File::create(path)
        .and_then(|file| file.metadata())
        .map_err(io)?
        .permissions();
    safetensors::serialize_to_file(tensors, Some(mark), path).map_err(|error| match error {
        SafeTensorError::IoError(source) => io(source),
        error => invalid(path, &error),
    })?;
    fs::set_permissions(path, permissions).map_err(io)
}
