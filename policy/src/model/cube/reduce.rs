//! Sums and maxima: over the units of a cube, and over rows.

#![allow(
    missing_docs,
    reason = "the module that the macro makes beside a public function has none"
)]

use burn::{backend::TensorMetadata, tensor::DType};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{
    client::Client,
    ir::{ElemType, features::Plane},
    prelude::*,
};

use super::{element, empty};

/// Units of a cube: a power of two that every runtime has.
pub const UNITS: usize = 256;

/// The sum of every unit's value, for every unit of a cube with as much scratch. For kernels of other crates too.
#[cube]
pub fn sum_of_units(scratch: &mut Shared<[f32]>, value: f32) -> f32 {
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

/// Less than any score that means something, and the largest of none.
pub(super) const NOTHING: f32 = -1e30;

/// Units of a plane, whose units read each other's registers; 0 where planes cannot be counted on.
pub(super) fn plane_size(client: &Client) -> usize {
    let properties = client.properties();
    let hardware = &properties.hardware;
    let is_known = hardware.plane_size_min == hardware.plane_size_max;
    if properties.features.plane.contains(Plane::Ops) && is_known {
        hardware.plane_size_min as usize
    } else {
        0
    }
}

/// Units that go over one line together: a plane, of which a cube has several, or else a whole cube.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Team {
    pub(super) lanes: usize,
    is_plane: bool,
}

impl Team {
    /// The team for lines of so many parts.
    pub(super) fn new(client: &Client, parts: usize) -> Self {
        match plane_size(client) {
            size @ 8.. if UNITS.is_multiple_of(size) => Self {
                lanes: size,
                is_plane: true,
            },
            _ => Self {
                lanes: parts.next_power_of_two().clamp(32, UNITS),
                is_plane: false,
            },
        }
    }

    /// Units of a cube.
    pub(super) fn units(self) -> usize {
        if self.is_plane { UNITS } else { self.lanes }
    }

    /// Cubes for so many lines.
    pub(super) fn cubes(self, lines: usize) -> CubeCount {
        cube_for_each(lines.div_ceil(self.units() / self.lanes))
    }
}

/// Elements that a unit reads at once of rows of `width`: as many as the device reads best, of those that divide it.
pub(super) fn vector_size(client: &Client, dtype: DType, width: usize) -> usize {
    const MOST: usize = 8;
    client
        .properties()
        .io_optimized_vector_sizes(dtype.size())
        .filter(|size| *size <= MOST && width.is_multiple_of(*size))
        .max()
        .unwrap_or(1)
}

/// A tensor's last dimension: the vectors that a line of it lies in, the elements of each, and the team that goes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Line {
    pub(super) vectors: usize,
    pub(super) vector: usize,
    pub(super) team: Team,
}

impl Line {
    pub(super) fn new(x: &CubeTensor) -> Self {
        let shape = x.shape();
        let width = shape[shape.num_dims() - 1];
        let vector = vector_size(&x.client, x.dtype, width);
        Self {
            vectors: width / vector,
            vector,
            team: Team::new(&x.client, width / vector),
        }
    }
}

/// The line of a unit's team.
#[cube]
pub(super) fn team_of_unit(#[comptime] team: Team) -> usize {
    CUBE_POS * comptime!(team.units() / team.lanes) + UNIT_POS as usize / team.lanes
}

/// A unit's place in its team.
#[cube]
pub(super) fn lane_of_unit(#[comptime] team: Team) -> usize {
    UNIT_POS as usize % team.lanes
}

/// The sum of a team's values, for each of its units.
#[cube]
pub(super) fn sum_of_team(scratch: &mut Shared<[f32]>, value: f32, #[comptime] team: Team) -> f32 {
    if comptime!(team.is_plane) {
        sum_of_lanes(value, team.lanes)
    } else {
        sum_of_units(scratch, value)
    }
}

/// The largest of a team's values, for each of its units.
#[cube]
pub(super) fn largest_of_team(
    scratch: &mut Shared<[f32]>,
    value: f32,
    #[comptime] team: Team,
) -> f32 {
    if comptime!(team.is_plane) {
        let mut largest = value;
        #[unroll]
        for halving in 0..comptime!(team.lanes.ilog2()) {
            let other = plane_shuffle_xor(largest, comptime!(1u32 << halving));
            if other > largest {
                largest = other;
            }
        }
        largest
    } else {
        largest_of_units(scratch, value)
    }
}

/// The sum over neighbouring units of a plane, a power of two of them, for each of them.
#[cube]
pub(super) fn sum_of_lanes(value: f32, #[comptime] lanes: usize) -> f32 {
    let mut sum = value;
    #[unroll]
    for halving in 0..comptime!(lanes.ilog2()) {
        sum += plane_shuffle_xor(sum, comptime!(1u32 << halving));
    }
    sum
}

/// Rows that a cube sums: few enough that many cubes have work.
const ROWS: usize = 64;

/// Sums of runs of rows, a unit for each column.
#[cube(launch)]
fn sum_rows_kernel<F: Float>(
    x: &Tensor<F>,
    sums: &mut Tensor<f32>,
    rows: u32,
    columns_of_cubes: u32,
    runs: u32,
    #[comptime] width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let run = CUBE_POS / columns_of_cubes as usize;
    let column = CUBE_POS % columns_of_cubes as usize * UNITS + UNIT_POS as usize;
    if run >= runs as usize || column >= width {
        terminate!();
    }
    let mut end = (run + 1) * ROWS;
    if end > rows as usize {
        end = rows as usize;
    }
    let mut sum = 0.0f32;
    for row in run * ROWS..end {
        sum += f32::cast_from(x[row * width + column]);
    }
    sums[run * width + column] = sum;
}

/// The sums `[width]` in f32 of the columns of `[rows, width]`: runs of rows first, then runs of runs. Burn's own reduction
/// has a unit for each column alone, which goes over all rows.
pub(super) fn sum_rows(x: CubeTensor) -> CubeTensor {
    let mut x = into_contiguous(x);
    let [mut rows, width] = x.shape().dims::<2>();
    loop {
        let runs = rows.div_ceil(ROWS).max(1);
        let columns = width.div_ceil(UNITS);
        let sums = empty(&x, [runs, width].into(), DType::F32);
        sum_rows_kernel::launch(
            &x.client.clone(),
            cube_for_each(runs * columns),
            CubeDim::new_1d(UNITS as u32),
            x.clone().into_tensor_arg(),
            sums.clone().into_tensor_arg(),
            rows as u32,
            columns as u32,
            runs as u32,
            width,
            element(x.dtype),
        );
        (x, rows) = (sums, runs);
        if rows == 1 {
            return x;
        }
    }
}
