//! Which instructions this CPU and its operating system offer.

use std::sync::OnceLock;

use crate::tiles::{Amx, has_amx};

/// The instructions that multiply, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, on every CPU.
    Portable,
    /// AVX2 and FMA: bf16 widened to f32 in registers.
    Avx2,
    /// AVX512-BF16's dot products of pairs.
    Avx512Bf16,
    /// AMX-BF16's tiles.
    Amx,
}

impl Level {
    /// The instructions' name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "plain code",
            Self::Avx2 => "AVX2",
            Self::Avx512Bf16 => "AVX512-BF16",
            Self::Amx => "AMX-BF16",
        }
    }

    /// Whether this CPU has the instructions and the operating system lets us use them.
    pub fn is_available(self) -> bool {
        self <= level() && (self != Self::Avx512Bf16 || avx512_bf16())
    }
}

/// The best level on this machine, detected once.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        if !avx2() {
            Level::Portable
        } else if has_amx(Amx::Bf16) {
            Level::Amx
        } else if avx512_bf16() {
            Level::Avx512Bf16
        } else {
            Level::Avx2
        }
    })
}

#[cfg(target_arch = "x86_64")]
fn avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether the CPU has the AVX-512 instructions that all but the first of its kind have.
#[cfg(target_arch = "x86_64")]
pub(super) fn avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && avx2()
}

#[cfg(target_arch = "x86_64")]
fn avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn avx512_bf16() -> bool {
    false
}
