//! What a model computes in where it answers and does not learn.

use burn::tensor::{DType, Device};
use policy::{Execution, Packing, Policy};

use crate::{
    Dtype, RolloutDtype, TrainConfig, TrainerError, load_policy,
    memory::{compute, computing, tensor_dtype},
};

/// What a model that answers rounds its weights, and what they are multiplied with, to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerDtype {
    /// As a run's `model.dtype` would have it.
    Model(Dtype),
    /// As a run's `rollout.dtype = "int8"` would have it: eight bits, with a factor for every 64 numbers.
    Int8,
}

impl Default for AnswerDtype {
    fn default() -> Self {
        Self::Model(Dtype::default())
    }
}

impl AnswerDtype {
    /// What a model may be asked to answer in, by name.
    pub const ALL: [(&'static str, Self); 4] = [
        ("f32", Self::Model(Dtype::F32)),
        ("bf16", Self::Model(Dtype::Bf16)),
        ("f16", Self::Model(Dtype::F16)),
        ("int8", Self::Int8),
    ];

    /// The type of this name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find_map(|(of, dtype)| (of == name).then_some(dtype))
    }

    fn parts(self) -> (Dtype, Option<RolloutDtype>) {
        match self {
            Self::Model(dtype) => (dtype, None),
            Self::Int8 => (Dtype::F32, Some(RolloutDtype::Int8)),
        }
    }
}

/// Loads a model as [`load_policy`] does, to answer in `dtype`, which `setting` asks for. Its log-probabilities are those of a run that
/// computes in this type, and on a GPU it takes no more room than weights in it do.
///
/// # Errors
/// As [`load_policy`], and a type that the device does not compute in, by the setting's name.
pub fn load_to_answer(
    name: &str,
    (dtype, setting): (AnswerDtype, &str),
    device: &Device,
) -> Result<Policy, TrainerError> {
    let (dtype, rollout_dtype) = dtype.parts();
    // The CPU's own loops round f32 weights themselves.
    let is_cpu = *device == Device::flex();
    let held = if is_cpu { DType::F32 } else { dtype.into() };
    TrainConfig::check_dtype(setting, device, dtype.into())?;
    let mut policy = load_policy(name, held, device)?;
    TrainConfig::check_rollout_dtype(setting, rollout_dtype, policy.model.is_fused())?;
    let tensors = tensor_dtype(&policy.model, dtype);
    let execution = Execution {
        compute: compute(dtype, tensors),
        generation: rollout_dtype.map(Packing::from),
        ..policy.model.execution()
    };
    policy.model = computing(&policy.model.with_execution(execution), tensors);
    Ok(policy)
}
