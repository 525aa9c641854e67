//! A look through a GGUF header before it is believed: every count, length and offset must fit the file.
//!
//! The reader behind it divides by the file's own alignment and allocates by its own counts.

use std::{
    collections::HashSet,
    io::{self, BufReader, Read, Seek},
};

/// Metadata values in all; they take up to 32 bytes each in memory, whatever they take in the file.
const MAX_VALUES: u64 = 1 << 22;
/// Tensors, and metadata entries.
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_NAME_BYTES: u64 = 1 << 10;
const MAX_ELEMENTS: u64 = 1 << 44;
const MAX_ALIGNMENT: u64 = 1 << 16;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;

const TYPE_U32: u32 = 4;
const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;

/// Checks a whole header; `size_bytes` is the file's size. The message says what is wrong.
pub(super) fn check<R: Read + Seek>(
    reader: &mut BufReader<R>,
    size_bytes: u64,
) -> Result<(), String> {
    let mut header = Header {
        reader,
        position: 0,
        size_bytes,
        values: 0,
    };
    header.magic_and_version()?;
    let tensors = header.count("tensors")?;
    let entries = header.count("metadata entries")?;
    let alignment = header.metadata(entries)?;
    let extents = header.tensors(tensors, alignment)?;
    let start = header.position.next_multiple_of(alignment);
    check_extents(extents, start, size_bytes)
}

struct Header<'a, R> {
    reader: &'a mut BufReader<R>,
    position: u64,
    size_bytes: u64,
    values: u64,
}

/// Where a tensor's bytes lie, from the start of the data.
struct Extent {
    offset: u64,
    length: u64,
    name: String,
}

