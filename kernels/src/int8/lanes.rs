//! Which instructions multiply eight-bit numbers on this CPU, and what they do for a panel's 16 columns.
// The kernels are intrinsics; what they call must be compiled with their instructions.
#![allow(unsafe_code, reason = "intrinsics")]

use std::sync::OnceLock;

use crate::PANEL;
#[cfg(target_arch = "x86_64")]
use crate::tiles::{Amx, has_amx};

/// The instructions that multiply eight-bit numbers, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Int8Level {
    /// Plain Rust, on every CPU.
    Portable,
    /// AVX2: pairs of products in 16 bits, widened.
    Avx2,
    /// AVX512-VNNI's sums of four products.
    Avx512Vnni,
    /// AMX-INT8's tiles.
    Amx,
}

impl Int8Level {
    /// The instructions' name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "plain code",
            Self::Avx2 => "AVX2",
            Self::Avx512Vnni => "AVX512-VNNI",
            Self::Amx => "AMX-INT8",
        }
    }

    /// Whether this CPU has the instructions.
    pub fn is_available(self) -> bool {
        self <= int8_level()
    }
}

/// The best level on this machine, detected once.
pub fn int8_level() -> Int8Level {
    static LEVEL: OnceLock<Int8Level> = OnceLock::new();
    *LEVEL.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Int8Level {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        Int8Level::Portable
    } else if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")) {
        Int8Level::Avx2
    } else if has_amx(Amx::Int8) {
        Int8Level::Amx
    } else {
        Int8Level::Avx512Vnni
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Int8Level {
    Int8Level::Portable
}

/// A panel's 16 sums.
///
/// # Safety
/// Each function must be called where the CPU has the implementation's instructions, and is fast where its caller is
/// compiled for them.
pub(super) trait Lanes {
    /// Integer sums of a block.
    type Ints: Copy;
    /// Sums of blocks.
    type Floats: Copy;
    /// Most rows of a tile, at [`PANELS`](Self::PANELS) panels, whose sums fit the registers.
    const ROWS: usize;
    /// Panels of a tile.
    const PANELS: usize;

    /// What a block's sums start from.
    unsafe fn start(start: i32) -> Self::Ints;
    /// Adds four products to each column's sum.
    unsafe fn dot(sums: Self::Ints, line: &[u32; PANEL], quad: u32) -> Self::Ints;
    /// `sums + (scales * scale) * ints`, the latter product and the sum rounded once.
    unsafe fn add(
        sums: Self::Floats,
        ints: Self::Ints,
        scales: &[f32; PANEL],
        scale: f32,
    ) -> Self::Floats;
    unsafe fn load(cells: &[f32; PANEL]) -> Self::Floats;
    unsafe fn store(sums: Self::Floats) -> [f32; PANEL];
}

/// Plain Rust, which every other level is tested against.
pub(super) struct Plain;

impl Lanes for Plain {
    type Ints = [i32; PANEL];
    type Floats = [f32; PANEL];
    const ROWS: usize = 2;
    const PANELS: usize = 1;

    #[inline(always)]
    unsafe fn start(start: i32) -> [i32; PANEL] {
        [start; PANEL]
    }

    #[inline(always)]
    unsafe fn dot(mut sums: [i32; PANEL], line: &[u32; PANEL], quad: u32) -> [i32; PANEL] {
        let [a, b, c, d] = quad.to_le_bytes().map(|x| i32::from(x.cast_signed()));
        for (sum, &raised) in sums.iter_mut().zip(line) {
            let byte = |place: u32| (raised >> (8 * place) & 0xff).cast_signed();
            *sum += a * byte(0) + b * byte(1) + c * byte(2) + d * byte(3);
        }
        sums
    }

    #[inline(always)]
    unsafe fn add(
        mut sums: [f32; PANEL],
        ints: [i32; PANEL],
        scales: &[f32; PANEL],
        scale: f32,
    ) -> [f32; PANEL] {
        for ((sum, int), column) in sums.iter_mut().zip(ints).zip(scales) {
            *sum = (int as f32).mul_add(column * scale, *sum);
        }
        sums
    }

    #[inline(always)]
    unsafe fn load(cells: &[f32; PANEL]) -> [f32; PANEL] {
        *cells
    }

    #[inline(always)]
    unsafe fn store(sums: [f32; PANEL]) -> [f32; PANEL] {
        sums
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Vnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m256i, __m512, __m512i, _mm256_abs_epi8, _mm256_add_epi32, _mm256_cvtepi32_ps,
        _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi16,
        _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_sign_epi8,
        _mm256_xor_si256, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_mul_ps,
        _mm512_set1_epi32, _mm512_set1_ps,
    };
    use std::mem::transmute;

    use super::{Lanes, PANEL};

    /// AVX2 and FMA. Two registers a panel.
    pub(in super::super) struct Avx2;

    impl Lanes for Avx2 {
        type Ints = [__m256i; 2];
        type Floats = [__m256; 2];
        const ROWS: usize = 3;
        const PANELS: usize = 1;

        #[inline(always)]
        unsafe fn start(_: i32) -> [__m256i; 2] {
            // SAFETY: the contract of the trait, here and below. The raise is taken out before the product.
            unsafe { [_mm256_setzero_si256(); 2] }
        }

        #[inline(always)]
        unsafe fn dot(sums: [__m256i; 2], line: &[u32; PANEL], quad: u32) -> [__m256i; 2] {
            unsafe {
                let lines = transmute::<[u32; PANEL], [__m256i; 2]>(*line);
                let left = _mm256_set1_epi32(quad.cast_signed());
                let raised = _mm256_set1_epi32(super::super::pack::RAISED.cast_signed());
                let mut sums = sums;
                for (sum, line) in sums.iter_mut().zip(lines) {
                    let right = _mm256_xor_si256(line, raised);
                    // |right| · (left · sign of right): two products of at most 127² each fit 16 bits.
                    let pairs =
                        _mm256_maddubs_epi16(_mm256_abs_epi8(right), _mm256_sign_epi8(left, right));
                    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                    *sum = _mm256_add_epi32(*sum, fours);
                }
                sums
            }
        }

        #[inline(always)]
        unsafe fn add(
            sums: [__m256; 2],
            ints: [__m256i; 2],
            scales: &[f32; PANEL],
            scale: f32,
        ) -> [__m256; 2] {
            unsafe {
                let scales = transmute::<[f32; PANEL], [__m256; 2]>(*scales);
                let mut sums = sums;
                for ((sum, ints), scales) in sums.iter_mut().zip(ints).zip(scales) {
                    let factor = _mm256_mul_ps(scales, _mm256_set1_ps(scale));
                    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(ints), factor, *sum);
                }
                sums
            }
        }

        #[inline(always)]
        unsafe fn load(cells: &[f32; PANEL]) -> [__m256; 2] {
            unsafe { transmute::<[f32; PANEL], [__m256; 2]>(*cells) }
        }

        #[inline(always)]
        unsafe fn store(sums: [__m256; 2]) -> [f32; PANEL] {
            unsafe { transmute::<[__m256; 2], [f32; PANEL]>(sums) }
        }
    }

    /// AVX-512 with VNNI. One register a panel.
    pub(in super::super) struct Vnni;

    impl Lanes for Vnni {
        type Ints = __m512i;
        type Floats = __m512;
        const ROWS: usize = 6;
        const PANELS: usize = 2;

        #[inline(always)]
        unsafe fn start(start: i32) -> __m512i {
            // SAFETY: the contract of the trait, here and below.
            unsafe { _mm512_set1_epi32(start) }
        }

        #[inline(always)]
        unsafe fn dot(sums: __m512i, line: &[u32; PANEL], quad: u32) -> __m512i {
            unsafe {
                let line = transmute::<[u32; PANEL], __m512i>(*line);
                _mm512_dpbusd_epi32(sums, line, _mm512_set1_epi32(quad.cast_signed()))
            }
        }

        #[inline(always)]
        unsafe fn add(sums: __m512, ints: __m512i, scales: &[f32; PANEL], scale: f32) -> __m512 {
            unsafe {
                let scales = transmute::<[f32; PANEL], __m512>(*scales);
                let factor = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(ints), factor, sums)
            }
        }

        #[inline(always)]
        unsafe fn load(cells: &[f32; PANEL]) -> __m512 {
            unsafe { transmute::<[f32; PANEL], __m512>(*cells) }
        }

        #[inline(always)]
        unsafe fn store(sums: __m512) -> [f32; PANEL] {
            unsafe { transmute::<__m512, [f32; PANEL]>(sums) }
        }
    }
}
