//! Softmax over long rows of logits: what log-probabilities and entropies are made of.

use crate::{
    exp,
    norm::{LANES, largest},
    vectorized::vectorized,
};

/// The sums of one row's softmax at a temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Softmax {
    /// The largest logit.
    pub largest: f32,
    /// Σ exp((l - largest)/T).
    pub total: f64,
    /// Σ exp((l - largest)/T)·(l - largest)/T.
    pub weighted: f64,
}

/// Elements whose f32 sums are added up in f64.
const BLOCK: usize = 512;

impl Softmax {
    /// The sums of a row; NaN and +∞ make them NaN.
    pub fn new(logits: &[f32], temperature: f32) -> Self {
        sums(logits, 1.0 / temperature)
    }

    /// exp((l - largest)/T) for each logit: what a token is drawn by.
    pub fn weights(&self, logits: &[f32], temperature: f32) -> Vec<f32> {
        let mut weights = logits.to_vec();
        scaled_weights(&mut weights, self.largest, 1.0 / temperature, 1.0);
        weights
    }

    /// log softmax of a logit at the temperature, in nats.
    pub fn log_prob(&self, logit: f32, temperature: f32) -> f32 {
        (f64::from((logit - self.largest) * (1.0 / temperature)) - self.total.ln()) as f32
    }

    /// Entropy -Σ p·log p of the row at the temperature, in nats.
    pub fn entropy(&self) -> f32 {
        (self.total.ln() - self.weighted / self.total) as f32
    }
}

vectorized! {
    fn sums(logits: &[f32], inverse: f32) -> Softmax = sums_loop
}

#[inline(always)]
fn sums_loop(logits: &[f32], inverse: f32) -> Softmax {
    let largest = largest(logits);
    let (mut total, mut weighted) = (0.0, 0.0);
    for block in logits.chunks(BLOCK) {
        let [sum, product] = block_sums(block, largest, inverse);
        total += sum;
        weighted += product;
    }
    Softmax {
        largest,
        total,
        weighted,
    }
}

vectorized! {
    /// x becomes scale·exp((x - largest)·inverse).
    fn scaled_weights(cells: &mut [f32], largest: f32, inverse: f32, scale: f32) -> () = scaled_weights_loop
}

#[inline(always)]
fn scaled_weights_loop(cells: &mut [f32], largest: f32, inverse: f32, scale: f32) {
    for x in cells {
        *x = scale * exp((*x - largest) * inverse);
    }
}

vectorized! {
    /// x becomes scale·exp((x - warm)·inverse) - weight·exp(x - plain)·(log p + entropy).
    fn both_gradients(cells: &mut [f32], warm: [f32; 3], plain: [f32; 4]) -> () = both_gradients_loop
}

#[inline(always)]
fn both_gradients_loop(
    cells: &mut [f32],
    [largest, inverse, scale]: [f32; 3],
    [plain_largest, log_total, weight, entropy]: [f32; 4],
) {
    for x in cells {
        let shifted = *x - plain_largest;
        let log_p = (shifted - log_total).max(f32::MIN);
        let pull = weight * exp(shifted) * (log_p + entropy);
        *x = scale * exp((*x - largest) * inverse) - pull;
    }
}

#[inline(always)]
fn block_sums(block: &[f32], largest: f32, inverse: f32) -> [f64; 2] {
    let (mut sums, mut products) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let mut add = |lane: usize, x: f32| {
        let shifted = (x - largest) * inverse;
        let weight = exp(shifted);
        sums[lane] += weight;
        // -∞ has weight 0, and 0·∞ is no number.
        products[lane] += weight * shifted.max(f32::MIN);
    };
    let (whole, rest) = block.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in chunk.iter().enumerate() {
            add(lane, x);
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        add(lane, x);
    }
    [crate::norm::fold(sums), crate::norm::fold(products)].map(f64::from)
}

/// Replaces a row of logits by the gradient with respect to them of `log_prob·g + entropy·h`.
///
/// ```text
/// d log π(y)/dl = (1[y] - p_T)/T,   dH/dl = -p·(log p + H),   p at temperature 1, p_T at T
/// ```
pub fn softmax_gradient(
    logits: &mut [f32],
    target: usize,
    temperature: f32,
    at_temperature: &Softmax,
    log_prob_gradient: f32,
    entropy: Option<(&Softmax, f32)>,
) {
    let inverse = 1.0 / temperature;
    let scale = (f64::from(-log_prob_gradient * inverse) / at_temperature.total) as f32;
    match entropy {
        None => scaled_weights(logits, at_temperature.largest, inverse, scale),
        Some((plain, gradient)) => both_gradients(
            logits,
            [at_temperature.largest, inverse, scale],
            [
                plain.largest,
                plain.total.ln() as f32,
                (f64::from(gradient) / plain.total) as f32,
                plain.entropy(),
            ],
        ),
    }
    logits[target] += log_prob_gradient * inverse;
}
