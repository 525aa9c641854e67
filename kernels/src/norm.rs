//! Root-mean-square normalisation and its gradient.

use crate::vectorized::vectorized;

/// Sums that run beside each other, so that the order does not depend on the width of registers.
pub(crate) const LANES: usize = 16;

/// Σ of N slices' product, element by element, in one fixed order.
#[inline(always)]
pub(crate) fn lanes_sum<const N: usize>(factors: [&[f32]; N]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let parts = factors.map(|factor| factor.as_chunks::<LANES>());
    for chunk in 0..parts[0].0.len() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += parts
                .iter()
                .map(|(whole, _)| whole[chunk][lane])
                .product::<f32>();
        }
    }
    for lane in 0..parts[0].1.len() {
        sums[lane] += parts.iter().map(|(_, rest)| rest[lane]).product::<f32>();
    }
    fold(sums)
}

/// The largest element; NaN is passed over.
#[inline(always)]
pub(crate) fn largest(cells: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = cells.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let lanes = lanes.iter().chain(rest).copied();
    lanes.fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

#[inline(always)]
pub(crate) fn fold(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

vectorized! {
/// y = x / √(mean(x²) + ε) · weight, row by row (arXiv 1910.07467).
///
/// # Shapes
/// `x` and `y` `[rows, width]`, `weight` `[width]`.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) -> () = rms_norm_loop
}

#[inline(always)]
fn rms_norm_loop(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let scale = inverse_rms(x, epsilon);
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * scale * w;
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], epsilon: f32) -> f32 {
    let sum = lanes_sum([x, x]);
    1.0 / (sum / x.len() as f32 + epsilon).sqrt()
}

vectorized! {
/// The gradients of [`rms_norm`]: `dx` and `dw` are added to.
///
/// ```text
/// s = 1/√(mean(x²) + ε),  dx = s·(w·dy - x·s²·mean(w·dy·x)),  dw = Σ_rows dy·x·s
/// ```
///
/// # Shapes
/// `x`, `dy`, `dx` `[rows, width]`, `weight`, `dw` `[width]`.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], epsilon: f32, dy: &[f32], dx: &mut [f32], dw: &mut [f32]) -> () = rms_norm_backward_loop
}

#[inline(always)]
fn rms_norm_backward_loop(
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let width = weight.len();
    let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
    for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(width)) {
        let scale = inverse_rms(x, epsilon);
        let along = lanes_sum([weight, dy, x]);
        let along = along / width as f32 * scale * scale;
        let cells = x.iter().zip(dy).zip(weight).zip(dx).zip(dw.iter_mut());
        for ((((x, dy), w), dx), dw) in cells {
            *dx += scale * (w * dy - x * along);
            *dw += dy * x * scale;
        }
    }
}
