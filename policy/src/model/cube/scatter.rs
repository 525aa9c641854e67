//! Rows of one tensor written into another: how new keys and values get into the cache.

use burn::backend::TensorMetadata;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{calculate_cube_count_elemwise, ir::ElemType, prelude::*};

use super::element;

/// `target[slots[row], column] = rows[row, column]`, a unit for each element. Burn's own operation, which also adds up what
/// falls into one place, has a unit for each column alone.
#[cube(launch)]
fn write_rows_kernel<N: Numeric>(
    target: &mut Tensor<N>,
    slots: &Tensor<i32>,
    rows: &Tensor<N>,
    count: u32,
    #[comptime] width: usize,
    #[define(N)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= count as usize {
        terminate!();
    }
    let slot = slots[at / width] as usize;
    target[slot * width + at % width] = rows[at];
}

/// Writes `rows` `[count, width]` to places of `target` `[slots, width]`, in place where nothing else holds it. Of rows
/// with one place any one stays.
pub(super) fn write_rows(target: CubeTensor, slots: CubeTensor, rows: CubeTensor) -> CubeTensor {
    let target = if target.can_mut() {
        target
    } else {
        target.copy()
    };
    // The kernel writes packed tensors; what is packed already stays where it is.
    let [target, slots, rows] = [target, slots, rows].map(into_contiguous);
    let [_, width] = target.shape().dims::<2>();
    let count = rows.shape().num_elements();
    if count == 0 {
        return target;
    }
    let dim = CubeDim::new(&target.client, count);
    write_rows_kernel::launch(
        &target.client.clone(),
        calculate_cube_count_elemwise(&target.client, count, dim),
        dim,
        target.clone().into_tensor_arg(),
        slots.into_tensor_arg(),
        rows.into_tensor_arg(),
        count as u32,
        width,
        element(target.dtype),
    );
    target
}
