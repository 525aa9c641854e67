//! The head: figures of taken tokens, a part of the vocabulary and of the tokens at a time, so that there never is a
//! matrix `[tokens, vocab]`.

use burn::{
    backend::{TensorMetadata, ops::FloatTensorOps},
    tensor::{DType, FloatDType, Shape, Slice},
};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::ElemType, prelude::*};

use super::{
    FigurePlan, element,
    reduce::{UNITS, cube_for_each, largest_of_units, sum_of_units},
};

/// What is kept of a token while the vocabulary goes by: the largest logit, and of the softmax at temperature 1 and at
/// the plan's the sum of e^(l - largest) and the sum of e^(l - largest)·(l - largest); last, the taken token's logit.
const SUMS: usize = 6;
/// What the backward pass needs of a token: the logarithm of each softmax's sum, and the entropy at temperature 1.
const KEPT: usize = 3;
/// Log-probability, entropy, entropy at the temperature.
const FIGURES: usize = 3;

#[cube(launch)]
fn gather_kernel(
    logits: &Tensor<f32>,
    targets: &Tensor<i32>,
    sums: &mut Tensor<f32>,
    tokens: u32,
    first_token: u32,
    first_id: u32,
    inverse_temperature: f32,
    #[comptime] ids: usize,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let token = CUBE_POS;
    if token >= tokens as usize {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let row = token * ids;
    let state = (first_token as usize + token) * SUMS;
    let mut most = f32::new(-1e30);
    let mut i = unit;
    while i < ids {
        let logit = logits[row + i];
        // NaN is less than nothing and taken too; it makes every sum NaN.
        if !(logit <= most) {
            most = logit;
        }
        i += UNITS;
    }
    let before = sums[state];
    let mut largest = largest_of_units(&mut scratch, most);
    if first_id > 0 {
        if before > largest {
            largest = before;
        }
    }
    let mut plain = 0.0f32;
    let mut plain_mean = 0.0f32;
    let mut warm = 0.0f32;
    let mut warm_mean = 0.0f32;
    let mut i = unit;
    while i < ids {
        let below = logits[row + i] - largest;
        let weight = below.exp();
        plain += weight;
        plain_mean += weight * below;
        let cool = below * inverse_temperature;
        let weight = cool.exp();
        warm += weight;
        warm_mean += weight * cool;
        i += UNITS;
    }
    let plain = sum_of_units(&mut scratch, plain);
    let plain_mean = sum_of_units(&mut scratch, plain_mean);
    let warm = sum_of_units(&mut scratch, warm);
    let warm_mean = sum_of_units(&mut scratch, warm_mean);
    if unit == 0 {
        let target = targets[first_token as usize + token];
        let mut old_plain = 0.0f32;
        let mut old_plain_mean = 0.0f32;
        let mut old_warm = 0.0f32;
        let mut old_warm_mean = 0.0f32;
        if first_id > 0 {
            let rise = before - largest;
            let shrink = rise.exp();
            old_plain = sums[state + 1] * shrink;
            old_plain_mean = (sums[state + 2] + sums[state + 1] * rise) * shrink;
            let rise = rise * inverse_temperature;
            let shrink = rise.exp();
            old_warm = sums[state + 3] * shrink;
            old_warm_mean = (sums[state + 4] + sums[state + 3] * rise) * shrink;
        }
        sums[state] = largest;
        sums[state + 1] = old_plain + plain;
        sums[state + 2] = old_plain_mean + plain_mean;
        sums[state + 3] = old_warm + warm;
        sums[state + 4] = old_warm_mean + warm_mean;
        let place = target - first_id as i32;
        if place >= 0 {
            if place < ids as i32 {
                sums[state + 5] = logits[row + place as usize];
            }
        }
    }
}

/// Sums to figures, and to what the backward pass needs.
#[cube(launch)]
fn figures_kernel(
    sums: &Tensor<f32>,
    figures: &mut Tensor<f32>,
    kept: &mut Tensor<f32>,
    tokens: u32,
    inverse_temperature: f32,
) {
    let token = ABSOLUTE_POS;
    if token >= tokens as usize {
        terminate!();
    }
    let state = token * SUMS;
    let largest = sums[state];
    let plain = sums[state + 1];
    let warm = sums[state + 3];
    let entropy = plain.ln() - sums[state + 2] / plain;
    let warm_total = largest * inverse_temperature + warm.ln();
    figures[token * FIGURES] = sums[state + 5] * inverse_temperature - warm_total;
    figures[token * FIGURES + 1] = entropy;
    figures[token * FIGURES + 2] = warm.ln() - sums[state + 4] / warm;
    kept[token * KEPT] = largest + plain.ln();
    kept[token * KEPT + 1] = warm_total;
    kept[token * KEPT + 2] = entropy;
}

/// Gradients of logits: of the log-probability (1\[taken\] - p)/T with p at the temperature, of the entropy
/// -p·(log p + H) with p at temperature 1.
#[cube(launch)]
fn slopes_kernel<F: Float>(
    logits: &Tensor<f32>,
    targets: &Tensor<i32>,
    kept: &Tensor<f32>,
    gradients: &Tensor<f32>,
    slopes: &mut Tensor<F>,
    count: u32,
    first_token: u32,
    first_id: u32,
    inverse_temperature: f32,
    #[comptime] ids: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= count as usize {
        terminate!();
    }
    let token = first_token as usize + at / ids;
    let id = (at % ids) as i32 + first_id as i32;
    let logit = logits[at];
    let warm = (logit * inverse_temperature - kept[token * KEPT + 1]).exp();
    let mut taken = 0.0f32;
    if id == targets[token] {
        taken = 1.0f32;
    }
    let log_plain = logit - kept[token * KEPT];
    let of_log_prob = (taken - warm) * inverse_temperature;
    let of_entropy = 0.0f32 - log_plain.exp() * (log_plain + kept[token * KEPT + 2]);
    let slope =
        gradients[token * FIGURES] * of_log_prob + gradients[token * FIGURES + 1] * of_entropy;
    slopes[at] = F::cast_from(slope);
}

