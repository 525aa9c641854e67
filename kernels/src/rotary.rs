//! Rotary positions in the half-split layout of Hugging Face models.

use crate::vectorized::vectorized;

/// Cosines and sines for every position of a batch, each `[positions, head_dim / 2]`.
#[derive(Debug, Clone)]
pub struct Rotary {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rotary {
    /// Angles m·f for positions m and inverse frequencies f, in f32 as the plain form computes them.
    pub fn new(positions: &[i32], inverse_frequencies: &[f32]) -> Self {
        let angles = || {
            positions
                .iter()
                .flat_map(|&m| inverse_frequencies.iter().map(move |f| m as f32 * f))
        };
        Self {
            cos: angles().map(f32::cos).collect(),
            sin: angles().map(f32::sin).collect(),
            half: inverse_frequencies.len(),
        }
    }

    fn at(&self, token: usize) -> (&[f32], &[f32]) {
        let range = token * self.half..(token + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Turns the heads of rows `[first_token ..]`: the pair (`x_i`, x_{i + d/2}) by the angle of frequency i (arXiv 2104.09864).
///
/// # Shapes
/// Each row of `stride` elements begins with `heads` heads of `2·half`.
pub fn rotate(x: &mut [f32], stride: usize, heads: usize, rotary: &Rotary, first_token: usize) {
    turn(x, stride, heads, rotary, first_token, 1.0);
}

/// The inverse turn, which is also the gradient's.
pub fn rotate_back(
    x: &mut [f32],
    stride: usize,
    heads: usize,
    rotary: &Rotary,
    first_token: usize,
) {
    turn(x, stride, heads, rotary, first_token, -1.0);
}

vectorized! {
    fn turn(
        x: &mut [f32],
        stride: usize,
        heads: usize,
        rotary: &Rotary,
        first_token: usize,
        sign: f32,
    ) -> () = turn_loop
}

#[inline(always)]
fn turn_loop(
    x: &mut [f32],
    stride: usize,
    heads: usize,
    rotary: &Rotary,
    first_token: usize,
    sign: f32,
) {
    let half = rotary.half;
    for (row, x) in x.chunks_mut(stride).enumerate() {
        let (cos, sin) = rotary.at(first_token + row);
        for head in x[..heads * 2 * half].chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            let turns = cos.iter().zip(sin);
            for ((first, second), (c, s)) in first.iter_mut().zip(second).zip(turns) {
                let (a, b, s) = (*first, *second, sign * s);
                *first = a * c - b * s;
                *second = b * c + a * s;
            }
        }
    }
}
