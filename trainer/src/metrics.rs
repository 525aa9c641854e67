//! What a step measured: a line of `metrics.jsonl`. METRICS.md defines each key.

use std::collections::BTreeMap;

use entropy::RankMeans;
use serde::{Deserialize, Serialize};

/// One step's figures. A figure that a step did not measure is NaN, which JSON shows as null; figures of parts that
/// only some runs have are left out of the line where the run has not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "METRICS.md defines every key by formula, unit and estimator"
)]
pub struct StepMetrics {
    pub step: u64,
    #[serde(deserialize_with = "nullable")]
    pub reward_mean: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_std: Option<f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub reward_parts: BTreeMap<String, f64>,
    #[serde(deserialize_with = "nullable")]
    pub accuracy_mean: f64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub accuracy_by_source: BTreeMap<String, f64>,
    #[serde(deserialize_with = "nullable")]
    pub entropy_token_mean: f64,
    #[serde(deserialize_with = "nullable")]
    pub entropy_response_mean: f64,
    #[serde(deserialize_with = "nullable")]
    pub entropy_rollout_temperature: f64,
    #[serde(deserialize_with = "nullable")]
    pub entropy_sampled: f64,
    #[serde(deserialize_with = "nullable")]
    pub covariance_mean: f64,
    pub covariance_quantiles: Option<RankMeans>,
    #[serde(deserialize_with = "nullable")]
    pub entropy_prompt_mean: f64,
    #[serde(deserialize_with = "nullable")]
    pub entropy_change: f64,
    #[serde(deserialize_with = "nullable")]
    pub entropy_change_lemma: f64,
    #[serde(deserialize_with = "nullable")]
    pub entropy_change_theorem_1: f64,
    #[serde(deserialize_with = "nullable")]
    pub entropy_change_theorem_2: f64,
    pub by_difficulty: BTreeMap<Difficulty, PartMetrics>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_source: BTreeMap<String, PartMetrics>,
    pub selected_tokens: u64,
    #[serde(deserialize_with = "nullable")]
    pub selected_fraction: f64,
    #[serde(deserialize_with = "nullable")]
    pub policy_loss: f64,
    #[serde(deserialize_with = "nullable")]
    pub clip_fraction: f64,
    #[serde(deserialize_with = "nullable")]
    pub approx_kl: f64,
    #[serde(deserialize_with = "nullable")]
    pub grad_norm: f64,
    #[serde(deserialize_with = "nullable")]
    pub learning_rate: f64,
    #[serde(deserialize_with = "nullable")]
    pub response_length_mean: f64,
    #[serde(deserialize_with = "nullable")]
    pub truncated_fraction: f64,
    pub groups_kept: u64,
    pub groups_sampled: u64,
    pub updates: u64,
    pub skipped_updates: u64,
    #[serde(deserialize_with = "nullable")]
    pub sampler_log_prob_gap: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler_kl: Option<f64>,
    pub groups_dropped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups_all_right: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups_all_wrong: Option<u64>,
    pub rewards_missing: u64,
    pub verdicts_undecided: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected_from_minimum: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction_weight_mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_bonus: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_target: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_strength: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_fraction: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_kl: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_clip_fraction: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection_occupancy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected_covariance_mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected_entropy_mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected_probability_mean: Option<f64>,
    pub tokens_generated: u64,
    #[serde(deserialize_with = "nullable")]
    pub generate_seconds: f64,
    #[serde(deserialize_with = "nullable")]
    pub update_seconds: f64,
    #[serde(deserialize_with = "nullable")]
    pub step_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
}

/// How hard a problem is for the policy as it is, by the share of its group's responses that are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difficulty {
    /// Fewer than a third.
    Hard,
    /// A third to two thirds.
    Medium,
    /// More than two thirds.
    Easy,
}

impl Difficulty {
    /// Of a group with so many right among its responses.
    pub fn of(correct: usize, responses: usize) -> Self {
        if 3 * correct < responses {
            Self::Hard
        } else if 3 * correct <= 2 * responses {
            Self::Medium
        } else {
            Self::Easy
        }
    }
}

/// Figures of some of the kept groups.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "METRICS.md defines every key by formula, unit and estimator"
)]
pub struct PartMetrics {
    pub groups: u64,
    #[serde(deserialize_with = "nullable")]
    pub entropy_token_mean: f64,
    #[serde(deserialize_with = "nullable")]
    pub covariance_mean: f64,
}

impl Default for StepMetrics {
    fn default() -> Self {
        Self {
            step: 0,
            reward_mean: f64::NAN,
            reward_std: None,
            reward_parts: BTreeMap::new(),
            accuracy_mean: f64::NAN,
            accuracy_by_source: BTreeMap::new(),
            entropy_token_mean: f64::NAN,
            entropy_response_mean: f64::NAN,
            entropy_rollout_temperature: f64::NAN,
            entropy_sampled: f64::NAN,
            covariance_mean: f64::NAN,
            covariance_quantiles: None,
            entropy_prompt_mean: f64::NAN,
            entropy_change: f64::NAN,
            entropy_change_lemma: f64::NAN,
            entropy_change_theorem_1: f64::NAN,
            entropy_change_theorem_2: f64::NAN,
            by_difficulty: BTreeMap::new(),
            by_source: BTreeMap::new(),
            selected_tokens: 0,
            selected_fraction: f64::NAN,
            policy_loss: f64::NAN,
            clip_fraction: f64::NAN,
            approx_kl: f64::NAN,
            grad_norm: f64::NAN,
            learning_rate: f64::NAN,
            response_length_mean: f64::NAN,
            truncated_fraction: f64::NAN,
            groups_kept: 0,
            groups_sampled: 0,
            updates: 0,
            skipped_updates: 0,
            sampler_log_prob_gap: f64::NAN,
            sampler_kl: None,
            groups_dropped: 0,
            groups_all_right: None,
            groups_all_wrong: None,
            rewards_missing: 0,
            verdicts_undecided: 0,
            selected_from_minimum: None,
            correction_weight_mean: None,
            entropy_bonus: None,
            entropy_target: None,
            entropy_strength: None,
            held_fraction: None,
            reference_kl: None,
            value_loss: None,
            value_clip_fraction: None,
            selection_occupancy: None,
            selected_covariance_mean: None,
            selected_entropy_mean: None,
            selected_probability_mean: None,
            tokens_generated: 0,
            generate_seconds: f64::NAN,
            update_seconds: f64::NAN,
            step_seconds: f64::NAN,
            validation_accuracy: None,
        }
    }
}

fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_part_difficulties() {
        use Difficulty::{Easy, Hard, Medium};
        let found: Vec<Difficulty> = (0..=8).map(|correct| Difficulty::of(correct, 8)).collect();
        assert_eq!(
            found,
            [Hard, Hard, Hard, Medium, Medium, Medium, Easy, Easy, Easy]
        );
        assert_eq!(Difficulty::of(1, 3), Medium);
        assert_eq!(Difficulty::of(2, 3), Medium);
    }
}