/// The head over hidden states `[tokens, width]` and a weight, in parts.
struct Head {
    hidden: CubeTensor,
    weight: CubeTensor,
    targets: CubeTensor,
    plan: FigurePlan,
    tokens: usize,
    vocab: usize,
}

/// A part: some tokens and some ids.
#[derive(Clone, Copy)]
struct Part {
    token: usize,
    tokens: usize,
    id: usize,
    ids: usize,
}

impl Head {
    fn new(hidden: CubeTensor, weight: CubeTensor, targets: CubeTensor, plan: FigurePlan) -> Self {
        let [tokens, width] = hidden.shape().dims::<2>();
        let vocab = weight.shape().num_elements() / width;
        Self {
            hidden: into_contiguous(hidden),
            weight,
            targets: into_contiguous(targets),
            plan,
            tokens,
            vocab,
        }
    }

    fn empty(&self, shape: Shape, dtype: DType) -> CubeTensor {
        super::empty(&self.hidden, shape, dtype)
    }

    fn inverse_temperature(&self) -> f32 {
        1.0 / self.plan.temperature
    }

    /// The tokens' ranges, each with those of the vocabulary.
    fn token_ranges(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        ranges(self.tokens, self.plan.tokens_at_once)
    }

    fn parts(&self, (token, tokens): (usize, usize)) -> impl Iterator<Item = Part> + use<> {
        ranges(self.vocab, self.plan.ids_at_once).map(move |(id, ids)| Part {
            token,
            tokens,
            id,
            ids,
        })
    }

    fn hidden_of(&self, part: Part) -> CubeTensor {
        let rows = Slice::from(part.token..part.token + part.tokens);
        into_contiguous(CubeBackend::float_slice(
            self.hidden.clone(),
            &[rows, Slice::full()],
        ))
    }

    /// A part's weights, `[width, ids]`.
    fn weight_of(&self, part: Part) -> CubeTensor {
        let ids = Slice::from(part.id..part.id + part.ids);
        let weight = self.weight.clone();
        if self.plan.is_tied {
            let rows = CubeBackend::float_slice(weight, &[ids, Slice::full()]);
            CubeBackend::float_swap_dims(rows, 0, 1)
        } else {
            CubeBackend::float_slice(weight, &[Slice::full(), ids])
        }
    }

    /// In f32, whatever is multiplied: `[tokens, ids]`.
    fn logits(&self, part: Part) -> CubeTensor {
        product(self.hidden_of(part), self.weight_of(part))
    }

    fn forward(&self) -> (CubeTensor, CubeTensor) {
        let sums = self.empty([self.tokens, SUMS].into(), DType::F32);
        for range in self.token_ranges() {
            for part in self.parts(range) {
                let logits = self.logits(part);
                gather_kernel::launch(
                    &logits.client.clone(),
                    cube_for_each(part.tokens),
                    CubeDim::new_1d(UNITS as u32),
                    logits.into_tensor_arg(),
                    self.targets.clone().into_tensor_arg(),
                    sums.clone().into_tensor_arg(),
                    part.tokens as u32,
                    part.token as u32,
                    part.id as u32,
                    self.inverse_temperature(),
                    part.ids,
                );
            }
        }
        let figures = self.empty([self.tokens, FIGURES].into(), DType::F32);
        let kept = self.empty([self.tokens, KEPT].into(), DType::F32);
        let dim = CubeDim::new(&sums.client, self.tokens);
        figures_kernel::launch(
            &sums.client.clone(),
            cubecl::calculate_cube_count_elemwise(&sums.client, self.tokens, dim),
            dim,
            sums.clone().into_tensor_arg(),
            figures.clone().into_tensor_arg(),
            kept.clone().into_tensor_arg(),
            self.tokens as u32,
            self.inverse_temperature(),
        );
        (figures, kept)
    }

