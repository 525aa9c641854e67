//! Attention's kernels: the weights of keys with their gradient, and one new token a row over the cache.

use burn::backend::TensorMetadata;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::ElemType, prelude::*};

use super::{
    element, like,
    reduce::{
        Line, NOTHING, Team, UNITS, cube_for_each, lane_of_unit, largest_of_team, plane_size,
        sum_of_lanes, sum_of_team, team_of_unit, vector_size,
    },
};

/// Query heads of one group that a cube goes through the cache with: the more, the fewer times it is read, and the more
/// registers it takes.
const MOST_HEADS: usize = 8;

/// Scores that a cube holds at once, and cells of what its units sum in the end.
const CELLS: usize = 2048;

/// The sizes of decoding's kernel, known when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    groups: usize,
    /// Query heads of a cube, all of one group, and as many cubes to a group.
    heads: usize,
    blocks: usize,
    head_dim: usize,
    /// Elements that a unit reads at once.
    vector: usize,
    /// Units that share a key: a power of two, those beyond the head's vectors idle.
    lanes: usize,
    /// Keys that the cube reads at once, and those whose scores it holds at once.
    keys: usize,
    tile: usize,
    /// Of what units sum into for each lane: padded so that units beside each other use other banks.
    stride: usize,
    /// Whether the lanes of a key lie in one plane, whose units read each other's registers.
    has_planes: bool,
}

impl Plan {
    /// The plan for heads of a model, on a device with planes of `plane` units and `shared` bytes that a cube's units share.
    fn new(
        [heads, groups, head_dim]: [usize; 3],
        vector: usize,
        plane: usize,
        shared: usize,
    ) -> Self {
        let of_group = heads / groups;
        let mut heads = of_group.min(MOST_HEADS);
        loop {
            let plan = Self::of_heads(heads, of_group, groups, head_dim, vector, plane);
            let is_whole = of_group.is_multiple_of(heads);
            if heads == 1 || (is_whole && plan.shared_bytes() <= shared) {
                return plan;
            }
            heads -= 1;
        }
    }

    fn of_heads(
        heads: usize,
        of_group: usize,
        groups: usize,
        head_dim: usize,
        vector: usize,
        plane: usize,
    ) -> Self {
        let lanes = (head_dim / vector).next_power_of_two();
        let keys = UNITS / lanes;
        Self {
            groups,
            heads,
            blocks: of_group / heads,
            head_dim,
            vector,
            lanes,
            keys,
            tile: CELLS / heads / keys * keys,
            stride: keys + if lanes <= 16 { 4 } else { 0 },
            has_planes: lanes <= plane,
        }
    }

    /// Cells that units leave for others to sum.
    fn partial(self) -> usize {
        if self.has_planes {
            UNITS
        } else {
            UNITS.max(self.heads * self.lanes * self.stride)
        }
    }

    /// Bytes that a cube's units share.
    fn shared_bytes(self) -> usize {
        4 * (self.partial() + CELLS + self.heads + 1)
    }
}

