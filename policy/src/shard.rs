//! One safetensors file: its header, believed once it fits the file, and its tensors, read one by one.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use crate::{
    PolicyError,
    files::{self, io},
    weights::invalid,
};

/// Bytes of the header's length.
const LENGTH_BYTES: u64 = 8;
/// As in the format's own library.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Tensors in one file; the largest published models have fewer in all of theirs.
const MAX_TENSORS: usize = 1 << 17;

/// An open file.
#[derive(Debug)]
pub(crate) struct Shard {
    path: PathBuf,
    file: File,
    /// Where the tensors' bytes begin.
    start: u64,
}

impl Shard {
    /// Opens a file and reads what it holds: every tensor lies within it, and every byte belongs to one.
    ///
    /// # Errors
    /// A file that is not safetensors, or not whole.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Vec<(String, TensorInfo)>), PolicyError> {
        let (mut file, bytes) = files::open(&path)?;
        let refuse = |message: String| invalid(&path, &message);
        let Some(after_length) = bytes.checked_sub(LENGTH_BYTES) else {
            let message = format!("has {bytes} bytes, too few for safetensors: it is truncated");
            return Err(refuse(message));
        };
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length).map_err(io(&path))?;
        let length = u64::from_le_bytes(length);
        if length > after_length.min(MAX_HEADER_BYTES) {
            let message = format!(
                "claims a header of {length} bytes where {after_length} follow: it is truncated or not safetensors"
            );
            return Err(refuse(message));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(io(&path))?;
        let Header(tensors) = parse(&header).map_err(refuse)?;
        let end = tensors.last().map_or(0, |(_, info)| info.data_offsets.1);
        let data = after_length - length;
        if end as u64 != data {
            let message = format!("has {data} bytes of tensors where its header tells of {end}");
            return Err(refuse(message));
        }
        let start = LENGTH_BYTES + length;
        Ok((Self { path, file, start }, tensors))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A tensor's values as f32, exactly; its type must be f32, f16 or bf16.
    ///
    /// # Errors
    /// A file that is no longer what its header said, or a value that is not finite.
    pub(crate) fn values(&self, name: &str, info: &TensorInfo) -> Result<Vec<f32>, PolicyError> {
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end - begin];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start + begin as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(io(&self.path))?;
        let values = widen(info.dtype, &bytes);
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        let message = format!(
            "tensor '{name}' holds numbers that are not finite: the weights are damaged, or of a run that diverged"
        );
        Err(invalid(&self.path, &message))
    }
}

/// Whether a tensor is of a type that [`Shard::values`] reads.
pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F16 => bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).into())
            .collect(),
        Dtype::BF16 => bytes
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).into())
            .collect(),
        _ => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    }
}

/// A header's tensors, in the order of their bytes, which have neither gaps nor overlaps.
fn parse(header: &[u8]) -> Result<Header, String> {
    if header.first() != Some(&b'{') {
        return Err("has a header that does not begin with '{'".into());
    }
    let mut header: Header = serde_json::from_slice(header)
        .map_err(|error| format!("has a header that is not one of safetensors: {error}"))?;
    header.0.sort_by_key(|(_, info)| info.data_offsets);
    // It compares each tensor's bytes with its shape and its neighbour.
    Metadata::new(None, header.0.clone()).map_err(|error| format!("has a bad header: {error}"))?;
    Ok(header)
}

/// The tensors of a header as it stands. The library's own type takes the last of two tensors of a name, and all memory
/// for as many as there are.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(M::Error::custom(format!("'{name}' appears twice")));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if tensors.len() == MAX_TENSORS {
                let message = format!("there are more than {MAX_TENSORS} tensors");
                return Err(M::Error::custom(message));
            }
            tensors.push((name, map.next_value()?));
        }
        Ok(Header(tensors))
    }
}
