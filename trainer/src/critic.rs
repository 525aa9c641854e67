//! The critic of PPO: a value head on the policy's trunk, or on one of its own.

use std::{fs, path::Path};

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer},
    tensor::{DType, Device, Gradients, Tensor},
};
use losses::ValueLoss;
use policy::{CausalLm, SaveDtype, ValueHead, load_weights, save_weights};
use serde::{Deserialize, Serialize};

use crate::{
    OptimizerSection, TrainerError,
    batch::Collated,
    config::check,
    optimizer::{adamw, clip, gradient_norm, load_optimizer, save_optimizer},
    pass::{Below, Pass},
};

/// Whose hidden states the value head reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriticTrunk {
    /// Those of a model of its own, a copy of the policy that the run starts from.
    #[default]
    Own,
    /// The policy's: half the memory and time, and the value loss moves the policy's trunk too.
    Policy,
}

/// The critic, used where `advantage.type` is `gae`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CriticSection {
    /// Whose hidden states it reads.
    pub trunk: CriticTrunk,
    /// The optimizer's rate for the critic.
    pub learning_rate: f64,
    /// The clip of the value loss.
    pub clip: f64,
    /// The factor of the value loss, where it shares the policy's trunk.
    pub coef: f64,
    /// Steps in which the critic alone learns.
    pub warmup_steps: u64,
}

impl Default for CriticSection {
    fn default() -> Self {
        Self {
            trunk: CriticTrunk::Own,
            learning_rate: 1e-5,
            clip: ValueLoss::default().clip,
            coef: 0.1,
            warmup_steps: 0,
        }
    }
}

impl CriticSection {
    pub(crate) fn validate(&self) -> Result<(), TrainerError> {
        self.loss().validate()?;
        let is_rate = (0.0..=1.0).contains(&self.learning_rate);
        check(
            "critic.learning_rate",
            is_rate,
            "in 0..=1",
            self.learning_rate,
        )?;
        let is_factor = self.coef.is_finite() && self.coef >= 0.0;
        check("critic.coef", is_factor, "0 or more", self.coef)
    }

    pub(crate) fn loss(&self) -> ValueLoss {
        ValueLoss { clip: self.clip }
    }
}

const HEAD: &str = "value_head.safetensors";
const TRUNK: &str = "critic";
const OPTIMIZER: &str = "critic_optimizer.bpk";

/// The critic's modules.
#[derive(Module, Debug)]
pub(crate) struct CriticModel {
    /// None where it reads the policy's hidden states.
    pub(crate) trunk: Option<CausalLm>,
    pub(crate) head: ValueHead,
}

/// The critic and what updates it.
pub(crate) struct Critic {
    pub(crate) config: CriticSection,
    pub(crate) model: CriticModel,
    optimizer: ModuleOptimizer,
    max_grad_norm: f64,
}

impl Critic {
    pub(crate) fn new(
        config: &CriticSection,
        optimizer: &OptimizerSection,
        policy: &CausalLm,
    ) -> Self {
        let device = policy.device();
        let trunk = match config.trunk {
            CriticTrunk::Own => Some(policy.clone()),
            CriticTrunk::Policy => None,
        };
        Self {
            config: config.clone(),
            model: CriticModel {
                trunk,
                head: ValueHead::new(policy.hidden_size(), &device),
            },
            optimizer: adamw(optimizer),
            max_grad_norm: optimizer.max_grad_norm,
        }
    }

    /// Makes an update; says whether the gradient was finite, without which nothing changes.
    pub(crate) fn apply(&mut self, gradients: GradientsParams) -> bool {
        let norm = gradient_norm(&self.model, &gradients);
        if !norm.is_finite() {
            return false;
        }
        let gradients = clip(&self.model, gradients, norm, self.max_grad_norm);
        // Taken out rather than cloned: what nothing else holds is updated in place.
        let empty = CriticModel {
            trunk: None,
            head: self.model.head.clone(),
        };
        let model = std::mem::replace(&mut self.model, empty);
        self.model = self
            .optimizer
            .step(self.config.learning_rate, model, gradients);
        true
    }

    /// Writes the critic beside a checkpoint's policy.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), TrainerError> {
        self.model.head.save(&folder.join(HEAD))?;
        if let Some(trunk) = &self.model.trunk {
            let path = folder.join(TRUNK);
            fs::create_dir_all(&path).map_err(|source| TrainerError::Io {
                path: path.clone(),
                source,
            })?;
            save_weights(trunk, &path, SaveDtype::F32)?;
        }
        let file = folder.join(OPTIMIZER);
        save_optimizer(&self.optimizer, &file)
    }

    /// Takes the critic from a checkpoint.
    pub(crate) fn load(&mut self, folder: &Path) -> Result<(), TrainerError> {
        let device: Device = match &self.model.trunk {
            Some(trunk) => trunk.device(),
            None => self.model.head.device(),
        };
        let width = self.model.head.hidden_size();
        self.model.head = ValueHead::load(&folder.join(HEAD), width, &device)?;
        if let Some(trunk) = self.model.trunk.take() {
            self.model.trunk = Some(load_weights(trunk, &folder.join(TRUNK), DType::F32)?);
        }
        let file = folder.join(OPTIMIZER);
        self.optimizer = load_optimizer(&self.optimizer, &file)?;
        Ok(())
    }
}

impl CriticModel {
    /// The same with a trunk that computes in another type; the head is f32 always.
    pub(crate) fn cast(self, dtype: DType) -> Self {
        let trunk = self.trunk.map(|trunk| trunk.cast(dtype));
        Self { trunk, ..self }
    }

    /// The same with a graph, from weights in f32 as `dtype` computes them, and the way back below a trunk of its own.
    pub(crate) fn tracked_values(
        &self,
        policy_hidden: &Tensor<2>,
        collated: &Collated,
        (dtype, kept): (DType, usize),
    ) -> (Tensor<1>, Below) {
        match &self.trunk {
            Some(trunk) => {
                let pass = Pass::new(collated, trunk, dtype, kept);
                (self.head.values(pass.hidden.clone()), pass.below())
            }
            None => (self.head.values(policy_hidden.clone()), Below::nothing()),
        }
    }

    /// What a loss's backward pass left for the critic, and its trunk's blocks below.
    pub(crate) fn gradients(&self, below: Below, above: Gradients) -> GradientsParams {
        let mut total = GradientsAccumulator::<Self>::default();
        let mut rest = match &self.trunk {
            Some(trunk) => {
                let (own, rest) = below.gradients(trunk, above);
                total.accumulate(self, own);
                rest
            }
            None => above,
        };
        total.accumulate(self, GradientsParams::from_module(&mut rest, self));
        total.grads()
    }

    /// The value of each state, from the hidden states that the policy made of them or from its own.
    pub(crate) fn values(
        &self,
        policy_hidden: &Tensor<2>,
        own_hidden: impl FnOnce(&CausalLm) -> Tensor<2>,
    ) -> Tensor<1> {
        match &self.trunk {
            Some(trunk) => self.head.values(own_hidden(trunk)),
            None => self.head.values(policy_hidden.clone()),
        }
    }
}
