//! Matrix products: which kernel multiplies what.

use burn::{
    backend::{TensorMetadata, ops::FloatTensorOps},
    tensor::DType,
};
use burn_cubecl::{
    CubeBackend, CubeDevice,
    kernel::{
        into_contiguous,
        matmul::{MatmulStrategy, matmul},
    },
    tensor::CubeTensor,
};
use cubecl::{
    ir::{ElemType, FloatKind, features::MmaConfig},
    prelude::*,
};
use cubek::{
    matmul::{
        definition::{MatmulElems, MatmulGlobalElems},
        launch::launch_ref,
        multi_level::{
            Strategy as MultiLevel,
            components::tile::TileMatmulKind,
            routines::batch::{
                double_buffering::DoubleBufferingArgs,
                ordered_double_buffering::OrderedSelectionArgs, simple::SimpleArgs,
                simple_unit::SimpleUnitSelectionArgs,
            },
        },
        routine::BlueprintStrategy,
        strategy::Strategy,
    },
    std::InputBinding,
};

use super::{
    element, empty,
    head::cast,
    reduce::{cube_for_each, sum_rows},
};

/// A product of matrices, or of as many pairs of them, summed in f32 and given in `dtype`.
pub(super) fn product(lhs: CubeTensor, rhs: CubeTensor, dtype: DType) -> CubeTensor {
    let (of_lhs, of_rhs) = (lhs.shape(), rhs.shape());
    let last = of_lhs.num_dims() - 1;
    assert!(
        of_lhs[..last - 1] == of_rhs[..last - 1] && of_lhs[last] == of_rhs[last - 1],
        "a product of {of_lhs:?} and {of_rhs:?}"
    );
    let mut shape = of_lhs;
    shape[last] = of_rhs[last];
    // Packed: what comes after reads it as it is.
    let out = empty(&lhs, shape, dtype);
    if lhs.dtype == DType::F32 {
        // The library's own choice rounds f32 to 10 binary digits where the device has units for such products. A size that the
        // exact kernel would refuse still has that one.
        let exact = MultiLevel::SimpleUnit(BlueprintStrategy::Inferred(
            SimpleUnitSelectionArgs::default(),
        ));
        if launch(exact, &lhs, &rhs, &out) {
            return out;
        }
    } else if let Some(plan) = Skinny::new(&lhs, &rhs) {
        return multiply_skinny(lhs, rhs, out, plan);
    } else if has_matrix_units(&lhs) && launch(fastest(&out), &lhs, &rhs, &out) {
        return out;
    }
    matmul(lhs, rhs, Some(out), MatmulStrategy::default(), dtype)
        .expect("a product of matrices has a kernel on every device")
}

/// Each matrix transposed, as a view.
pub(super) fn transposed(x: CubeTensor) -> CubeTensor {
    let last = x.shape().num_dims() - 1;
    CubeBackend::float_swap_dims(x, last - 1, last)
}

/// xᵀ·dy, `[inputs, outputs]`, of `[rows, inputs]` and `[rows, outputs]`, or of as many pairs of them: the gradient of a weight.
/// Few results over many rows would leave most of a device idle, so parts of the rows have sums of their own, which are
/// then added in order.
pub(super) fn weight_gradient(x: CubeTensor, dy: CubeTensor) -> CubeTensor {
    let dtype = x.dtype;
    let parts = match x.shape().num_dims() {
        2 => parts_of(x.shape().dims(), dy.shape()[1]),
        _ => 1,
    };
    if parts == 1 {
        return product(transposed(x), dy, dtype);
    }
    let [rows, inputs] = x.shape().dims();
    let [_, outputs] = dy.shape().dims::<2>();
    let cut = |x: CubeTensor, width| {
        CubeBackend::float_reshape(into_contiguous(x), [parts, rows / parts, width].into())
    };
    let sums = product(transposed(cut(x, inputs)), cut(dy, outputs), DType::F32);
    let sums = CubeBackend::float_reshape(sums, [parts, inputs * outputs].into());
    let whole = CubeBackend::float_reshape(sum_rows(sums), [inputs, outputs].into());
    cast(whole, dtype)
}

/// Into how many parts rows are cut: so many that each of a large device's processors has results to compute.
fn parts_of([rows, inputs]: [usize; 2], outputs: usize) -> usize {
    /// Results that a cube computes together, and cubes that a large device has at work.
    const TILE: [usize; 2] = [128, 64];
    const CUBES: usize = 264;
    const LEAST_ROWS: usize = 512;
    let cubes = inputs.div_ceil(TILE[0]) * outputs.div_ceil(TILE[1]);
    let halvings = (0..5).take_while(|halvings| {
        let parts = 2 << halvings;
        (cubes << halvings) < CUBES && rows % parts == 0 && rows / parts >= LEAST_ROWS
    });
    1 << halvings.count()
}