/// softmax(q·kᵀ/√d)·v of some query heads of one group over the keys that they see, a tile of them at a time with running
/// sums (arXiv 2205.14135): the cache is read once for all of them, and no score is written to memory.
///
/// A token lies in the slot of its position, so a query sees the slots up to its own.
#[cube(launch)]
fn decode_attention_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    query_positions: &Tensor<i32>,
    out: &mut Tensor<F>,
    window: i32,
    count: u32,
    slots: u32,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: ElemType,
) {
    let mut partial = Shared::<[f32]>::new_slice(comptime!(plan.partial()));
    let mut scores = Shared::<[f32]>::new_slice(CELLS);
    let mut factors = Shared::<[f32]>::new_slice(comptime!(plan.heads));
    let mut at_row = Shared::<[i32]>::new_slice(1usize);
    if CUBE_POS >= count as usize {
        terminate!();
    }
    let heads = comptime!(plan.heads);
    let vector = comptime!(plan.vector);
    let vectors = comptime!(plan.head_dim / plan.vector);
    let tile_size = comptime!(plan.tile);
    let capacity = slots as usize;
    let unit = UNIT_POS as usize;
    let first = unit / plan.lanes;
    let lane = unit % plan.lanes;
    let group = CUBE_POS / plan.blocks;
    let row = group / plan.groups;
    let cache_start = group * capacity * vectors;
    // The heads of a group lie beside each other, and so do the groups of a row.
    let head = CUBE_POS * heads;
    if unit == 0 {
        at_row[0] = query_positions[row];
    }
    sync_cube();
    let at = at_row[0];
    let mut end = 0usize;
    let mut tile = 0usize;
    // Idle rows lie beyond the cache.
    if at < slots as i32 {
        end = at as usize + 1;
        if at >= window {
            tile = (at - window + 1) as usize;
        }
    }
    let scale = 1.0f32 / (comptime!(plan.head_dim as f32)).sqrt();
    let mut q = Array::<f32>::new(comptime!(plan.heads * plan.vector));
    let mut mixed = Array::<f32>::new(comptime!(plan.heads * plan.vector));
    #[unroll]
    for h in 0..heads {
        #[unroll]
        for v in 0..vector {
            q[h * vector + v] = 0.0f32;
            mixed[h * vector + v] = 0.0f32;
        }
        if lane < vectors {
            let line = query[(head + h) * vectors + lane];
            #[unroll]
            for v in 0..vector {
                q[h * vector + v] = f32::cast_from(line.extract(v)) * scale;
            }
        }
    }
    // Softmax's state of one head is kept by 32 units.
    let own_head = unit / 32;
    let own_lane = unit % 32;
    let mut largest = f32::new(NOTHING);
    let mut total = 0.0f32;
    while tile < end {
        let mut filled = end - tile;
        if filled > tile_size {
            filled = tile_size;
        }
        let mut base = 0usize;
        while base < filled {
            let key = base + first;
            let mut dots = Array::<f32>::new(heads);
            #[unroll]
            for h in 0..heads {
                dots[h] = 0.0f32;
            }
            if lane < vectors && key < filled {
                let line = keys[cache_start + (tile + key) * vectors + lane];
                #[unroll]
                for h in 0..heads {
                    #[unroll]
                    for v in 0..vector {
                        dots[h] += q[h * vector + v] * f32::cast_from(line.extract(v));
                    }
                }
            }
            if comptime!(plan.has_planes) {
                #[unroll]
                for h in 0..heads {
                    let score = sum_of_lanes(dots[h], plan.lanes);
                    if lane == 0 && key < filled {
                        scores[h * tile_size + key] = score;
                    }
                }
            } else {
                #[unroll]
                for h in 0..heads {
                    partial[(h * plan.lanes + lane) * plan.stride + first] = dots[h];
                }
                sync_cube();
                let mut pair = unit;
                while pair < comptime!(plan.heads * plan.keys) {
                    let h = pair / plan.keys;
                    let key = pair % plan.keys;
                    if base + key < filled {
                        let mut score = 0.0f32;
                        for l in 0..plan.lanes {
                            score += partial[(h * plan.lanes + l) * plan.stride + key];
                        }
                        scores[h * tile_size + base + key] = score;
                    }
                    pair += UNITS;
                }
                sync_cube();
            }
            base += plan.keys;
        }
        sync_cube();
        let mut peak = largest;
        if own_head < heads {
            let mut key = own_lane;
            while key < filled {
                let score = scores[own_head * tile_size + key];
                if score > peak {
                    peak = score;
                }
                key += 32usize;
            }
        }
        partial[unit] = peak;
        sync_cube();
        for l in 0..32usize {
            let other = partial[own_head * 32 + l];
            if other > peak {
                peak = other;
            }
        }
        sync_cube();
        let mut sum = 0.0f32;
        if own_head < heads {
            let mut key = own_lane;
            while key < filled {
                let weight = (scores[own_head * tile_size + key] - peak).exp();
                scores[own_head * tile_size + key] = weight;
                sum += weight;
                key += 32usize;
            }
            if own_lane == 0 {
                factors[own_head] = (largest - peak).exp();
            }
        }
        partial[unit] = sum;
        sync_cube();
        total *= (largest - peak).exp();
        for l in 0..32usize {
            total += partial[own_head * 32 + l];
        }
        largest = peak;
        #[unroll]
        for h in 0..heads {
            let factor = factors[h];
            #[unroll]
            for v in 0..vector {
                mixed[h * vector + v] *= factor;
            }
        }
        if lane < vectors {
            let mut key = first;
            while key < filled {
                let line = values[cache_start + (tile + key) * vectors + lane];
                #[unroll]
                for h in 0..heads {
                    let weight = scores[h * tile_size + key];
                    #[unroll]
                    for v in 0..vector {
                        mixed[h * vector + v] += weight * f32::cast_from(line.extract(v));
                    }
                }
                key += plan.keys;
            }
        }
        sync_cube();
        tile += tile_size;
    }
    if own_head < heads && own_lane == 0 {
        factors[own_head] = total;
    }
    let padded = comptime!(plan.lanes * plan.vector);
    #[unroll]
    for h in 0..heads {
        sync_cube();
        #[unroll]
        for v in 0..vector {
            scores[first * padded + lane * vector + v] = mixed[h * vector + v];
        }
        sync_cube();
        if unit < plan.head_dim {
            let mut sum = 0.0f32;
            for key in 0..plan.keys {
                sum += scores[key * padded + unit];
            }
            // Nothing visible is nothing mixed; what is no number stays none.
            let total = factors[h];
            let mut value = 0.0f32;
            if total != 0.0f32 {
                value = sum / total;
            }
            out[(head + h) * plan.head_dim + unit] = F::cast_from(value);
        }
    }
}

