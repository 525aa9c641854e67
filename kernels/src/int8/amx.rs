//! The product with AMX-INT8: one instruction multiplies 16 rows by 16 columns, a whole block deep.
//!
//! Both operands lie in memory as tiles are loaded: a block of the right side is a tile, and a block of each of 16 rows
//! another. Blocks have factors of their own, so each block's sums leave the tile for a row of vectors.
#![allow(unsafe_code, reason = "intrinsics and assembly")]

use std::arch::{
    asm,
    x86_64::{
        _mm512_add_epi32, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_load_si512, _mm512_loadu_ps,
        _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    },
};

use super::{
    multiply::{Place, Product, Tiles},
    pack::{LeftBlock, RightBlock},
};
use crate::{PANEL, product::prefetch, tiles::Registers};

/// Does something for each of up to 16 rows, written out: their sums stay in registers.
macro_rules! each_row {
    ($rows:ident, |$row:ident| $body:block) => {
        each_row!($rows, $row, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($rows:ident, $row:ident, $body:block, $($index:literal)+) => {
        $(if $index < $rows {
            let $row = if $index < $rows { $index } else { 0 };
            $body
        })+
    };
}

/// Tiles by AMX.
#[derive(Default)]
pub(super) struct AmxTiles {
    registers: Registers,
    /// A block's sums, and those of the block before, which are still being read.
    sums: [Sums; 2],
}

/// Integer sums of 16 rows in a panel.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Sums([[i32; PANEL]; 16]);

impl Tiles for AmxTiles {
    const ROWS: usize = 16;
    const PANELS: usize = 1;

    #[inline(always)]
    unsafe fn tile(&mut self, product: &Product<'_>, [rows, _]: [usize; 2], place: &Place) {
        macro_rules! rows {
            ($($rows:literal)+) => {
                match rows {
                    $($rows => self.rows::<$rows>(product, place),)+
                    _ => unreachable!("tiles have 1 to {} rows", Self::ROWS),
                }
            };
        }
        // SAFETY: the contract of the trait; the registers are configured for these rows.
        unsafe {
            self.registers.configure(rows);
            rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
        }
    }
}

impl AmxTiles {
    /// `ROWS` rows of a panel.
    ///
    /// # Safety
    /// As [`Tiles::tile`], and the registers must be configured for the rows.
    #[inline(always)]
    unsafe fn rows<const ROWS: usize>(&mut self, product: &Product<'_>, place: &Place) {
        let count = place.blocks.len();
        let first = place.row * place.depth + place.blocks.start;
        let left = &product.rows[first..][..(ROWS - 1) * place.depth + count];
        let right = &product.right.panel(place.panel)[place.blocks.clone()];
        // The panel after this one is fetched from memory meanwhile.
        let next = place.panel + 1;
        let coming = (place.is_first && next < product.right.panels())
            .then(|| &product.right.panel(next)[place.blocks.clone()]);
        // SAFETY: the CPU has AVX-512 (the contract of the trait), here and below.
        let mut sums = unsafe { [_mm512_setzero_ps(); ROWS] };
        each_row!(ROWS, |r| {
            // SAFETY: the caller's promise for these rows.
            unsafe {
                let start = product.start(place, place.row + r, place.panel);
                sums[r] = _mm512_loadu_ps(start.as_ptr());
            }
        });
        // A block's tiles are multiplied while the sums of the block before are added.
        for index in 0..=count {
            if index < count {
                if let Some(coming) = coming {
                    for line in &coming[index].lines {
                        prefetch(&raw const *line);
                    }
                    prefetch(&raw const coming[index].scales);
                }
                let ints = &mut self.sums[index % 2];
                // SAFETY: the rows lie `depth` blocks apart (`left`), the right side and the sums are whole tiles, and the
                // registers are shaped for them.
                unsafe { block(left[index..].as_ptr(), place.depth, &right[index], ints) }
            }
            let Some(before) = index.checked_sub(1) else {
                continue;
            };
            let ints = &self.sums[before % 2].0;
            unsafe {
                let scales = _mm512_loadu_ps(right[before].scales.as_ptr());
                each_row!(ROWS, |r| {
                    // SAFETY: `left` reaches to the last row's last block.
                    let left = left.get_unchecked(r * place.depth + before);
                    let raised = _mm512_load_si512(ints[r].as_ptr().cast());
                    let exact = _mm512_add_epi32(raised, _mm512_set1_epi32(left.start));
                    let factor = _mm512_mul_ps(scales, _mm512_set1_ps(left.scale));
                    sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), factor, sums[r]);
                });
            }
        }
        each_row!(ROWS, |r| {
            let mut edge = [0.0_f32; PANEL];
            // SAFETY: the caller's promise for these rows.
            unsafe {
                _mm512_storeu_ps(edge.as_mut_ptr(), sums[r]);
                let cells = product.cells(place.row + r, place.panel);
                cells.copy_from_slice(&edge[..cells.len()]);
            }
        });
    }
}

/// A block's integer sums, with the right side's raise in them.
///
/// # Safety
/// The registers must be configured for the rows, whose blocks lie `depth` apart from `left` on.
#[inline(always)]
unsafe fn block(left: *const LeftBlock, depth: usize, right: &RightBlock, sums: &mut Sums) {
    // SAFETY: the caller's promise. The left side's bytes are signed, the right side's are not.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm4, [{left} + {stride}*1]",
            "tileloadd tmm5, [{right} + {line}*1]",
            "tdpbsud tmm0, tmm4, tmm5",
            "tilestored [{sums} + {line}*1], tmm0",
            left = in(reg) &raw const (*left).quads,
            stride = in(reg) depth * size_of::<LeftBlock>(),
            right = in(reg) right.lines.as_ptr(),
            sums = in(reg) sums.0.as_mut_ptr(),
            line = in(reg) 64_usize,
            out("tmm0") _, out("tmm4") _, out("tmm5") _,
            options(nostack, preserves_flags),
        );
    }
}
