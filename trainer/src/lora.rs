//! Runs that train low-rank adapters (LoRA, arXiv 2106.09685) in place of the weights.

use std::{fs, path::Path};

use burn::tensor::{DType, Device};
use config::ValueKind;
use policy::{AdapterBase, LoraConfig, Policy};

use crate::{
    TrainConfig, Trainer, TrainerError,
    base::load_over,
    config::{check, check_count},
    durable::io_at,
};

/// The adapters' folder in a checkpoint, beside the weights that they are merged into.
pub(crate) const ADAPTER: &str = "adapter";

/// Settings below any file and command line where adapters are trained: they want about ten times the rate of all weights.
pub(crate) fn vetted(lora: Option<&LoraConfig>) -> Vec<(String, ValueKind)> {
    let rate = lora.map(|_| ("optimizer.learning_rate".to_owned(), 1e-5.into()));
    rate.into_iter().collect()
}

/// Refuses adapters that are none.
pub(crate) fn validate(lora: Option<&LoraConfig>) -> Result<(), TrainerError> {
    let Some(LoraConfig {
        rank,
        alpha,
        targets,
    }) = lora
    else {
        return Ok(());
    };
    check_count("lora.rank", *rank, 1)?;
    let is_factor = LoraConfig::ALPHAS.contains(alpha);
    check("lora.alpha", is_factor, "in 1e-6..=1e6", alpha)?;
    let names: Vec<&str> = targets.iter().map(|target| target.name()).collect();
    let mut distinct = names.clone();
    distinct.sort_unstable();
    distinct.dedup();
    check(
        "lora.targets",
        !names.is_empty() && distinct.len() == names.len(),
        "one or more layers, each once",
        format!("{names:?}"),
    )
}

/// The policy with its weights frozen and adapters on them, where the configuration has any.
pub(crate) fn attach(
    mut policy: Policy,
    lora: Option<&LoraConfig>,
    seed: u64,
) -> Result<Policy, TrainerError> {
    check(
        "the policy",
        !policy.model.has_adapters(),
        "without adapters, which a run attaches itself (CausalLm::merged)",
        "one with them",
    )?;
    let Some(lora) = lora else {
        return Ok(policy);
    };
    let widest = policy.config.hidden_size;
    check(
        "lora.rank",
        lora.rank <= widest,
        &format!("at most the model's hidden_size, {widest}"),
        lora.rank,
    )?;
    policy.model = policy.model.with_lora(lora, seed);
    Ok(policy)
}

/// A policy whose frozen weights, if it has adapters, are held in the type that they are computed in; the CPU's own form rounds what it
/// packs.
pub(crate) fn hold_frozen(mut policy: Policy, dtype: DType) -> Policy {
    if policy.model.has_adapters() && !policy.model.is_fused() && dtype != DType::F32 {
        policy.model = policy.model.holding_frozen_as(dtype);
    }
    policy
}

/// The policy that [`Trainer::new`] and then [`Trainer::load_state`] go on from a checkpoint with: the checkpoint's own, or, where
/// the run trains adapters, the weights that these are for, with all else as the checkpoint has it.
///
/// # Errors
/// A checkpoint or a model that is not there, or not one.
pub fn resume_policy(
    config: &TrainConfig,
    checkpoint: &Path,
    device: &Device,
) -> Result<Policy, TrainerError> {
    if config.lora.is_none() {
        return Ok(Policy::load(checkpoint, DType::F32, device)?);
    }
    let model = &config.model.path;
    load_over(checkpoint, model, device).map_err(|source| TrainerError::BaseGone {
        checkpoint: checkpoint.to_owned(),
        model: model.clone(),
        source: Box::new(source),
    })
}

impl Trainer {
    /// Writes the adapters beside a checkpoint's weights, as PEFT keeps them.
    pub(crate) fn save_adapters(&self, checkpoint: &Path) -> Result<(), TrainerError> {
        let Some(lora) = &self.config.lora else {
            return Ok(());
        };
        let folder = checkpoint.join(ADAPTER);
        fs::create_dir_all(&folder).map_err(io_at(&folder))?;
        let base = AdapterBase::of(&self.config.model.path);
        Ok(self.policy.model.save_adapters(lora, &base, &folder)?)
    }

    /// Takes the adapters from a checkpoint, whose state has the fingerprint of the model that they were trained on.
    pub(crate) fn load_adapters(
        &mut self,
        checkpoint: &Path,
        fingerprint: Option<&str>,
    ) -> Result<(), TrainerError> {
        if self.config.lora.is_none() {
            return Ok(());
        }
        if fingerprint != self.state.start_fingerprint.as_deref() {
            return Err(TrainerError::OtherStart {
                checkpoint: checkpoint.to_owned(),
                model: self.config.model.path.clone(),
            });
        }
        let model = self.policy.model.clone();
        self.policy.model = model.load_adapters(&checkpoint.join(ADAPTER))?;
        Ok(())
    }
}
