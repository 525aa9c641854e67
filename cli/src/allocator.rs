//! The C allocator's settings: the one place with `unsafe` in this crate.

/// Keeps freed memory in the process.
///
/// Tensor operations allocate and free megabytes at a time. By default glibc asks the system for each such block
/// anew, and the page faults cost more than the arithmetic of a small model.
pub(crate) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc();
}

/// Gives free pages back, now and then, where the next faults cost nothing beside what was just done: kept memory that is
/// in pieces would else be joined by more of it, whenever a block fits none of them.
pub(crate) fn release_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(
        unsafe_code,
        reason = "malloc_trim is a C function without a safe wrapper"
    )]
    // SAFETY: malloc_trim takes the allocator's own locks, and touches no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    tracing::debug!(in_use_bytes = in_use_bytes());
}

/// What the program holds of the heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(
    unsafe_code,
    reason = "mallinfo2 is a C function without a safe wrapper"
)]
fn in_use_bytes() -> usize {
    // SAFETY: mallinfo2 takes the allocator's own locks, and gives figures alone.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "mallopt is a C function without a safe wrapper")]
fn glibc() {
    // Larger blocks, which large models alone have, would tear the heap up where small ones fill their gaps.
    const MMAP_BYTES: libc::c_int = 1 << 24;
    // SAFETY: mallopt only stores the setting; it is called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        // One arena, so that what one thread frees another can use.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
