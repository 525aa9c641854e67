//! A right-hand matrix in any precision.

use rayon::prelude::*;

use crate::{
    Packed, PackedBf16, PackedInt8, Start, View, bf16, general, int8, matrix::PANEL, multiply,
    multiply_shared,
};

/// What products round their operands to; sums are f32 in both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compute {
    /// To nothing: operands are f32.
    #[default]
    F32,
    /// To bf16, by AMX or AVX512-BF16 where the CPU has them.
    Bf16,
}

/// What a packed matrix, and what it is multiplied with, are rounded to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Packing {
    /// Not rounded: f32.
    #[default]
    F32,
    /// To bf16.
    Bf16,
    /// To eight bits with a factor for every 64 numbers, for generation alone: by AMX or AVX512-VNNI where the CPU has them.
    Int8,
}

impl From<Compute> for Packing {
    fn from(compute: Compute) -> Self {
        match compute {
            Compute::F32 => Self::F32,
            Compute::Bf16 => Self::Bf16,
        }
    }
}

/// A packed right-hand matrix `[k, n]`.
#[derive(Debug, Clone)]
pub enum Weight {
    /// In f32.
    F32(Packed),
    /// Rounded to bf16, in half the memory.
    Bf16(PackedBf16),
    /// Rounded to eight bits, in little more than a quarter of it.
    Int8(PackedInt8),
}

/// Rows of a product that one thread computes at a time.
const ROWS: usize = 96;

impl Weight {
    /// Packs a matrix.
    pub fn new(view: View<'_>, packing: impl Into<Packing>) -> Self {
        match packing.into() {
            Packing::F32 => Self::F32(Packed::new(view)),
            Packing::Bf16 => Self::Bf16(PackedBf16::new(view)),
            Packing::Int8 => Self::Int8(PackedInt8::new(view)),
        }
    }

    /// Packs matrices that the same left side is multiplied with: as one where the columns of all but the last
    /// fill whole panels; else as several.
    ///
    /// # Panics
    /// If there is none, or their rows differ.
    pub fn beside(views: &[View<'_>], packing: impl Into<Packing>) -> Vec<Self> {
        assert!(!views.is_empty(), "no matrices to pack");
        let packing = packing.into();
        let mut before = views.iter().take(views.len().saturating_sub(1));
        if !before.all(|view| view.columns.is_multiple_of(PANEL)) {
            return views.iter().map(|&view| Self::new(view, packing)).collect();
        }
        vec![match packing {
            Packing::F32 => Self::F32(Packed::beside(views)),
            Packing::Bf16 => Self::Bf16(PackedBf16::beside(views)),
            Packing::Int8 => Self::Int8(PackedInt8::beside(views)),
        }]
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::F32(packed) => packed.dims(),
            Self::Bf16(packed) => [packed.k(), packed.n()],
            Self::Int8(packed) => [packed.k(), packed.n()],
        }
    }

    /// `c = a·b` or `c += a·b` on the calling thread, as [`multiply`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn multiply(&self, a: View<'_>, c: &mut [f32], c_stride: usize, start: Start) {
        match self {
            Self::F32(packed) => multiply(a, packed.panels(), c, c_stride, start),
            Self::Bf16(packed) => bf16::multiply(a, packed, c, c_stride, start == Start::Existing),
            Self::Int8(packed) => int8::multiply(a, packed, c, c_stride, start),
        }
    }

    /// The same with the columns split among rayon's threads.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn multiply_shared(&self, a: View<'_>, c: &mut [f32], c_stride: usize, start: Start) {
        match self {
            Self::F32(packed) => multiply_shared(a, packed.panels(), c, c_stride, start),
            Self::Bf16(packed) => {
                bf16::multiply_shared(a, packed, c, c_stride, start == Start::Existing);
            }
            Self::Int8(packed) => int8::multiply_shared(a, packed, c, c_stride, start),
        }
    }
}

/// `c = a·b` or `c += a·b` on all threads for operands that are used once, `c` without gaps.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(compute: Compute, a: View<'_>, b: View<'_>, c: &mut [f32], start: Start) {
    let ([rows, depth], [_, columns]) = (a.dims(), b.dims());
    if compute == Compute::F32 {
        return general(a, b, c, columns, start);
    }
    let packed = PackedBf16::new(b);
    assert_eq!(
        c.len(),
        rows * columns,
        "[{rows}, {columns}] in {} elements",
        c.len()
    );
    c.par_chunks_mut(ROWS * columns)
        .enumerate()
        .for_each(|(chunk, c)| {
            let first = chunk * ROWS;
            let part = a.part(first..first + c.len() / columns, 0..depth);
            bf16::multiply(part, &packed, c, columns, start == Start::Existing);
        });
}
