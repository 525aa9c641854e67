//! The scale of losses computed in f16 (arXiv 1710.03740).

use serde::{Deserialize, Serialize};

/// Gradients below 6e-8 vanish in f16, and numbers above 65,504 are none: losses are multiplied by a power of two that
/// keeps gradients between, and gradients divided by it again in f32. It falls where a gradient is not finite, and rises
/// after many that were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LossScale {
    exponent: u32,
    updates: u32,
}

/// The first scale's exponent, which is also the largest.
const MOST: u32 = 16;
/// Updates without an overflow after which the scale is doubled.
const PATIENCE: u32 = 256;

impl Default for LossScale {
    fn default() -> Self {
        Self {
            exponent: MOST,
            updates: 0,
        }
    }
}

impl LossScale {
    pub(crate) fn factor(self) -> f64 {
        f64::from(1_u32 << self.exponent.min(MOST))
    }

    /// Halves the scale; `false` where it is 1 already, so that it is not to blame.
    pub(crate) fn lower(&mut self) -> bool {
        self.updates = 0;
        let can = self.exponent > 0;
        self.exponent = self.exponent.saturating_sub(1);
        can
    }

    /// Takes an update down that was made.
    pub(crate) fn note_update(&mut self) {
        self.updates += 1;
        if self.updates >= PATIENCE {
            self.updates = 0;
            self.exponent = (self.exponent + 1).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_at_once_and_rises_with_patience() {
        let mut scale = LossScale::default();
        assert_eq!(scale.factor().to_bits(), 65536.0_f64.to_bits());
        while scale.lower() {}
        assert_eq!(scale.factor().to_bits(), 1.0_f64.to_bits());
        for _ in 0..PATIENCE - 1 {
            scale.note_update();
        }
        assert_eq!(scale.factor().to_bits(), 1.0_f64.to_bits());
        scale.note_update();
        assert_eq!(scale.factor().to_bits(), 2.0_f64.to_bits());
    }
}
