//! Drawing tokens where the logits are, so that they need not leave the device.

use burn::{backend::TensorMetadata, tensor::DType};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    empty,
    reduce::{UNITS, cube_for_each, largest_of_units, sum_of_units},
};
use crate::{DRAWN, Truncation};

/// Halvings of the interval of all floats, after which one is left.
const HALVINGS: u32 = 32;

/// The least finite float.
const LOWEST: f32 = -3.402_823_5e38;

/// A float's place in the order of all of them, so that intervals of them can be halved.
#[cube]
fn place_of(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    let mut place = bits | 0x8000_0000u32;
    if bits >= 0x8000_0000u32 {
        place = 0xffff_ffffu32 - bits;
    }
    place
}

/// The float of a place.
#[cube]
fn value_at(place: u32) -> f32 {
    let mut bits = 0xffff_ffffu32 - place;
    if place >= 0x8000_0000u32 {
        bits = place - 0x8000_0000u32;
    }
    f32::reinterpret(bits)
}

/// The weight e^((l - largest)/T), of a token that `floor` drops 0.
#[cube]
fn weight_of(logit: f32, largest: f32, inverse_temperature: f32, floor: f32) -> f32 {
    let weight = ((logit - largest) * inverse_temperature).exp();
    let mut kept = 0.0f32;
    if weight >= floor {
        kept = weight;
    }
    kept
}