impl<R: Read + Seek> Header<'_, R> {
    fn magic_and_version(&mut self) -> Result<(), String> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err("not a GGUF file: it does not begin with 'GGUF'".into());
        }
        match self.u32()? {
            2 | 3 => Ok(()),
            version if version.swap_bytes() <= 3 => Err("big-endian files are not read".into()),
            version => Err(format!("GGUF version {version} is not read; 2 and 3 are")),
        }
    }

    fn count(&mut self, what: &str) -> Result<u64, String> {
        let count = self.u64()?;
        let left = self.size_bytes - self.position;
        if count > MAX_ENTRIES || count > left {
            return Err(format!("claims {count} {what} in {left} bytes"));
        }
        Ok(count)
    }

    /// Walks the metadata and returns the alignment of the data.
    fn metadata(&mut self, entries: u64) -> Result<u64, String> {
        let mut alignment = DEFAULT_ALIGNMENT;
        let mut keys = HashSet::new();
        for _ in 0..entries {
            let key = self.name("key")?;
            let kind = self.u32()?;
            if key == "general.alignment" {
                alignment = self.alignment(kind)?;
            } else {
                self.value(kind)
                    .map_err(|message| format!("key '{key}': {message}"))?;
            }
            if !keys.insert(key.clone()) {
                return Err(format!("key '{key}' appears twice"));
            }
        }
        Ok(alignment)
    }

    fn alignment(&mut self, kind: u32) -> Result<u64, String> {
        let value = if kind == TYPE_U32 {
            u64::from(self.u32()?)
        } else {
            0
        };
        if value.is_power_of_two() && value <= MAX_ALIGNMENT {
            return Ok(value);
        }
        Err(format!(
            "general.alignment must be a power of two up to {MAX_ALIGNMENT}"
        ))
    }

    fn value(&mut self, kind: u32) -> Result<(), String> {
        match kind {
            TYPE_STRING => self.string(),
            TYPE_ARRAY => self.array(),
            scalar => self.scalars(scalar, 1),
        }
    }

    fn array(&mut self) -> Result<(), String> {
        let kind = self.u32()?;
        let length = self.u64()?;
        match kind {
            TYPE_ARRAY => Err("arrays of arrays are not read".into()),
            TYPE_STRING => {
                self.charge(length)?;
                (0..length).try_for_each(|_| self.string())
            }
            scalar => self.scalars(scalar, length),
        }
    }

    fn scalars(&mut self, kind: u32, count: u64) -> Result<(), String> {
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            TYPE_U32 | 5 | 6 => 4,
            10..=12 => 8,
            other => return Err(format!("unknown value type {other}")),
        };
        self.charge(count)?;
        self.skip(count.saturating_mul(width))
    }

    fn charge(&mut self, values: u64) -> Result<(), String> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES {
            return Err(format!("the metadata has more than {MAX_VALUES} values"));
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        let length = self.u64()?;
        self.skip(length)
    }

    fn tensors(&mut self, count: u64, alignment: u64) -> Result<Vec<Extent>, String> {
        let mut names = HashSet::new();
        let mut extents = Vec::new();
        for _ in 0..count {
            let name = self.name("tensor name")?;
            let extent = self.tensor(name.clone(), alignment);
            extents.push(extent.map_err(|message| format!("tensor '{name}': {message}"))?);
            if !names.insert(name.clone()) {
                return Err(format!("tensor '{name}' appears twice"));
            }
        }
        Ok(extents)
    }

    fn tensor(&mut self, name: String, alignment: u64) -> Result<Extent, String> {
        let rank = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&rank) {
            return Err(format!("has {rank} dimensions"));
        }
        let dims = (0..rank)
            .map(|_| self.u64())
            .collect::<Result<Vec<u64>, String>>()?;
        let elements = dims
            .iter()
            .try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        let elements = elements
            .filter(|elements| (1..=MAX_ELEMENTS).contains(elements))
            .ok_or_else(|| format!("has the shape {dims:?}"))?;
        let (block_elements, block_bytes) = block(self.u32()?)?;
        if !dims[0].is_multiple_of(block_elements) {
            return Err(format!(
                "rows of {} are not whole blocks of {block_elements}",
                dims[0]
            ));
        }
        let offset = self.u64()?;
        if !offset.is_multiple_of(alignment) {
            return Err(format!(
                "the offset {offset} is not a multiple of {alignment}"
            ));
        }
        Ok(Extent {
            offset,
            length: elements / block_elements * block_bytes,
            name,
        })
    }

    fn name(&mut self, what: &str) -> Result<String, String> {
        let length = self.u64()?;
        if length > MAX_NAME_BYTES {
            return Err(format!("a {what} claims {length} bytes"));
        }
        let mut bytes = vec![0; length as usize];
        self.advance(length)?;
        self.reader
            .read_exact(&mut bytes)
            .map_err(|error| truncated(&error))?;
        String::from_utf8(bytes).map_err(|_| format!("a {what} is not UTF-8"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.advance(N as u64)?;
        self.reader
            .read_exact(&mut bytes)
            .map_err(|error| truncated(&error))?;
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> Result<(), String> {
        self.advance(length)?;
        self.reader
            .seek_relative(length as i64)
            .map_err(|error| truncated(&error))
    }

    /// Moves past `length` bytes, which the file must have.
    fn advance(&mut self, length: u64) -> Result<(), String> {
        let left = self.size_bytes - self.position;
        if length > left {
            return Err(format!(
                "the header claims {length} bytes where {left} are left"
            ));
        }
        self.position += length;
        Ok(())
    }
}

fn truncated(error: &io::Error) -> String {
    format!("the header ends early: {error}")
}

/// Elements and bytes of a block of a GGML type.
fn block(kind: u32) -> Result<(u64, u64), String> {
    match kind {
        0 => Ok((1, 4)),
        1 | 30 => Ok((1, 2)),
        2 => Ok((32, 18)),
        3 => Ok((32, 20)),
        6 => Ok((32, 22)),
        7 => Ok((32, 24)),
        8 => Ok((32, 34)),
        10 => Ok((256, 84)),
        11 => Ok((256, 110)),
        12 => Ok((256, 144)),
        13 => Ok((256, 176)),
        14 => Ok((256, 210)),
        other => Err(format!(
            "GGML type {other} is not read; F32, F16, BF16, Q4_0 to Q8_0 and Q2_K to Q6_K are"
        )),
    }
}

/// Every tensor lies within the file, and no two share bytes, so that little data cannot stand for much.
fn check_extents(mut extents: Vec<Extent>, start: u64, size_bytes: u64) -> Result<(), String> {
    extents.sort_by_key(|extent| extent.offset);
    let mut free = start;
    for Extent {
        offset,
        length,
        name,
    } in extents
    {
        let begin = start.saturating_add(offset);
        let end = begin.saturating_add(length);
        if begin < free {
            return Err(format!("tensor '{name}' shares bytes with another"));
        }
        if end > size_bytes {
            return Err(format!(
                "tensor '{name}' ends at byte {end} of a file of {size_bytes}: it is truncated"
            ));
        }
        free = end;
    }
    Ok(())
}
