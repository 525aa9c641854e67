//! The value head of a critic.

use std::path::Path;

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{Operations, PolicyError, weights::named_parameter};

const WEIGHT: &str = "value_head.weight";
const BIAS: &str = "value_head.bias";

/// `v = h·w + b`: the expected return of the state that a hidden state stands for.
#[derive(Module, Debug)]
pub struct ValueHead {
    /// `[hidden_size, 1]`.
    weight: Param<Tensor<2>>,
    /// `[1]`.
    bias: Param<Tensor<1>>,
}

impl ValueHead {
    /// A head that values every state at 0.
    pub fn new(hidden_size: usize, device: &Device) -> Self {
        Self::from_values(vec![0.0; hidden_size], 0.0, device)
    }

    fn from_values(weight: Vec<f32>, bias: f32, device: &Device) -> Self {
        let shape = [weight.len(), 1];
        Self {
            weight: named_parameter(WEIGHT, TensorData::new(weight, shape), device),
            bias: named_parameter(BIAS, TensorData::new(vec![bias], [1]), device),
        }
    }

    /// The width of the hidden states that it reads.
    pub fn hidden_size(&self) -> usize {
        self.weight.val().dims()[0]
    }

    /// The device that it is on.
    pub fn device(&self) -> Device {
        self.weight.val().device()
    }

    /// The values of hidden states.
    ///
    /// # Shapes
    /// `hidden`: `[tokens, hidden_size]`; the result: `[tokens]`, f32.
    pub fn values(&self, hidden: Tensor<2>) -> Tensor<1> {
        let [tokens, _] = hidden.dims();
        let hidden = hidden.cast(self.weight.val().dtype());
        let values = Operations::of(&self.device()).product(hidden, self.weight.val());
        values.reshape([tokens]) + self.bias.val()
    }

    /// Writes the head to a safetensors file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), PolicyError> {
        let invalid = |error: safetensors::SafeTensorError| PolicyError::InvalidWeights {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let bytes = |data: TensorData| -> Vec<u8> {
            data.iter::<f32>().flat_map(f32::to_le_bytes).collect()
        };
        let weight = self.weight.val();
        let shape = weight.dims().to_vec();
        let (weight, bias) = (
            bytes(weight.into_data()),
            bytes(self.bias.val().into_data()),
        );
        let views = [
            (
                WEIGHT,
                TensorView::new(Dtype::F32, shape, &weight).map_err(invalid)?,
            ),
            (
                BIAS,
                TensorView::new(Dtype::F32, vec![1], &bias).map_err(invalid)?,
            ),
        ];
        let file = safetensors::serialize(views, None).map_err(invalid)?;
        std::fs::write(path, file).map_err(|source| PolicyError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads a head that [`ValueHead::save`] wrote.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of another width.
    pub fn load(path: &Path, hidden_size: usize, device: &Device) -> Result<Self, PolicyError> {
        let invalid = |message: String| PolicyError::InvalidWeights {
            path: path.to_owned(),
            message,
        };
        let file = std::fs::read(path).map_err(|source| PolicyError::Io {
            path: path.to_owned(),
            source,
        })?;
        let tensors = SafeTensors::deserialize(&file).map_err(|e| invalid(e.to_string()))?;
        let read = |name: &str, count: usize| {
            let view = tensors.tensor(name).map_err(|e| invalid(e.to_string()))?;
            let values: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            if view.dtype() == Dtype::F32 && values.len() == count {
                return Ok(values);
            }
            Err(invalid(format!(
                "{name} is not {count} numbers of type F32"
            )))
        };
        let (weight, bias) = (read(WEIGHT, hidden_size)?, read(BIAS, 1)?);
        Ok(Self::from_values(weight, bias[0], device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_head_gives_the_same_values() {
        let device = Device::flex();
        let head = ValueHead::from_values(vec![0.5, -2.0], 0.25, &device);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value_head.safetensors");
        head.save(&path).unwrap();
        let again = ValueHead::load(&path, 2, &device).unwrap();
        let hidden = Tensor::<2>::from_data([[1.0, 2.0], [0.0, 1.0]], &device);
        let values: Vec<f32> = again.values(hidden).into_data().iter().collect();
        assert_eq!(values, [-3.25, -1.75]);
        let error = ValueHead::load(&path, 3, &device).unwrap_err().to_string();
        assert!(error.contains("3 numbers"), "{error}");
    }
}
