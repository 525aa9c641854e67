//! Rotary position embedding in the half-split layout of Hugging Face models.

use burn::tensor::{DType, Device, Int, Tensor};

use super::rows::Rows;
use crate::config::{RopeConfig, RopeScaling};

/// Cosines and sines of the rotation angles of one batch, shared by every layer.
#[derive(Debug, Clone)]
pub struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
    dtype: DType,
}

impl Rotation {
    /// Angles `m·f_i` for positions m and inverse frequencies f.
    ///
    /// # Shapes
    /// `positions` `[batch, length]`, `inverse_frequencies` `[head_dim / 2]`.
    pub fn new(positions: Tensor<2, Int>, inverse_frequencies: &[f32], dtype: DType) -> Self {
        let device = positions.device();
        let [batch, length] = positions.dims();
        let half = inverse_frequencies.len();
        let frequencies = Tensor::<1>::from_data(inverse_frequencies, (&device, DType::F32));
        let angles = positions
            .float()
            .cast(DType::F32)
            .reshape([batch, 1, length, 1])
            * frequencies.reshape([1, 1, 1, half]);
        Self {
            cos: angles.clone().cos(),
            sin: angles.sin(),
            dtype,
        }
    }

    /// Cosines and sines in f32, each `[batch · length, head_dim / 2]`.
    #[cfg(feature = "cube")]
    pub(super) fn angles(&self) -> (Tensor<2>, Tensor<2>) {
        let [batch, _, length, half] = self.cos.dims();
        let flat = |x: &Tensor<4>| x.clone().reshape([batch * length, half]);
        (flat(&self.cos), flat(&self.sin))
    }

    /// Rotates queries or keys: the pair `(x_i, x_{i + d/2})` turns by the angle of frequency i (arXiv 2104.09864).
    ///
    /// # Shapes
    /// `[batch, heads, length, head_dim]` in and out.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        let cast = |angles: &Tensor<4>| angles.clone().cast(self.dtype);
        let (cos, sin) = (cast(&self.cos), cast(&self.sin));
        let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
        let turned_second = second * cos + first * sin;
        Tensor::cat(vec![turned_first, turned_second], 3)
    }
}

/// Inverse frequencies θ^(-2i/d) for i in 0..d/2, scaled as the configuration says.
///
/// The `llama3` blend follows transformers' `_compute_llama3_parameters`.
pub(super) fn inverse_frequencies(config: &RopeConfig, head_dim: usize) -> Vec<f32> {
    let base = |i: usize| config.theta.powf(-((2 * i) as f64) / head_dim as f64);
    (0..head_dim / 2)
        .map(|i| scaled(base(i), &config.scaling) as f32)
        .collect()
}

fn scaled(frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: context,
        } => {
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            let kept = ((context / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    }
}

/// The device-side form of a batch's positions: which keys each query may see.
#[derive(Debug, Clone)]
pub struct Visibility {
    queries: Tensor<2, Int>,
    keys: Tensor<2, Int>,
    window: Option<usize>,
    bias: Option<Tensor<4>>,
    /// The rows that these are the positions of, where the tokens come laid end to end.
    rows: Option<Rows>,
}

/// A score that vanishes in any softmax and, unlike -∞, leaves no NaN in a row that sees nothing.
const HIDDEN: f32 = -1e30;

impl Visibility {
    /// Key k is visible to query q where `pos_k <= pos_q` and, with a window w, `pos_q - pos_k < w`.
    ///
    /// Padding is a key at [`PADDING_POSITION`], which no query reaches; so left, right and interior padding
    /// are all the same to the model.
    ///
    /// # Shapes
    /// `queries` `[batch, length]`, `keys` `[batch, keys]`.
    pub fn new(queries: Tensor<2, Int>, keys: Tensor<2, Int>, window: Option<usize>) -> Self {
        Self {
            queries,
            keys,
            window,
            bias: None,
            rows: None,
        }
    }

    /// Of tokens laid end to end, which lie in these rows; the positions are those of the rows.
    #[must_use]
    pub(super) fn in_rows(self, rows: Rows) -> Self {
        Self {
            rows: Some(rows),
            ..self
        }
    }

    pub(super) fn rows(&self) -> Option<&Rows> {
        self.rows.as_ref()
    }

    /// With its bias at hand, for layers that add one.
    #[must_use]
    pub fn with_bias(mut self) -> Self {
        self.bias = Some(self.bias());
        self
    }

    /// The additive bias on attention scores in f32, `[batch, 1, length, keys]`.
    pub(super) fn bias(&self) -> Tensor<4> {
        if let Some(bias) = &self.bias {
            return bias.clone();
        }
        let device: Device = self.queries.device();
        let [batch, length] = self.queries.dims();
        let [_, count] = self.keys.dims();
        let queries = self.queries.clone().reshape([batch, 1, length, 1]);
        let queries = queries.expand([batch, 1, length, count]);
        let keys = self.keys.clone().reshape([batch, 1, 1, count]);
        let keys = keys.expand([batch, 1, length, count]);
        let distance = queries - keys;
        let mut hidden = distance.clone().lower_scalar(0);
        if let Some(window) = self.window {
            hidden = hidden.bool_or(distance.greater_equal_scalar(window as i64));
        }
        let bias = Tensor::zeros([batch, 1, length, count], (&device, DType::F32));
        bias.mask_fill(hidden, HIDDEN)
    }

    /// Positions of queries `[batch, length]` and of keys `[batch, keys]`, and the window.
    #[cfg(feature = "cube")]
    pub(super) fn positions(&self) -> (Tensor<2, Int>, Tensor<2, Int>, Option<usize>) {
        (self.queries.clone(), self.keys.clone(), self.window)
    }
}

/// The position given to padding: after every query, so that none sees it.
pub const PADDING_POSITION: i32 = 1 << 30;