/// The library's kernel for a product in half precision, by its result: those that an H100 was fastest with, at the sizes of
/// decoding, prefill and updates.
fn fastest(out: &CubeTensor) -> MultiLevel {
    const MANY_COLUMNS: usize = 32_768;
    const MANY_ROWS: usize = 768;
    let shape = out.shape();
    let dims = shape.num_dims();
    let (rows, columns) = (shape[dims - 2], shape[dims - 1]);
    let tile_matmul = TileMatmulKind::Mma;
    if dims > 2 || (rows < MANY_ROWS && columns >= MANY_COLUMNS) {
        MultiLevel::SimpleCyclicMma(BlueprintStrategy::Inferred(SimpleArgs {
            multi_rows: false,
            tile_matmul,
        }))
    } else if rows >= MANY_ROWS {
        MultiLevel::OrderedDoubleMma(BlueprintStrategy::Inferred(OrderedSelectionArgs {
            partition_k: Some(2),
            row_count: Some(8),
            rows_per_plane: Some(2),
            tile_matmul,
        }))
    } else {
        MultiLevel::DoubleCyclicMma(BlueprintStrategy::Inferred(DoubleBufferingArgs {
            specialized: false,
            tile_matmul,
        }))
    }
}

/// Whether the device has units for products of matrices of this type with sums in f32.
fn has_matrix_units(x: &CubeTensor) -> bool {
    // CubeCL 0.11 notes of these units on AMD's devices that their results are wrong, and names them all the same.
    if matches!(x.device, CubeDevice::Hip(_)) {
        return false;
    }
    let of_type = element(x.dtype);
    let matmul = &x.client.properties().features.matmul;
    let mut forms = matmul.mma.iter();
    forms.any(|form| form.a_type == of_type && form.cd_type == ElemType::Float(FloatKind::F32))
}

/// Whether one of the library's kernels takes the operands; then the product is in `out`.
fn launch(strategy: MultiLevel, lhs: &CubeTensor, rhs: &CubeTensor, out: &CubeTensor) -> bool {
    let [of_lhs, of_rhs, of_out] = [lhs, rhs, out].map(|tensor| element(tensor.dtype));
    let mut elements = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: of_lhs,
        rhs: of_rhs,
        out: of_out,
    });
    launch_ref(
        &Strategy::MultiLevel(strategy),
        &out.client,
        InputBinding::new(lhs.clone().binding(), of_lhs),
        InputBinding::new(rhs.clone().binding(), of_rhs),
        out.clone().binding(),
        &mut elements,
    )
    .is_ok()
}

/// Rows, columns and depth of a product that a plane computes at once.
const SIDE: usize = 16;
/// Cells of such a product.
const CELLS: usize = SIDE * SIDE;
/// Units of a plane.
const PLANE: usize = 32;
/// The most rows for which it pays that every cube reads all of them.
const MOST_ROWS: usize = 512;

/// A product of few rows, as in decoding. Its cubes are small, since there are few results, and their planes share the sum
/// over the depth, so that the weights are read by as many units as the device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Skinny {
    depth: usize,
    columns: usize,
    /// Sides that a cube computes at once.
    down: usize,
    across: usize,
    planes: usize,
    /// Whether the right side lies transposed: the elements of a column beside each other.
    is_transposed: bool,
}

impl Skinny {
    /// How a device computes a product of this kind; nothing for others, and where it has no units for them.
    fn new(lhs: &CubeTensor, rhs: &CubeTensor) -> Option<Self> {
        if lhs.shape().num_dims() != 2 || rhs.shape().num_dims() != 2 || lhs.dtype != rhs.dtype {
            return None;
        }
        let [rows, depth] = lhs.shape().dims::<2>();
        let [_, columns] = rhs.shape().dims::<2>();
        let is_small = rows <= MOST_ROWS && [rows, depth, columns].iter().all(|n| n % SIDE == 0);
        let strides = rhs.meta.strides();
        let (is_transposed, stride) = match (strides[0], strides[1]) {
            (stride, 1) => (false, stride),
            (1, stride) => (true, stride),
            _ => return None,
        };
        let properties = lhs.client.properties();
        let config = MmaConfig {
            a_type: element(lhs.dtype),
            b_type: element(lhs.dtype),
            cd_type: ElemType::Float(FloatKind::F32),
            m: SIDE as u32,
            n: SIDE as u32,
            k: SIDE as u32,
        };
        let hardware = &properties.hardware;
        let planes = [hardware.plane_size_min, hardware.plane_size_max];
        let has_units = properties.features.matmul.cmma.contains(&config)
            && planes.iter().all(|&size| size as usize == PLANE);
        if !is_small || !has_units || stride % 8 != 0 {
            return None;
        }
        let down = [4, 3, 2, 1]
            .into_iter()
            .find(|down| rows % (down * SIDE) == 0)?;
        Some(Self {
            depth,
            columns,
            down,
            across: if columns >= 4096 && columns % (2 * SIDE) == 0 {
                2
            } else {
                1
            },
            planes: if depth >= 2048 { 16 } else { 8 },
            is_transposed,
        })
    }
}

