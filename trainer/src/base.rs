//! The bundled base: a small decoder that the library carries, made by `recipes/base.toml`.

use std::{fs, path::Path};

use burn::tensor::{DType, Device};
use config::ValueKind;
use losses::{BudgetLever, LossConfig};
use policy::{Policy, Tokenizer, resolve_model};

use crate::{TrainConfig, TrainerError};

const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../base/config.json")),
    (
        "model.safetensors",
        include_bytes!("../base/model.safetensors"),
    ),
    ("tokenizer.json", include_bytes!("../base/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../base/tokenizer_config.json"),
    ),
];

/// Settings vetted for the bundled base on the built-in task (EXPERIMENTS.md), below any file and command line.
///
/// The fractions of the entropy controllers are the paper's times ten or more: its mini-batches have hundreds of
/// thousands of tokens, these a thousand, of which a share of 2e-4 is none.
pub(crate) fn base_settings(config: &TrainConfig) -> Vec<(String, ValueKind)> {
    // Adapters want more; here 8e-4, ten times the rate of all weights, learns less than 2e-4.
    let rate = if config.lora.is_some() { 2e-4 } else { 8e-5 };
    let mut settings: Vec<(&str, ValueKind)> = vec![
        ("optimizer.learning_rate", rate.into()),
        ("rollout.max_new_tokens", 64.into()),
        // Its tokenizer knows the task's characters alone.
        ("data.instruction", "".into()),
        ("update.max_tokens", 1024.into()),
        ("validation.problems", 512.into()),
    ];
    match config.loss.loss {
        LossConfig::KlCov(_) => {
            settings.push(("loss.top_fraction", 0.05.into()));
            settings.push(("loss.kl_coef", 1.15.into()));
        }
        LossConfig::ClipCov(_) => {
            settings.push(("loss.fraction", 0.011.into()));
            settings.push(("loss.cov_high", 20.0.into()));
            settings.push(("loss.clip_low", 0.2.into()));
            settings.push(("loss.clip_high", 0.28.into()));
        }
        _ => (),
    }
    let lever = config.entropy.budget.map(|budget| budget.lever);
    if lever == Some(BudgetLever::Bonus) {
        // The default of 0.01, at its largest strength, lets entropy fall to 0.05 nats where 0.08 are wanted.
        settings.push(("entropy.budget.bonus_coef", 0.05.into()));
    }
    let own = |(key, value): (&str, ValueKind)| (key.to_owned(), value);
    settings.into_iter().map(own).collect()
}

/// Loads a model by folder or hub name, or the bundled base where the name is empty.
///
/// # Errors
/// A model that is not there, or not one.
pub fn load_policy(name: &str, dtype: DType, device: &Device) -> Result<Policy, TrainerError> {
    if name.is_empty() {
        return bundled_base(dtype, device);
    }
    Ok(Policy::load(&resolve_model(name)?, dtype, device)?)
}

/// The weights of a model that [`load_policy`] finds, with all else as a checkpoint of a run that began with it has it.
pub(crate) fn load_over(
    checkpoint: &Path,
    name: &str,
    device: &Device,
) -> Result<Policy, TrainerError> {
    let policy = if name.is_empty() {
        Policy::load_over(checkpoint, unpacked()?.path(), DType::F32, device)
    } else {
        Policy::load_over(checkpoint, &resolve_model(name)?, DType::F32, device)
    };
    Ok(policy?)
}

/// Loads the bundled base.
///
/// # Errors
/// The system's folder for temporary files cannot be written: the files pass through it.
pub fn bundled_base(dtype: DType, device: &Device) -> Result<Policy, TrainerError> {
    Ok(Policy::load(unpacked()?.path(), dtype, device)?)
}

/// Loads the bundled base's tokenizer alone.
///
/// # Errors
/// As [`bundled_base`].
pub fn bundled_tokenizer() -> Result<Tokenizer, TrainerError> {
    Ok(Tokenizer::load(unpacked()?.path())?)
}

/// The base's files in a folder that lasts as long as its handle.
fn unpacked() -> Result<tempfile::TempDir, TrainerError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| TrainerError::Io { path, source }
    };
    let dir = tempfile::tempdir().map_err(io(&std::env::temp_dir()))?;
    for (name, bytes) in FILES {
        let path = dir.path().join(name);
        fs::write(&path, bytes).map_err(io(&path))?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use crate::TrainConfig;

    #[test]
    fn a_budget_of_a_bonus_has_the_base_s_own_factor_unless_one_is_set() {
        let coef = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
            let config = TrainConfig::load(None, &settings).unwrap();
            config.entropy.budget.map(|budget| budget.bonus_coef)
        };
        assert_eq!(coef(&["entropy.budget.target_nats=0.08"]), Some(0.05));
        assert_eq!(coef(&["entropy.budget.bonus_coef=0.02"]), Some(0.02));
        assert_eq!(coef(&[]), None);
        let other = ["entropy.budget.target_nats=0.08", "model.path=other"];
        assert_eq!(coef(&other), Some(0.01));
    }
}
