//! AdamW in one pass, and the sums that clipping needs.

use rayon::prelude::*;

use crate::vectorized::vectorized;

/// Elements that a thread goes through before it takes more; sums over them have one order.
const CHUNK: usize = 1 << 16;

/// One update of AdamW (arXiv 1711.05101) with its bias corrections worked out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta_1: f32,
    /// Decay of the second moment.
    pub beta_2: f32,
    /// 1 - `beta_1`^time.
    pub correction_1: f32,
    /// 1 - `beta_2`^time.
    pub correction_2: f32,
    /// ε of the denominator.
    pub epsilon: f32,
    /// The rate.
    pub rate: f32,
    /// What the parameter is multiplied by first: 1 - rate · decay.
    pub keep: f32,
}

impl AdamW {
    /// Updates a parameter and its moments in place.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn step(&self, parameter: &mut [f32], gradient: &[f32], moments: [&mut [f32]; 2]) {
        let [moment_1, moment_2] = moments;
        let lengths = [gradient.len(), moment_1.len(), moment_2.len()];
        assert_eq!(
            lengths,
            [parameter.len(); 3],
            "a gradient or moment of another length"
        );
        (
            parameter.par_chunks_mut(CHUNK),
            gradient.par_chunks(CHUNK),
            moment_1.par_chunks_mut(CHUNK),
            moment_2.par_chunks_mut(CHUNK),
        )
            .into_par_iter()
            .for_each(|(p, g, m, v)| update(self, p, g, m, v));
    }
}

vectorized! {
    fn update(adamw: &AdamW, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) -> () = update_loop
}

#[inline(always)]
fn update_loop(adamw: &AdamW, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let a = *adamw;
    let (rest_1, rest_2) = (1.0 - a.beta_1, 1.0 - a.beta_2);
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        *m = *m * a.beta_1 + g * rest_1;
        *v = *v * a.beta_2 + g * g * rest_2;
        let delta = (*m / a.correction_1) / ((*v / a.correction_2).sqrt() + a.epsilon);
        *p = *p * a.keep - delta * a.rate;
    }
}

/// Σ x², in f64.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let chunks: Vec<f64> = x.par_chunks(CHUNK).map(chunk_squares).collect();
    chunks.into_iter().sum()
}

fn chunk_squares(x: &[f32]) -> f64 {
    squares(x)
}

vectorized! {
    fn squares(x: &[f32]) -> f64 = squares_loop
}

#[inline(always)]
fn squares_loop(x: &[f32]) -> f64 {
    x.chunks(512)
        .map(|block| f64::from(crate::norm::lanes_sum([block, block])))
        .sum()
}

/// x·factor, in place.
pub fn scale(x: &mut [f32], factor: f32) {
    x.par_chunks_mut(CHUNK)
        .for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_update_worked_by_hand() {
        let adamw = AdamW {
            beta_1: 0.5,
            beta_2: 0.75,
            correction_1: 0.5,
            correction_2: 0.25,
            epsilon: 0.5,
            rate: 0.125,
            keep: 0.5,
        };
        let (mut p, mut m, mut v) = ([2.0, 1.0], [0.0; 2], [0.0; 2]);
        adamw.step(&mut p, &[1.5, 0.0], [&mut m, &mut v]);
        let moments = [m[0] - 0.75, m[1], v[0] - 0.5625, v[1]];
        assert!(moments.iter().all(|x| x.abs() < 1e-7), "{m:?} {v:?}");
        // 2·0.5 - 0.125·1.5 / (√(0.5625 / 0.25) + 0.5).
        assert!((p[0] - 0.90625).abs() + (p[1] - 0.5).abs() < 1e-7, "{p:?}");
        assert!((sum_of_squares(&vec![0.5; 100_000]) - 25_000.0).abs() < 1e-9);
    }
}