    /// A part's gradient of logits, in the type that is multiplied.
    fn slopes(&self, part: Part, kept: &CubeTensor, gradients: &CubeTensor) -> CubeTensor {
        let logits = self.logits(part);
        let slopes = self.empty([part.tokens, part.ids].into(), self.hidden.dtype);
        let count = part.tokens * part.ids;
        let dim = CubeDim::new(&logits.client, count);
        slopes_kernel::launch(
            &logits.client.clone(),
            cubecl::calculate_cube_count_elemwise(&logits.client, count, dim),
            dim,
            logits.clone().into_tensor_arg(),
            self.targets.clone().into_tensor_arg(),
            kept.clone().into_tensor_arg(),
            gradients.clone().into_tensor_arg(),
            slopes.clone().into_tensor_arg(),
            count as u32,
            part.token as u32,
            part.id as u32,
            self.inverse_temperature(),
            part.ids,
            element(self.hidden.dtype),
        );
        slopes
    }

    fn backward(
        &self,
        kept: &CubeTensor,
        gradients: &CubeTensor,
        wants_weight: bool,
    ) -> (CubeTensor, Option<CubeTensor>) {
        let add = |sum: Option<CubeTensor>, term: CubeTensor| match sum {
            Some(sum) => CubeBackend::float_add(sum, term),
            None => term,
        };
        let parts = self.vocab.div_ceil(self.plan.ids_at_once);
        let mut of_weight: Vec<Option<CubeTensor>> = vec![None; parts];
        let mut of_hidden = Vec::new();
        for range in self.token_ranges() {
            let mut rows = None;
            for (part, sum) in self.parts(range).zip(&mut of_weight) {
                let slopes = self.slopes(part, kept, gradients);
                let weight = CubeBackend::float_swap_dims(self.weight_of(part), 0, 1);
                rows = Some(add(rows.take(), product(slopes.clone(), weight)));
                if wants_weight {
                    let slopes = CubeBackend::float_swap_dims(slopes, 0, 1);
                    // [ids, width]
                    *sum = Some(add(sum.take(), product(slopes, self.hidden_of(part))));
                }
            }
            of_hidden.extend(rows);
        }
        let hidden = CubeBackend::float_cat(of_hidden, 0);
        let of_weight: Vec<CubeTensor> = of_weight.into_iter().flatten().collect();
        let weight = (!of_weight.is_empty()).then(|| {
            let weight = CubeBackend::float_cat(of_weight, 0);
            let weight = if self.plan.is_tied {
                weight
            } else {
                into_contiguous(CubeBackend::float_swap_dims(weight, 0, 1))
            };
            cast(weight, self.weight.dtype)
        });
        (cast(hidden, self.hidden.dtype), weight)
    }
}

fn ranges(total: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..total)
        .step_by(size)
        .map(move |start| (start, size.min(total - start)))
}

/// A product summed and given in f32.
pub(super) fn product(lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
    super::product::product(lhs, rhs, DType::F32)
}

pub(super) fn cast(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    let dtype = match dtype {
        DType::BF16 => FloatDType::BF16,
        DType::F16 => FloatDType::F16,
        _ => FloatDType::F32,
    };
    CubeBackend::float_cast(tensor, dtype)
}

/// Figures `[tokens, 3]` in f32, and what the backward pass needs of them.
pub(super) fn figures(
    hidden: CubeTensor,
    weight: CubeTensor,
    targets: CubeTensor,
    plan: FigurePlan,
) -> (CubeTensor, CubeTensor) {
    Head::new(hidden, weight, targets, plan).forward()
}

/// The gradients of hidden states and, where it is wanted, of the weight, given the figures' `[tokens, 3]`; the last figure
/// has none.
pub(super) fn figures_backward(
    [hidden, weight, targets]: [CubeTensor; 3],
    plan: FigurePlan,
    kept: &CubeTensor,
    gradients: CubeTensor,
    wants_weight: bool,
) -> (CubeTensor, Option<CubeTensor>) {
    let gradients = into_contiguous(gradients);
    Head::new(hidden, weight, targets, plan).backward(kept, &gradients, wants_weight)
}
