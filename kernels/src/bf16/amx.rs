//! The product with AMX-BF16: one instruction multiplies 16 rows by 16 columns, 32 deep.
//!
//! In assembly, since the intrinsics are unstable. Intel Architectures Optimization Reference
//! Manual, chapter "Intel AMX": 2 by 2 tiles of sums, each loaded tile used twice.

use std::arch::asm;
use std::ops::Range;

use super::PANEL_COLUMNS;
use super::multiply::{Block, Output, row_group};
use super::pack::{LANES, Tile};
use crate::tiles::Registers;

/// Multiplies the block's packed rows with full panels.
///
/// # Safety
/// The block's rows at `out` must be ours to read and write for the width of the panels, and the
/// CPU must have AMX-BF16, granted by the operating system.
pub(super) unsafe fn run(block: &Block, rows: &[Tile], panels: Range<usize>, out: Output) {
    if block.depth_tiles.is_empty() {
        // SAFETY: the caller's promise.
        return unsafe { empty_sum(block, panels.len(), out) };
    }
    let group = if block.rows <= LANES { 4 } else { 2 };
    let mut registers = Registers::default();
    let mut panel = panels.start;
    while panel < panels.end {
        let left_over = panels.end - panel;
        let width = if left_over >= group {
            group
        } else {
            left_over.min(3) / 2 + 1
        };
        let step = if group == 2 && width == 2 {
            2 * LANES
        } else {
            LANES
        };
        for row in (0..block.rows).step_by(step) {
            let count = (block.rows - row).min(step);
            let out = out.at(row, (panel - panels.start) * PANEL_COLUMNS);
            let left = |group: usize| row_group(rows, row / LANES + group, block).as_ptr();
            let right = |index: usize| block.panel(panel + index).as_ptr();
            let place = Place {
                out,
                depth_tiles: block.depth_tiles.len(),
                block,
            };
            // SAFETY: the registers are configured for `count` rows; the pointers start runs of
            // `depth_tiles` tiles; the sums are ours by the caller's promise.
            unsafe {
                registers.configure(count);
                match (count > LANES, width) {
                    (true, _) => two_by_two([left(0), left(1)], [right(0), right(1)], place),
                    (_, 4) => one_by_four(left(0), [right(0), right(1), right(2), right(3)], place),
                    (_, 2) => one_by_two(left(0), [right(0), right(1)], place),
                    _ => one_by_one(left(0), [right(0)], place),
                }
            }
        }
        panel += width;
    }
}

/// Writes the zeros of a sum over nothing.
///
/// # Safety
/// As for [`run`].
unsafe fn empty_sum(block: &Block, panels: usize, out: Output) {
    for row in 0..if block.accumulate { 0 } else { block.rows } {
        for panel in 0..panels {
            // SAFETY: the caller's promise.
            unsafe {
                out.at(row, panel * PANEL_COLUMNS)
                    .store([0.0; PANEL_COLUMNS]);
            };
        }
    }
}

/// Where the sums go and how many tiles deep they are, at least one.
#[derive(Clone, Copy)]
struct Place<'a> {
    out: Output,
    depth_tiles: usize,
    block: &'a Block<'a>,
}

impl Place<'_> {
    fn stride_bytes(self) -> usize {
        self.out.row_stride * size_of::<f32>()
    }
}

/// Up to 32 rows by 2 panels.
///
/// # Safety
/// The registers must be configured for these rows, more than 16; `left` and `right` must start
/// runs of `place.depth_tiles` tiles; the rows at `place.out` must be ours for 2 panels' width.
unsafe fn two_by_two(left: [*const Tile; 2], right: [*const Tile; 2], place: Place) {
    // SAFETY: the caller's promise; the loop reads `depth_tiles` tiles from each pointer.
    unsafe {
        asm!(
            "test {accumulate}, {accumulate}",
            "jz 2f",
            "tileloadd tmm0, [{upper} + {stride}*1]",
            "tileloadd tmm1, [{upper} + {stride}*1 + 64]",
            "tileloadd tmm2, [{lower} + {stride}*1]",
            "tileloadd tmm3, [{lower} + {stride}*1 + 64]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "tileloadd tmm4, [{left0} + {line}*1]",
            "tileloadd tmm6, [{right0} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right1} + {line}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{left1} + {line}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left0}, 1024",
            "add {left1}, 1024",
            "add {right0}, 1024",
            "add {right1}, 1024",
            "dec {depth}",
            "jnz 3b",
            "tilestored [{upper} + {stride}*1], tmm0",
            "tilestored [{upper} + {stride}*1 + 64], tmm1",
            "tilestored [{lower} + {stride}*1], tmm2",
            "tilestored [{lower} + {stride}*1 + 64], tmm3",
            accumulate = in(reg) u64::from(place.block.accumulate),
            upper = in(reg) place.out.start,
            lower = in(reg) place.out.at(LANES, 0).start,
            stride = in(reg) place.stride_bytes(),
            line = in(reg) 64_usize,
            left0 = inout(reg) left[0] => _,
            left1 = inout(reg) left[1] => _,
            right0 = inout(reg) right[0] => _,
            right1 = inout(reg) right[1] => _,
            depth = inout(reg) place.depth_tiles => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// A kernel of up to 16 rows by some panels: for each, its index, offset in bytes, register of
/// sums and register of the right operand.
macro_rules! one_row_of_tiles {
    ($name:ident, $panels:literal: $($index:literal $bytes:literal $sums:literal $tile:literal
      $right:ident),+) => {
        #[doc = concat!("Up to 16 rows by ", $panels, " panels.")]
        ///
        /// # Safety
        /// As for [`two_by_two`], with at most 16 rows and as many panels.
        unsafe fn $name(left: *const Tile, right: [*const Tile; $panels], place: Place) {
            // SAFETY: the caller's promise; the loop reads `depth_tiles` tiles from each pointer.
            unsafe {
                asm!(
                    "test {accumulate}, {accumulate}",
                    "jz 2f",
                    $(concat!("tileloadd ", $sums, ", [{out} + {stride}*1 + ", $bytes, "]"),)+
                    "jmp 3f",
                    "2:",
                    $(concat!("tilezero ", $sums),)+
                    "3:",
                    "tileloadd tmm4, [{left} + {line}*1]",
                    "add {left}, 1024",
                    $(
                        concat!("tileloadd ", $tile, ", [{", stringify!($right), "} + {line}*1]"),
                        concat!("tdpbf16ps ", $sums, ", tmm4, ", $tile),
                        concat!("add {", stringify!($right), "}, 1024"),
                    )+
                    "dec {depth}",
                    "jnz 3b",
                    $(concat!("tilestored [{out} + {stride}*1 + ", $bytes, "], ", $sums),)+
                    accumulate = in(reg) u64::from(place.block.accumulate),
                    out = in(reg) place.out.start,
                    stride = in(reg) place.stride_bytes(),
                    line = in(reg) 64_usize,
                    left = inout(reg) left => _,
                    $($right = inout(reg) right[$index] => _,)+
                    depth = inout(reg) place.depth_tiles => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

one_row_of_tiles!(one_by_one, 1: 0 0 "tmm0" "tmm5" right0);
one_row_of_tiles!(one_by_two, 2: 0 0 "tmm0" "tmm5" right0, 1 64 "tmm1" "tmm6" right1);
one_row_of_tiles!(one_by_four, 4:
    0 0 "tmm0" "tmm5" right0, 1 64 "tmm1" "tmm6" right1,
    2 128 "tmm2" "tmm7" right2, 3 192 "tmm3" "tmm5" right3);