/// The widest head that the kernel takes: a unit for each of its elements.
pub(super) const WIDEST_HEAD: usize = UNITS;

/// Attention of queries `[rows, heads, head_dim]` at `[rows]` over caches `[rows, groups, capacity, head_dim]`, whose
/// tokens lie in the slots of their positions; of rows beyond the cache nothing.
pub(super) fn decode_attention(
    query: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    query_positions: CubeTensor,
    window: i32,
) -> CubeTensor {
    let [query, keys, values] = [query, keys, values].map(into_contiguous);
    let query_positions = into_contiguous(query_positions);
    let [rows, heads, head_dim] = query.shape().dims::<3>();
    let [_, groups, capacity, _] = keys.shape().dims::<4>();
    let out = like(&query);
    let vector = vector_size(&query.client, query.dtype, head_dim);
    let plane = plane_size(&query.client);
    let shared = query.client.properties().hardware.max_shared_memory_size;
    let plan = Plan::new([heads, groups, head_dim], vector, plane, shared);
    let count = rows * groups * plan.blocks;
    decode_attention_kernel::launch(
        &query.client.clone(),
        cube_for_each(count),
        CubeDim::new_1d(UNITS as u32),
        vector,
        query.clone().into_tensor_arg(),
        keys.into_tensor_arg(),
        values.into_tensor_arg(),
        query_positions.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        window,
        count as u32,
        capacity as u32,
        plan,
        element(query.dtype),
    );
    out
}

/// Whether the key at `key` is seen from `query`: at or before it, and within the window.
#[cube]
fn sees(query: i32, key: i32, window: i32) -> bool {
    key <= query && query - key < window
}

/// What of a line is known when its kernel is compiled: its length is not, which is another in every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Part {
    vector: usize,
    team: Team,
}

impl From<Line> for Part {
    fn from(line: Line) -> Self {
        Self {
            vector: line.vector,
            team: line.team,
        }
    }
}

/// softmax(scores) over the keys that a query sees, a team for each query of each head.
#[cube(launch)]
fn weights_kernel<F: Float, N: Size>(
    scores: &Tensor<Vector<F, N>>,
    query_positions: &Tensor<i32>,
    key_positions: &Tensor<i32>,
    weights: &mut Tensor<Vector<F, N>>,
    window: i32,
    count: u32,
    heads: u32,
    length: u32,
    vectors: u32,
    first: u32,
    query_columns: u32,
    key_columns: u32,
    #[comptime] part: Part,
    #[define(F)] _dtype: ElemType,
) {
    let (heads, length, vectors) = (heads as usize, length as usize, vectors as usize);
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let query = team_of_unit(part.team);
    if query >= count as usize {
        terminate!();
    }
    let lane = lane_of_unit(part.team);
    let vector = comptime!(part.vector);
    let start = query * vectors;
    let batch = query / (heads * length);
    let column = first as usize + query % length;
    let at = query_positions[batch * query_columns as usize + column];
    let first_key = batch * key_columns as usize;
    let mut largest = f32::new(NOTHING);
    let mut place = lane;
    while place < vectors {
        let cells = scores[start + place];
        #[unroll]
        for v in 0..vector {
            let score = f32::cast_from(cells.extract(v));
            if sees(at, key_positions[first_key + place * vector + v], window) {
                if score > largest {
                    largest = score;
                }
            }
        }
        place += part.team.lanes;
    }
    let peak = largest_of_team(&mut scratch, largest, part.team);
    let mut sum = 0.0f32;
    let mut place = lane;
    while place < vectors {
        let cells = scores[start + place];
        #[unroll]
        for v in 0..vector {
            // What is no number is summed too.
            if sees(at, key_positions[first_key + place * vector + v], window) {
                sum += (f32::cast_from(cells.extract(v)) - peak).exp();
            }
        }
        place += part.team.lanes;
    }
    let total = sum_of_team(&mut scratch, sum, part.team);
    let mut place = lane;
    while place < vectors {
        let cells = scores[start + place];
        let mut row = Vector::<F, N>::new(F::new(0.0));
        #[unroll]
        for v in 0..vector {
            if sees(at, key_positions[first_key + place * vector + v], window) {
                let weight = (f32::cast_from(cells.extract(v)) - peak).exp() / total;
                row.insert(v, F::cast_from(weight));
            }
        }
        weights[start + place] = row;
        place += part.team.lanes;
    }
}

