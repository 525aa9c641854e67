//! Which operations a pass uses: burn's, which every device has, or kernels of our own where the device runs them.

use burn::{
    nn::RmsNorm,
    tensor::{Device, IndexingUpdateOp, Int, Tensor, activation::silu},
};

#[cfg(feature = "cube")]
use super::cube;
use super::{
    attention::attend,
    rope::{Rotation, Visibility},
};

/// Burn's operations or our kernels: the same figures to rounding, and the same gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operations {
    /// Burn's, on every device.
    Plain,
    /// Ours, on GPUs: one pass over memory for each, sums in f32 whatever the tensors hold.
    #[cfg(feature = "cube")]
    Kernels,
}

impl Operations {
    /// The fastest that a device has.
    pub fn of(device: &Device) -> Self {
        #[cfg(feature = "cube")]
        if cube::runs_on(device) {
            return Self::Kernels;
        }
        let _ = device;
        Self::Plain
    }

    /// x / rms(x) · γ over the last dimension (arXiv 1910.07467).
    pub fn rms_norm<const D: usize>(self, norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Plain => norm.forward(x),
            #[cfg(feature = "cube")]
            Self::Kernels => cube::rms_norm(x, norm.gamma.val(), norm.epsilon),
        }
    }

    /// silu(gate)·up (arXiv 2002.05202).
    ///
    /// # Shapes
    /// Two tensors of one shape.
    pub fn swiglu<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Plain => silu(gate) * up,
            #[cfg(feature = "cube")]
            Self::Kernels => cube::swiglu(gate, up),
        }
    }

    /// Rotary positions.
    ///
    /// # Shapes
    /// `[batch, length, heads, head_dim]` to `[batch, heads, length, head_dim]`.
    pub fn rotate(self, x: Tensor<4>, rotation: &Rotation) -> Tensor<4> {
        match self {
            Self::Plain => rotation.apply(x.swap_dims(1, 2)),
            #[cfg(feature = "cube")]
            Self::Kernels => {
                let (cos, sin) = rotation.angles();
                cube::rotate(x, cos, sin).swap_dims(1, 2)
            }
        }
    }

    /// `rows` in the places `slots` of `target`, in place where nothing else holds it; kernels give no gradient. Of rows with
    /// one place any one stays.
    ///
    /// # Shapes
    /// `target` `[places, width]`, `slots` `[rows]`, `rows` `[rows, width]`.
    pub fn write_rows(
        self,
        target: Tensor<2>,
        slots: Tensor<1, Int>,
        rows: Tensor<2>,
    ) -> Tensor<2> {
        match self {
            Self::Plain => target.select_assign(0, slots, rows, IndexingUpdateOp::Assign),
            #[cfg(feature = "cube")]
            Self::Kernels => cube::write_rows(target, slots, rows),
        }
    }

    /// The same of integers.
    pub fn write_int_rows(
        self,
        target: Tensor<2, Int>,
        slots: Tensor<1, Int>,
        rows: Tensor<2, Int>,
    ) -> Tensor<2, Int> {
        match self {
            Self::Plain => target.select_assign(0, slots, rows, IndexingUpdateOp::Assign),
            #[cfg(feature = "cube")]
            Self::Kernels => cube::write_int_rows(target, slots, rows),
        }
    }

    /// softmax(q·kᵀ/√d)·v over the keys that each query sees. Of single queries a row, kernels give no gradient.
    ///
    /// # Shapes
    /// `query` `[batch, heads, length, head_dim]`, `key` and `value` `[batch, groups, keys, head_dim]` to
    /// `[batch, length, heads · head_dim]`.
    pub fn attend(
        self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        visibility: &Visibility,
    ) -> Tensor<3> {
        let [batch, heads, length, head_dim] = query.dims();
        match self {
            #[cfg(feature = "cube")]
            Self::Kernels if length == 1 && cube::takes_head(head_dim) => {
                let (keys, queries, window) = visibility.of_single_queries();
                let query = query.reshape([batch, heads, head_dim]);
                let mixed = cube::decode_attention(query, [key, value], keys, queries, window);
                mixed.reshape([batch, 1, heads * head_dim])
            }
            _ => {
                let mixed = attend(query, key, value, visibility);
                debug_assert_eq!(mixed.dims(), [batch, length, heads * head_dim]);
                mixed
            }
        }
    }
}
