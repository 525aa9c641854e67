//! The loss as it stands in a configuration file.

use serde::{Deserialize, Serialize};

use crate::{
    Aggregation, ClipCov, KlCov, LossError, PpoClip, ReferenceKl, SelectionScope,
    error::check_range,
};

/// Which policy loss to minimise, tagged by `type`: `{"type": "clip_cov", "fraction": 2e-4}`.
/// Unknown keys are refused.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LossConfig {
    /// PPO's clip, with clip-higher and the dual clip.
    PpoClip(PpoClip),
    /// Clip-Cov.
    ClipCov(ClipCov),
    /// KL-Cov.
    KlCov(KlCov),
}

impl Default for LossConfig {
    fn default() -> Self {
        Self::PpoClip(PpoClip::default())
    }
}

impl LossConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), LossError> {
        match self {
            Self::PpoClip(clip) => clip.validate(),
            Self::ClipCov(clip_cov) => clip_cov.validate(),
            Self::KlCov(kl_cov) => kl_cov.validate(),
        }
    }

    /// Among which tokens the loss selects; `None` where it selects none.
    pub fn selection_scope(&self) -> Option<SelectionScope> {
        match self {
            Self::PpoClip(_) => None,
            Self::ClipCov(clip_cov) => Some(clip_cov.selection),
            Self::KlCov(kl_cov) => Some(kl_cov.selection),
        }
    }
}

/// The whole `loss` table: the loss's own keys, how it is aggregated, and a penalty on the
/// divergence from a reference policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveConfig {
    /// The loss.
    #[serde(flatten)]
    pub loss: LossConfig,
    /// How per-token losses become a scalar.
    #[serde(default)]
    pub aggregation: Aggregation,
    /// The length that [`Aggregation::SeqMeanTokenSumNorm`] divides by, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant_length_tokens: Option<f64>,
    /// A KL penalty to the reference policy; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_kl: Option<ReferenceKl>,
}

impl ObjectiveConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range or missing.
    pub fn validate(&self) -> Result<(), LossError> {
        self.loss.validate()?;
        if let Some(reference_kl) = &self.reference_kl {
            reference_kl.validate()?;
        }
        match self.constant_length_tokens {
            None if self.aggregation == Aggregation::SeqMeanTokenSumNorm => {
                Err(LossError::MissingConstantLength)
            }
            None => Ok(()),
            Some(length) => {
                let requirement = "it must be finite and above 0";
                check_range("loss.constant_length_tokens", length, requirement, |v| {
                    v.is_finite() && v > 0.0
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{AdvantageConfig, CovPenalty, GrpoScale};

    fn loss(value: serde_json::Value) -> Result<LossConfig, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bare_type_has_the_vetted_defaults() {
        let clip_cov = loss(json!({"type": "clip_cov"})).unwrap();
        assert_eq!(clip_cov, LossConfig::ClipCov(ClipCov::default()));
        let kl_cov = loss(json!({"type": "kl_cov", "penalty": "k2"})).unwrap();
        let expected = KlCov {
            penalty: CovPenalty::K2,
            ..KlCov::default()
        };
        assert_eq!(kl_cov, LossConfig::KlCov(expected));
        let dual = loss(json!({"type": "ppo_clip", "dual_clip": 3.0})).unwrap();
        let expected = PpoClip {
            dual_clip: Some(3.0),
            ..PpoClip::default()
        };
        assert_eq!(dual, LossConfig::PpoClip(expected));
    }

    #[test]
    fn unknown_keys_and_types_are_refused() {
        for value in [
            json!({"type": "ppo_clip", "clip_hihg": 0.3}),
            json!({"type": "ppo_clip", "fraction": 0.3}),
            json!({"type": "clip_cov", "top_fraction": 0.3}),
            json!({"type": "kl_cov", "clip_low": 0.3}),
            json!({"type": "kl_cov", "penalty": "k1"}),
            json!({"type": "vanilla"}),
            json!({"clip_low": 0.2}),
        ] {
            assert!(loss(value.clone()).is_err(), "{value}");
        }
        assert!(
            loss(json!({"type": "kl_cov", "clip_low": 0.3}))
                .unwrap_err()
                .contains("clip_low")
        );
    }

    #[test]
    fn the_loss_table_of_a_toml_file() {
        let text = "type = \"clip_cov\"\nfraction = 1e-3\naggregation = \"seq_mean_token_mean\"\n\
                    selection = \"micro_batch\"\n[reference_kl]\ncoef = 0.01\n";
        let config: ObjectiveConfig = toml::from_str(text).unwrap();
        assert_eq!(config.aggregation, Aggregation::SeqMeanTokenMean);
        assert_eq!(
            config.loss.selection_scope(),
            Some(SelectionScope::MicroBatch)
        );
        assert!((config.reference_kl.unwrap().coef - 0.01).abs() < 1e-15);
        let again: ObjectiveConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn the_loss_table_refuses_unknown_keys_too() {
        for text in [
            "type = \"ppo_clip\"\nagregation = \"token_mean\"",
            "type = \"kl_cov\"\nfraction = 0.1",
            "type = \"ppo_clip\"\n[reference_kl]\ncoeff = 0.1",
            "aggregation = \"token_mean\"",
        ] {
            assert!(toml::from_str::<ObjectiveConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn advantages_are_tagged_and_strict() {
        let parse = serde_json::from_value::<AdvantageConfig>;
        let AdvantageConfig::Grpo(grpo) = parse(json!({"type": "grpo", "scale": "batch"})).unwrap()
        else {
            panic!("not GRPO")
        };
        assert_eq!(grpo.scale, GrpoScale::Batch);
        assert!(
            parse(json!({"type": "dr_grpo"})).is_ok() && parse(json!({"type": "rloo"})).is_ok()
        );
        for value in [
            json!({"type": "dr_grpo", "scale": "group"}),
            json!({"type": "rloo", "epsilon": 1.0}),
            json!({"type": "grpo", "scale_by_std": true}),
        ] {
            assert!(parse(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (value, name) in [
            (
                json!({"type": "ppo_clip", "clip_low": -0.1}),
                "loss.clip_low",
            ),
            (
                json!({"type": "ppo_clip", "dual_clip": 1.0}),
                "loss.dual_clip",
            ),
            (
                json!({"type": "clip_cov", "fraction": 0.0}),
                "clip_cov.fraction",
            ),
            (
                json!({"type": "clip_cov", "fraction": 1.5}),
                "clip_cov.fraction",
            ),
            (
                json!({"type": "clip_cov", "cov_low": 5.0}),
                "clip_cov.cov_low",
            ),
            (
                json!({"type": "kl_cov", "top_fraction": 20.0}),
                "kl_cov.top_fraction",
            ),
            (json!({"type": "kl_cov", "kl_coef": -1.0}), "kl_cov.kl_coef"),
        ] {
            let message = loss(value).unwrap().validate().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
        let mut config = ObjectiveConfig {
            aggregation: Aggregation::SeqMeanTokenSumNorm,
            ..ObjectiveConfig::default()
        };
        assert_eq!(config.validate(), Err(LossError::MissingConstantLength));
        config.constant_length_tokens = Some(512.0);
        assert_eq!(config.validate(), Ok(()));
    }
}