/// w·(dw - Σ dw·w), the sum over the keys.
#[cube(launch)]
fn weights_backward_kernel<F: Float, N: Size>(
    weights: &Tensor<Vector<F, N>>,
    dweights: &Tensor<Vector<F, N>>,
    dscores: &mut Tensor<Vector<F, N>>,
    count: u32,
    vectors: u32,
    #[comptime] part: Part,
    #[define(F)] _dtype: ElemType,
) {
    let vectors = vectors as usize;
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let query = team_of_unit(part.team);
    if query >= count as usize {
        terminate!();
    }
    let lane = lane_of_unit(part.team);
    let vector = comptime!(part.vector);
    let start = query * vectors;
    let mut pull = 0.0f32;
    let mut place = lane;
    while place < vectors {
        let (weight, slope) = (weights[start + place], dweights[start + place]);
        #[unroll]
        for v in 0..vector {
            pull += f32::cast_from(weight.extract(v)) * f32::cast_from(slope.extract(v));
        }
        place += part.team.lanes;
    }
    let pull = sum_of_team(&mut scratch, pull, part.team);
    let mut place = lane;
    while place < vectors {
        let (weight, slope) = (weights[start + place], dweights[start + place]);
        let mut row = Vector::<F, N>::new(F::new(0.0));
        #[unroll]
        for v in 0..vector {
            let slope = f32::cast_from(slope.extract(v)) - pull;
            row.insert(v, F::cast_from(f32::cast_from(weight.extract(v)) * slope));
        }
        dscores[start + place] = row;
        place += part.team.lanes;
    }
}

/// Weights of keys for scores `[batch, heads, length, keys]`, whose queries lie at `[batch, length]` and keys at
/// `[batch, keys]`: zeros where nothing is seen.
pub(super) fn attention_weights(
    scores: CubeTensor,
    query_positions: CubeTensor,
    key_positions: CubeTensor,
    window: i32,
) -> CubeTensor {
    attention_weights_from(scores, [query_positions, key_positions], 0, window)
}

/// The same of queries that begin at column `first` of their positions and keys that begin at the first of theirs.
pub(super) fn attention_weights_from(
    scores: CubeTensor,
    positions: [CubeTensor; 2],
    first: usize,
    window: i32,
) -> CubeTensor {
    let scores = into_contiguous(scores);
    let [query_positions, key_positions] = positions.map(into_contiguous);
    let [batch, heads, length, keys] = scores.shape().dims::<4>();
    let columns = [&query_positions, &key_positions].map(|positions| positions.shape()[1]);
    assert!(
        first + length <= columns[0] && keys <= columns[1],
        "scores {:?} from {first} of {columns:?} positions",
        scores.shape()
    );
    let weights = like(&scores);
    let count = batch * heads * length;
    let line = Line::new(&scores);
    weights_kernel::launch(
        &scores.client.clone(),
        line.team.cubes(count),
        CubeDim::new_1d(line.team.units() as u32),
        line.vector,
        scores.clone().into_tensor_arg(),
        query_positions.into_tensor_arg(),
        key_positions.into_tensor_arg(),
        weights.clone().into_tensor_arg(),
        window,
        count as u32,
        heads as u32,
        length as u32,
        line.vectors as u32,
        first as u32,
        columns[0] as u32,
        columns[1] as u32,
        Part::from(line),
        element(scores.dtype),
    );
    weights
}

/// The gradient of scores, given the weights' and the weights.
pub(super) fn attention_weights_backward(weights: CubeTensor, dweights: CubeTensor) -> CubeTensor {
    let [weights, dweights] = [weights, dweights].map(into_contiguous);
    let [batch, heads, length, _] = weights.shape().dims::<4>();
    let dscores = like(&weights);
    let count = batch * heads * length;
    let line = Line::new(&weights);
    weights_backward_kernel::launch(
        &weights.client.clone(),
        line.team.cubes(count),
        CubeDim::new_1d(line.team.units() as u32),
        line.vector,
        weights.clone().into_tensor_arg(),
        dweights.into_tensor_arg(),
        dscores.clone().into_tensor_arg(),
        count as u32,
        line.vectors as u32,
        Part::from(line),
        element(weights.dtype),
    );
    dscores
}
