//! The loss as it stands in a configuration file.

use serde::{Deserialize, Serialize};

use crate::{
    Aggregation, CeGppo, Cispo, ClipCov, Gmpo, Granularity, Gspo, KlCov, LossError, PolicyLoss,
    PpoClip, ReferenceKl, Reinforce, RolloutCorrection, Sapo, error::check_range,
};

/// Which policy loss to minimise, tagged by `type`: `{"type": "clip_cov", "fraction": 2e-4}`.
/// Unknown keys are refused.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LossConfig {
    /// PPO's clip, with clip-higher and the dual clip.
    PpoClip(PpoClip),
    /// The plain policy gradient.
    #[serde(alias = "gpg")]
    Reinforce(Reinforce),
    /// The ratio of whole sequences.
    Gspo(Gspo),
    /// A clipped weight on the log-probability.
    Cispo(Cispo),
    /// A soft gate in the place of the clip.
    Sapo(Sapo),
    /// The geometric mean of a sequence's ratios.
    Gmpo(Gmpo),
    /// A bounded gradient outside the clip.
    CeGppo(CeGppo),
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
    /// The default of every type, in the order of the enum.
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::PpoClip(PpoClip::default()),
            Self::Reinforce(Reinforce {}),
            Self::Gspo(Gspo::default()),
            Self::Cispo(Cispo::default()),
            Self::Sapo(Sapo::default()),
            Self::Gmpo(Gmpo::default()),
            Self::CeGppo(CeGppo::default()),
            Self::ClipCov(ClipCov::default()),
            Self::KlCov(KlCov::default()),
        ]
    }

    /// The loss itself.
    pub fn policy_loss(&self) -> &dyn PolicyLoss {
        match self {
            Self::PpoClip(loss) => loss,
            Self::Reinforce(loss) => loss,
            Self::Gspo(loss) => loss,
            Self::Cispo(loss) => loss,
            Self::Sapo(loss) => loss,
            Self::Gmpo(loss) => loss,
            Self::CeGppo(loss) => loss,
            Self::ClipCov(loss) => loss,
            Self::KlCov(loss) => loss,
        }
    }
}

/// The whole `loss` table: the loss's own keys, how it is aggregated, a penalty on the divergence
/// from a reference policy, and a correction for the sampler's numerics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveConfig {
    /// The loss.
    #[serde(flatten)]
    pub loss: LossConfig,
    /// How per-token losses become a scalar; unset, as the loss's reference does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Aggregation>,
    /// The length that [`Aggregation::SeqMeanTokenSumNorm`] divides by, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant_length_tokens: Option<f64>,
    /// A KL penalty to the reference policy; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_kl: Option<ReferenceKl>,
    /// Importance weights between the sampler and the trainer; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_correction: Option<RolloutCorrection>,
}

impl ObjectiveConfig {
    /// The aggregation, the loss's own where none is set.
    pub fn aggregation(&self) -> Aggregation {
        self.aggregation_for(self.loss.policy_loss())
    }

    /// The same of a loss in the place of the configuration's.
    pub fn aggregation_for(&self, loss: &dyn PolicyLoss) -> Aggregation {
        self.aggregation
            .unwrap_or_else(|| loss.default_aggregation())
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range or missing.
    pub fn validate(&self) -> Result<(), LossError> {
        self.validate_for(self.loss.policy_loss())
    }

    /// The same of a loss in the place of the configuration's.
    ///
    /// # Errors
    /// As [`ObjectiveConfig::validate`].
    pub fn validate_for(&self, loss: &dyn PolicyLoss) -> Result<(), LossError> {
        loss.validate()?;
        self.reference_kl.map_or(Ok(()), |kl| kl.validate())?;
        self.rollout_correction.map_or(Ok(()), |c| c.validate())?;
        self.check_aggregation(loss)
    }

    fn check_aggregation(&self, loss: &dyn PolicyLoss) -> Result<(), LossError> {
        let aggregation = self.aggregation_for(loss);
        let is_sequence_loss = loss.granularity() == Granularity::Sequence;
        if is_sequence_loss && aggregation != Aggregation::SeqMeanTokenMean {
            return Err(LossError::Combination {
                first: "a loss of whole sequences (gmpo)",
                second: "this loss.aggregation",
                reason: "its loss is one number for a sequence; only seq_mean_token_mean is their mean",
            });
        }
        match self.constant_length_tokens {
            None if aggregation == Aggregation::SeqMeanTokenSumNorm => {
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
    use crate::{AdvantageConfig, CovPenalty, GrpoScale, SelectionScope};

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
    fn every_type_reads_its_own_default() {
        let defaults = LossConfig::defaults();
        for default in &defaults {
            let value = serde_json::to_value(default).unwrap();
            assert_eq!(loss(json!({"type": value["type"]})).unwrap(), *default);
            assert!(default.policy_loss().validate().is_ok());
        }
        let discriminants: std::collections::HashSet<_> =
            defaults.iter().map(std::mem::discriminant).collect();
        assert_eq!(discriminants.len(), defaults.len());
        assert_eq!(
            loss(json!({"type": "gpg"})).unwrap(),
            LossConfig::Reinforce(Reinforce {})
        );
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
        assert_eq!(config.aggregation(), Aggregation::SeqMeanTokenMean);
        let control = config.loss.policy_loss().clip_cov().unwrap();
        assert_eq!(control.selection, SelectionScope::MicroBatch);
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
        for config in AdvantageConfig::defaults() {
            let value = serde_json::to_value(config).unwrap();
            assert_eq!(parse(json!({"type": value["type"]})).unwrap(), config);
        }
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
                "loss.fraction",
            ),
            (
                json!({"type": "clip_cov", "fraction": 1.5}),
                "loss.fraction",
            ),
            (json!({"type": "clip_cov", "cov_low": 5.0}), "loss.cov_low"),
            (
                json!({"type": "kl_cov", "top_fraction": 20.0}),
                "loss.top_fraction",
            ),
            (json!({"type": "kl_cov", "kl_coef": -1.0}), "loss.kl_coef"),
        ] {
            let loss = loss(value).unwrap();
            let message = loss.policy_loss().validate().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
        let mut config = ObjectiveConfig {
            aggregation: Some(Aggregation::SeqMeanTokenSumNorm),
            ..ObjectiveConfig::default()
        };
        assert_eq!(config.validate(), Err(LossError::MissingConstantLength));
        config.constant_length_tokens = Some(512.0);
        assert_eq!(config.validate(), Ok(()));
    }
}
