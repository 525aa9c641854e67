//! Tensor functions that losses and policies share.

use burn::tensor::Tensor;

/// Below this shifted logit, e^z is 0 in f32; it keeps 0·(-∞) out of the sum.
const LOWEST_SHIFTED_LOGIT: f32 = -200.0;

/// `Σ(x·m) / Σm`; 0 where no token is trained. Padding is dropped whatever it holds.
///
/// # Shapes
/// `values` and `mask`: `[batch, response_len]`; the result: `[1]`.
///
/// # Panics
/// If the shapes differ.
pub fn masked_mean(values: Tensor<2>, mask: Tensor<2>) -> Tensor<1> {
    assert_eq!(
        values.dims(),
        mask.dims(),
        "values and mask differ in shape"
    );
    let kept = values.mask_fill(mask.clone().equal_elem(0.0), 0.0);
    (kept * mask.clone()).sum() / mask.sum().clamp_min(1.0)
}

/// Exact entropy of each row's softmax, in nats: `H = log Z - Σ_v p_v·z_v`, with z the logits less
/// their maximum and `Z = Σ_v e^{z_v}`.
///
/// Masked logits (-∞) contribute nothing. Differentiable in the logits.
///
/// # Shapes
/// `logits`: `[n, vocab]`; the result: `[n]`.
pub fn token_entropy(logits: Tensor<2>) -> Tensor<1> {
    let maximum = logits.clone().without_autodiff().max_dim(1);
    let shifted = (logits - maximum).clamp_min(LOWEST_SHIFTED_LOGIT);
    let weights = shifted.clone().exp();
    let partition = weights.clone().sum_dim(1);
    let mean_logit = (weights * shifted).sum_dim(1) / partition.clone();
    (partition.log() - mean_logit).squeeze_dim(1)
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the values are exact in f32")]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    fn entropies(rows: &[Vec<f32>]) -> Vec<f32> {
        let (n, vocab) = (rows.len(), rows[0].len());
        let data = burn::tensor::TensorData::new(rows.concat(), [n, vocab]);
        token_entropy(Tensor::from_data(data, &Device::flex()))
            .into_data()
            .try_to_vec()
            .unwrap()
    }

    /// `-Σ p log p` in f64, straight from the definition.
    fn definition(row: &[f32]) -> f64 {
        let maximum = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = row.iter().map(|&z| f64::from(z - maximum).exp()).collect();
        let partition: f64 = weights.iter().sum();
        let terms = weights.iter().map(|w| w / partition).filter(|&p| p > 0.0);
        -terms.map(|p| p * p.ln()).sum::<f64>()
    }

    #[test]
    fn masked_mean_drops_padding_whatever_it_holds() {
        let device = Device::flex();
        let values =
            Tensor::<2>::from_data([[1.0, 3.0, f32::NAN], [8.0, f32::INFINITY, 0.0]], &device);
        let mask = Tensor::<2>::from_data([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], &device);
        assert_eq!(masked_mean(values, mask).into_scalar::<f32>(), 4.0);
    }

    #[test]
    fn masked_mean_of_nothing_is_zero() {
        let device = Device::flex();
        let mean = masked_mean(
            Tensor::ones([1, 2], &device),
            Tensor::zeros([1, 2], &device),
        );
        assert_eq!(mean.into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn entropy_of_uniform_and_of_certain_rows() {
        let rows = entropies(&[vec![3.0; 4], vec![90.0, -90.0, -90.0, -90.0]]);
        assert!((rows[0] - 4.0_f32.ln()).abs() < 1e-6);
        assert_eq!(rows[1], 0.0);
    }

    #[test]
    fn entropy_is_exact_for_large_and_masked_logits() {
        let rows = vec![
            vec![1e4, 1e4 - 1.0, 1e4 - 2.0, -1e4],
            vec![0.3, -1.2, f32::NEG_INFINITY, 2.5],
            vec![-5e3, -5e3, -5e3 - 0.5, -5e3 - 90.0],
        ];
        for (found, row) in entropies(&rows).into_iter().zip(&rows) {
            // A few f32 roundings of numbers near one.
            assert!(
                (f64::from(found) - definition(row)).abs() < 1e-6,
                "{found} for {row:?}"
            );
        }
    }

    #[test]
    fn entropy_gradient_is_minus_p_times_surprise() {
        // ∂H/∂z_v = -p_v·(log p_v + H).
        let device = Device::flex().autodiff();
        let logits = Tensor::<2>::from_data([[0.5_f32, -1.0, 2.0]], &device).require_grad();
        let gradients = token_entropy(logits.clone()).sum().backward();
        let gradient = logits.grad(&gradients).unwrap();
        let row = [0.5_f32, -1.0, 2.0];
        let partition: f32 = row.iter().map(|z| z.exp()).sum();
        let entropy = definition(&row) as f32;
        let expected = row.map(|z| {
            let log_p = z - partition.ln();
            -log_p.exp() * (log_p + entropy)
        });
        gradient.into_data().assert_approx_eq::<f32>(
            &burn::tensor::TensorData::from([expected]),
            Tolerance::absolute(1e-6),
        );
    }
}
