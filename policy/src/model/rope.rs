//! Rotary position embedding in the half-split layout of Hugging Face models.

use burn::tensor::{DType, Device, Int, Tensor};

use crate::config::{RopeConfig, RopeScaling};

/// Cosines and sines of the rotation angles of one batch, shared by every layer.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    /// Angles `m·f_i` for positions m and the inverse frequencies f of [`inverse_frequencies`].
    ///
    /// # Shapes
    /// `positions` `[batch, length]`, `inverse_frequencies` `[head_dim / 2]`.
    pub(super) fn new(
        positions: Tensor<2, Int>,
        inverse_frequencies: &[f32],
        dtype: DType,
    ) -> Self {
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
            cos: angles.clone().cos().cast(dtype),
            sin: angles.sin().cast(dtype),
        }
    }

    /// Rotates queries or keys: the pair `(x_i, x_{i + d/2})` turns by the angle of frequency i (arXiv 2104.09864).
    ///
    /// # Shapes
    /// `[batch, heads, length, head_dim]` in and out.
    pub(super) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
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

/// The device-side form of a batch's positions and which keys each query may see.
#[derive(Debug, Clone)]
pub(super) struct Visibility {
    bias: Tensor<4>,
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
    /// `queries` `[batch, length]`, `keys` `[batch, keys]`; the bias is `[batch, 1, length, keys]`.
    pub(super) fn new(
        queries: Tensor<2, Int>,
        keys: Tensor<2, Int>,
        window: Option<usize>,
        dtype: DType,
    ) -> Self {
        let device: Device = queries.device();
        let [batch, length] = queries.dims();
        let [_, count] = keys.dims();
        let queries = queries
            .reshape([batch, 1, length, 1])
            .expand([batch, 1, length, count]);
        let keys = keys
            .reshape([batch, 1, 1, count])
            .expand([batch, 1, length, count]);
        let distance = queries - keys;
        let mut hidden = distance.clone().lower_scalar(0);
        if let Some(window) = window {
            hidden = hidden.bool_or(distance.greater_equal_scalar(window as i64));
        }
        let bias = Tensor::zeros([batch, 1, length, count], (&device, dtype));
        Self {
            bias: bias.mask_fill(hidden, HIDDEN),
        }
    }

    /// The additive bias on attention scores, `[batch, 1, length, keys]`.
    pub(super) fn bias(&self) -> Tensor<4> {
        self.bias.clone()
    }
}

/// The position given to padding: after every query, so that none sees it.
pub const PADDING_POSITION: i32 = 1 << 30;
