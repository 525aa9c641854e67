//! The unclipped surrogate.

use burn::tensor::Tensor;

/// `l = -A·r`, with `r = e^Δ` and `Δ = log π - log π_old`: importance-weighted REINFORCE, without
/// a clip and without a bound on Δ. The base of KL-Cov.
///
/// # Shapes
/// `log_ratio` (Δ), `advantages` and the result: `[batch, response_len]`.
pub fn importance_weighted(log_ratio: Tensor<2>, advantages: Tensor<2>) -> Tensor<2> {
    -(log_ratio.exp() * advantages)
}
