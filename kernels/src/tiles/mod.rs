//! AMX's tile registers: whether they are there, and their configuration.
#![allow(unsafe_code, reason = "assembly, and a request to the system")]

#[cfg(target_arch = "x86_64")]
mod registers;

#[cfg(target_arch = "x86_64")]
pub(crate) use registers::Registers;

/// What tiles are multiplied as, by the bit of `CPUID` leaf 7 that tells of it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) enum Amx {
    Bf16 = 22,
    Int8 = 25,
}

/// Whether the CPU has these instructions and Linux (5.16 or later) grants this process the tile registers, which it does
/// not save for a process that has not asked.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn has_amx(kind: Amx) -> bool {
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
    const TILE: u32 = 1 << 24;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;

    let asked = TILE | 1 << kind as u32;
    let has = __get_cpuid_max(0).0 >= 7 && __cpuid_count(7, 0).edx & asked == asked;
    // SAFETY: this request takes two integers and touches none of our memory.
    has && unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

/// Elsewhere they are not used.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) fn has_amx(_: Amx) -> bool {
    false
}