/// One row a cube. Each unit has a run of neighbouring ids, so that sums over units are in the order of ids.
///
/// Top-k and top-p each come to a least logit, found by halving the interval of floats, and to how many of the tokens of just
/// that logit are kept, the first ones. Logits are compared rather than weights: those are computed again in each pass, and a
/// compiler may round them otherwise there.
#[cube(launch)]
fn sample_kernel(
    logits: &Tensor<f32>,
    uniforms: &Tensor<f32>,
    drawn: &mut Tensor<f32>,
    inverse_temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    is_greedy: u32,
    count: u32,
    #[comptime] vocab: usize,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let mut masses = Shared::<[f32]>::new_slice(UNITS);
    let mut ties = Shared::<[f32]>::new_slice(UNITS);
    let mut chosen = Shared::<[u32]>::new_slice(1usize);
    let unit = UNIT_POS as usize;
    if CUBE_POS >= count as usize {
        terminate!();
    }
    let row = CUBE_POS * vocab;
    let run = vocab.div_ceil(UNITS);
    let start = unit * run;
    let mut end = start + run;
    if end > vocab {
        end = vocab;
    }
    let mut most = f32::new(-1e30);
    let mut i = start;
    while i < end {
        let logit = logits[row + i];
        if !(logit <= most) {
            most = logit;
        }
        i += 1;
    }
    let largest = largest_of_units(&mut scratch, most);
    let mut plain = 0.0f32;
    let mut plain_mean = 0.0f32;
    let mut warm = 0.0f32;
    let mut warm_mean = 0.0f32;
    let mut i = start;
    while i < end {
        let below = logits[row + i] - largest;
        let weight = below.exp();
        let cool = below * inverse_temperature;
        let warm_weight = cool.exp();
        plain += weight;
        warm += warm_weight;
        // A weight of 0 has no part in the mean, and -∞ times 0 would be none.
        if weight > 0.0f32 {
            plain_mean += weight * below;
        }
        if warm_weight > 0.0f32 {
            warm_mean += warm_weight * cool;
        }
        i += 1;
    }
    let plain = sum_of_units(&mut scratch, plain);
    let plain_mean = sum_of_units(&mut scratch, plain_mean);
    let warm = sum_of_units(&mut scratch, warm);
    let warm_mean = sum_of_units(&mut scratch, warm_mean);

    // The least logit that is kept, of which `last` tokens are.
    let mut least = f32::new(LOWEST);
    let mut last = f32::cast_from(vocab);
    let mut mass = warm;
    if top_k > 0 && top_k < vocab as u32 {
        let wanted = top_k as f32;
        let mut low = place_of(f32::new(LOWEST));
        let mut high = place_of(largest) + 1u32;
        for _ in 0..HALVINGS {
            let middle = low + (high - low) / 2;
            let bound = value_at(middle);
            let mut count = 0.0f32;
            let mut i = start;
            while i < end {
                if logits[row + i] >= bound {
                    count += 1.0f32;
                }
                i += 1;
            }
            if sum_of_units(&mut scratch, count) >= wanted {
                low = middle;
            } else {
                high = middle;
            }
        }
        least = value_at(low);
        let mut above = 0.0f32;
        let mut heavy = 0.0f32;
        let mut i = start;
        while i < end {
            let logit = logits[row + i];
            if logit > least {
                above += 1.0f32;
                heavy += weight_of(logit, largest, inverse_temperature, 0.0f32);
            }
            i += 1;
        }
        last = wanted - sum_of_units(&mut scratch, above);
        let each = weight_of(least, largest, inverse_temperature, 0.0f32);
        mass = sum_of_units(&mut scratch, heavy) + last * each;
    }
    if top_p < 1.0f32 {
        let target = top_p * mass;
        let mut low = place_of(f32::new(LOWEST));
        let mut high = place_of(largest) + 1u32;
        for _ in 0..HALVINGS {
            let middle = low + (high - low) / 2;
            let bound = value_at(middle);
            let mut heavy = 0.0f32;
            let mut i = start;
            while i < end {
                let logit = logits[row + i];
                if logit >= bound {
                    heavy += weight_of(logit, largest, inverse_temperature, 0.0f32);
                }
                i += 1;
            }
            if sum_of_units(&mut scratch, heavy) >= target {
                low = middle;
            } else {
                high = middle;
            }
        }
        let nucleus = value_at(low);
        let mut heavy = 0.0f32;
        let mut i = start;
        while i < end {
            let logit = logits[row + i];
            if logit > nucleus {
                heavy += weight_of(logit, largest, inverse_temperature, 0.0f32);
            }
            i += 1;
        }
        let above = sum_of_units(&mut scratch, heavy);
        let each = weight_of(nucleus, largest, inverse_temperature, 0.0f32);
        let mut needed = ((target - above) / each).ceil();
        if needed < 1.0f32 {
            needed = 1.0f32;
        }
        if nucleus > least {
            least = nucleus;
            last = needed;
        } else if nucleus == least && needed < last {
            last = needed;
        }
    }

    // Sums of what is kept, by unit.
    let mut tied = 0.0f32;
    let mut i = start;
    while i < end {
        if logits[row + i] == least {
            tied += 1.0f32;
        }
        i += 1;
    }
    ties[unit] = tied;
    sync_cube();
    let mut tied_before = 0.0f32;
    for other in 0..UNITS {
        if other < unit {
            tied_before += ties[other];
        }
    }
    let mut kept = 0.0f32;
    let mut seen = tied_before;
    let mut i = start;
    while i < end {
        let logit = logits[row + i];
        let weight = weight_of(logit, largest, inverse_temperature, min_p);
        if logit > least {
            kept += weight;
        } else if logit == least {
            if seen < last {
                kept += weight;
            }
            seen += 1.0f32;
        }
        i += 1;
    }
    masses[unit] = kept;
    sync_cube();
    if unit == 0 {
        let mut total = 0.0f32;
        for other in 0..UNITS {
            total += masses[other];
        }
        let target = total * uniforms[CUBE_POS];
        let mut sum = 0.0f32;
        let mut found = false;
        let mut before = 0.0f32;
        let mut heavy = 0u32;
        for other in 0..UNITS {
            if masses[other] > 0.0f32 {
                if !found {
                    heavy = other as u32;
                    before = sum;
                    if sum + masses[other] > target {
                        found = true;
                    }
                }
                sum += masses[other];
            }
        }
        chosen[0] = heavy;
        scratch[0] = before;
        scratch[1] = target;
    }
    sync_cube();
    if is_greedy > 0 {
        // The first of the largest logits: each unit's first, then the lowest unit that has one.
        let mut first = f32::cast_from(vocab);
        let mut i = start;
        while i < end {
            if logits[row + i] >= largest {
                if first >= f32::cast_from(vocab) {
                    first = i as f32;
                }
            }
            i += 1;
        }
        let id = 0.0f32 - largest_of_units(&mut scratch, 0.0f32 - first);
        if unit == 0 {
            drawn[CUBE_POS * DRAWN] = id;
        }
        sync_cube();
    } else if unit as u32 == chosen[0] {
        let mut sum = scratch[0];
        let target = scratch[1];
        let mut id = start;
        let mut done = false;
        let mut seen = tied_before;
        let mut i = start;
        while i < end {
            let logit = logits[row + i];
            let weight = weight_of(logit, largest, inverse_temperature, min_p);
            let mut keeps = logit > least;
            if logit == least {
                keeps = seen < last;
                seen += 1.0f32;
            }
            if keeps && weight > 0.0f32 && !done {
                id = i;
                sum += weight;
                done = sum > target;
            }
            i += 1;
        }
        drawn[CUBE_POS * DRAWN] = id as f32;
    }
    sync_cube();
    if unit == 0 {
        let entropy = plain.ln() - plain_mean / plain;
        drawn[CUBE_POS * DRAWN + 1] = 0.0f32 - warm.ln() - largest * inverse_temperature;
        drawn[CUBE_POS * DRAWN + 2] = entropy;
        drawn[CUBE_POS * DRAWN + 3] = warm.ln() - warm_mean / warm;
    }
}