#[cube(launch)]
fn skinny_kernel<F: Float, O: Float>(
    lhs: &[F],
    rhs: &[F],
    out: &mut [O],
    count: u32,
    stride: u32,
    #[comptime] plan: Skinny,
    #[define(F, O)] _dtypes: [ElemType; 2],
) {
    let mut shared = Shared::<[f32]>::new_slice(comptime!(plan.planes * plan.across * CELLS));
    if CUBE_POS >= count as usize {
        terminate!();
    }
    let depth = comptime!(plan.depth);
    let down = comptime!(plan.down);
    let across = comptime!(plan.across);
    let layout = comptime!(if plan.is_transposed {
        cmma::MatrixLayout::ColMajor
    } else {
        cmma::MatrixLayout::RowMajor
    });
    let plane = UNIT_POS_Y as usize;
    let blocks = comptime!(plan.columns / (plan.across * SIDE));
    let column = CUBE_POS % blocks * comptime!(plan.across * SIDE);
    let row = CUBE_POS / blocks * comptime!(plan.down * SIDE);
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(plan.down * plan.across) {
        sums.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            SIDE,
            SIDE,
            SIDE,
            cmma::MatrixLayout::Undefined,
            0.0f32,
        ));
    }
    // Neighbouring planes take neighbouring parts of the depth.
    let mut part = plane;
    while part < comptime!(plan.depth / SIDE) {
        let k = part * SIDE;
        let mut weights = Sequence::<cmma::Matrix<F>>::new();
        #[unroll]
        for c in 0..across {
            let at = column + c * SIDE;
            let mut start = k * stride as usize + at;
            if comptime!(plan.is_transposed) {
                start = at * stride as usize + k;
            }
            weights.push(cmma::Matrix::<F>::from_slice(
                cmma::MatrixIdent::B,
                SIDE,
                SIDE,
                SIDE,
                layout,
                &rhs[start..rhs.len()],
                stride,
            ));
        }
        #[unroll]
        for r in 0..down {
            let start = (row + r * SIDE) * depth + k;
            let x = cmma::Matrix::<F>::from_slice(
                cmma::MatrixIdent::A,
                SIDE,
                SIDE,
                SIDE,
                cmma::MatrixLayout::RowMajor,
                &lhs[start..lhs.len()],
                depth as u32,
            );
            #[unroll]
            for c in 0..across {
                let sum = sums.index(r * across + c);
                cmma::execute(&x, weights.index(c), sum, sum);
            }
        }
        part += plan.planes;
    }
    let unit = plane * PLANE + UNIT_POS_X as usize;
    #[unroll]
    for r in 0..down {
        sync_cube();
        #[unroll]
        for c in 0..across {
            let start = (plane * across + c) * CELLS;
            cmma::store(
                &mut shared[start..start + CELLS],
                sums.index(r * across + c),
                SIDE as u32,
                cmma::MatrixLayout::RowMajor,
            );
        }
        sync_cube();
        let mut cell = unit;
        while cell < across * CELLS {
            let mut sum = 0.0f32;
            for p in 0..plan.planes {
                sum += shared[p * across * CELLS + cell];
            }
            let side = cell / CELLS;
            let line = cell % CELLS / SIDE;
            let at = column + side * SIDE + cell % SIDE;
            out[(row + r * SIDE + line) * plan.columns + at] = O::cast_from(sum);
            cell += comptime!(plan.planes * PLANE);
        }
    }
}

fn multiply_skinny(lhs: CubeTensor, rhs: CubeTensor, out: CubeTensor, plan: Skinny) -> CubeTensor {
    let lhs = into_contiguous(lhs);
    let [rows, _] = lhs.shape().dims::<2>();
    let strides = rhs.meta.strides();
    let stride = if plan.is_transposed {
        strides[1]
    } else {
        strides[0]
    };
    let cubes = rows / (plan.down * SIDE) * (plan.columns / (plan.across * SIDE));
    let dtypes = [lhs.dtype, out.dtype].map(element);
    skinny_kernel::launch(
        &lhs.client.clone(),
        cube_for_each(cubes),
        CubeDim::new_2d(PLANE as u32, plan.planes as u32),
        lhs.into_buffer_arg(),
        rhs.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        cubes as u32,
        stride as u32,
        plan,
        dtypes,
    );
    out
}
