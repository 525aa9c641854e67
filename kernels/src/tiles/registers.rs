//! The registers' shapes.

use std::arch::asm;

/// Rows of a tile.
const ROWS: usize = 16;

/// The tile registers as a call has configured them, given back when dropped.
#[derive(Default)]
pub(crate) struct Registers {
    /// Rows of the left operand that they are configured for; 0 before the first time.
    rows: usize,
}

/// `LDTILECFG`'s operand.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Registers {
    /// Shapes the registers for 1 to 32 rows: up to 16, registers 0 to 3 are sums, 4 the left and
    /// 5 to 7 the right operand; above, 0 and 1 are the first 16 rows' sums, 2 and 3 the others',
    /// 4 and 5 the left and 6 and 7 the right operand.
    ///
    /// # Safety
    /// The CPU must have AMX, granted by the operating system.
    pub(crate) unsafe fn configure(&mut self, rows: usize) {
        if self.rows == rows {
            return;
        }
        self.rows = rows;
        let first = rows.min(ROWS) as u8;
        let second = rows.saturating_sub(ROWS) as u8;
        let mut shapes = [first, first, first, first, first, 16, 16, 16];
        if second > 0 {
            shapes = [first, first, second, second, first, second, 16, 16];
        }
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..8].copy_from_slice(&shapes);
        // SAFETY: the caller's promise; the operand is 64 bytes of a valid palette-1 configuration.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &raw const configuration,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        if self.rows > 0 {
            // SAFETY: they were configured, so the CPU has the instruction.
            unsafe {
                asm!(
                    "tilerelease",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nomem, nostack, preserves_flags),
                );
            }
        }
    }
}