/// Adds the drawn token's own logit to its log-probability, and writes its id as the next token's.
#[cube(launch)]
fn finish_kernel(
    logits: &Tensor<f32>,
    drawn: &mut Tensor<f32>,
    ids: &mut Tensor<i32>,
    rows: u32,
    inverse_temperature: f32,
    #[comptime] vocab: usize,
) {
    let row = ABSOLUTE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let mut id = drawn[row * DRAWN] as u32 as usize;
    // Where no logit is a number, there is no largest one; the log-probability tells.
    if id >= vocab {
        id = 0usize;
    }
    drawn[row * DRAWN + 1] += logits[row * vocab + id] * inverse_temperature;
    ids[row] = id as i32;
}

/// A token for each row of logits `[rows, vocab]` in f32, by a uniform number of [0, 1) each: figures `[rows, 4]` and
/// ids `[rows]`. Where logits are not finite, so is the log-probability not.
pub(super) fn sample(
    logits: CubeTensor,
    uniforms: CubeTensor,
    truncation: Truncation,
) -> (CubeTensor, CubeTensor) {
    let (logits, uniforms) = (into_contiguous(logits), into_contiguous(uniforms));
    let [rows, vocab] = logits.shape().dims::<2>();
    let drawn = empty(&logits, [rows, DRAWN].into(), DType::F32);
    let ids = empty(&logits, [rows].into(), DType::I32);
    let inverse_temperature = match truncation.temperature {
        0.0 => 1.0,
        temperature => 1.0 / temperature,
    };
    sample_kernel::launch(
        &logits.client.clone(),
        cube_for_each(rows),
        CubeDim::new_1d(UNITS as u32),
        logits.clone().into_tensor_arg(),
        uniforms.into_tensor_arg(),
        drawn.clone().into_tensor_arg(),
        inverse_temperature,
        truncation.top_k,
        truncation.top_p,
        truncation.min_p,
        u32::from(truncation.temperature == 0.0),
        rows as u32,
        vocab,
    );
    let dim = CubeDim::new(&logits.client, rows);
    finish_kernel::launch(
        &logits.client.clone(),
        cubecl::calculate_cube_count_elemwise(&logits.client, rows, dim),
        dim,
        logits.clone().into_tensor_arg(),
        drawn.clone().into_tensor_arg(),
        ids.clone().into_tensor_arg(),
        rows as u32,
        inverse_temperature,
        vocab,
    );
    (drawn, ids)
}
