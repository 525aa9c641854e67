//! Sums and maxima over the units of a cube.

use cubecl::prelude::*;

/// Units of a cube: a power of two that every runtime has.
pub(super) const UNITS: usize = 256;

/// The sum of every unit's value, for every unit.
#[cube]
pub(super) fn sum_of_units(scratch: &mut Shared<[f32]>, value: f32) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    scratch[unit] = value;
    sync_cube();
    let mut stride = (CUBE_DIM / 2) as usize;
    while stride > 0 {
        if unit < stride {
            let other = scratch[unit + stride];
            scratch[unit] += other;
        }
        sync_cube();
        stride /= 2;
    }
    scratch[0]
}

/// The largest of every unit's values, for every unit.
#[cube]
pub(super) fn largest_of_units(scratch: &mut Shared<[f32]>, value: f32) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    scratch[unit] = value;
    sync_cube();
    let mut stride = (CUBE_DIM / 2) as usize;
    while stride > 0 {
        if unit < stride {
            let other = scratch[unit + stride];
            if other > scratch[unit] {
                scratch[unit] = other;
            }
        }
        sync_cube();
        stride /= 2;
    }
    scratch[0]
}

/// As many cubes as there are rows, within what runtimes allow in one dimension: a kernel leaves those beyond.
pub(super) fn cube_for_each(rows: usize) -> CubeCount {
    const MOST: usize = 32_768;
    let columns = rows.clamp(1, MOST);
    CubeCount::Static(columns as u32, rows.div_ceil(columns).max(1) as u32, 1)
}
