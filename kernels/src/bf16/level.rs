//! Which instructions this CPU and its operating system offer.

use std::sync::OnceLock;

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
        } else if amx() {
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

/// Whether the CPU has AMX-BF16 and Linux (5.16 or later) grants this process the tile registers,
/// which it does not save for a process that has not asked.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx() -> bool {
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;

    let has = __get_cpuid_max(0).0 >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE;
    // SAFETY: this request takes two integers and touches none of our memory.
    has && unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn amx() -> bool {
    false
}
