//! The entropy controllers of a run, and which of them go together.

use serde::{Deserialize, Serialize};

use super::{
    AdaptiveEntropy, BudgetLever, ClipCovControl, EntropyBonus, EntropyBudget, EntropyRatioClip,
    KlCovControl, ShapedAdvantage, TopEntropy,
};
use crate::{Granularity, LossError, PolicyLoss};

/// The `entropy` table: any of the controllers, over any loss that they make sense with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntropyControl {
    /// Clip-Cov's selection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_cov: Option<ClipCovControl>,
    /// KL-Cov's penalty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_cov: Option<KlCovControl>,
    /// A constant entropy bonus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bonus: Option<EntropyBonus>,
    /// An entropy bonus that follows a target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveEntropy>,
    /// A target that another controller's strength is steered to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<EntropyBudget>,
    /// Only the tokens of highest entropy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_entropy: Option<TopEntropy>,
    /// Entropy ratio clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_clip: Option<EntropyRatioClip>,
    /// Entropy-shaped advantages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shaped_advantage: Option<ShapedAdvantage>,
}

impl EntropyControl {
    /// Checks every setting, and that the controllers go with each other and with the loss.
    ///
    /// # Errors
    /// A setting out of range, or a combination that makes no sense, with the reason.
    pub fn validate(&self, loss: &dyn PolicyLoss) -> Result<(), LossError> {
        check(self.clip_cov.as_ref(), |c| c.validate("entropy.clip_cov"))?;
        check(self.kl_cov.as_ref(), |c| c.validate("entropy.kl_cov"))?;
        check(self.bonus.as_ref(), EntropyBonus::validate)?;
        check(self.adaptive.as_ref(), AdaptiveEntropy::validate)?;
        check(self.budget.as_ref(), EntropyBudget::validate)?;
        check(self.top_entropy.as_ref(), TopEntropy::validate)?;
        check(self.ratio_clip.as_ref(), EntropyRatioClip::validate)?;
        check(self.shaped_advantage.as_ref(), ShapedAdvantage::validate)?;
        self.check_combinations(loss)
    }

    fn check_combinations(&self, loss: &dyn PolicyLoss) -> Result<(), LossError> {
        let refuse = |first, second, reason| {
            Err(LossError::Combination {
                first,
                second,
                reason,
            })
        };
        let clip_cov = loss.clip_cov().is_some();
        let kl_cov = loss.kl_cov().is_some();
        if clip_cov && self.clip_cov.is_some() {
            return refuse(
                "loss.type = clip_cov",
                "entropy.clip_cov",
                "it would select twice",
            );
        }
        if kl_cov && self.kl_cov.is_some() {
            return refuse(
                "loss.type = kl_cov",
                "entropy.kl_cov",
                "it would penalise twice",
            );
        }
        let both = (clip_cov || self.clip_cov.is_some()) && (kl_cov || self.kl_cov.is_some());
        if both {
            return refuse(
                "Clip-Cov",
                "KL-Cov",
                "both hold the tokens of highest covariance back: one takes out the loss that the other penalises",
            );
        }
        if self.bonus.is_some() && self.adaptive.is_some() {
            return refuse(
                "entropy.bonus",
                "entropy.adaptive",
                "both set the factor of the same bonus",
            );
        }
        self.check_budget(
            clip_cov || self.clip_cov.is_some(),
            kl_cov || self.kl_cov.is_some(),
        )?;
        self.check_sequences(loss)
    }

    /// A budget needs what it steers, and to be alone at it.
    fn check_budget(&self, has_clip_cov: bool, has_kl_cov: bool) -> Result<(), LossError> {
        let Some(budget) = self.budget else {
            return Ok(());
        };
        let refuse = |second, reason| {
            Err(LossError::Combination {
                first: "entropy.budget",
                second,
                reason,
            })
        };
        if self.adaptive.is_some() {
            return refuse("entropy.adaptive", "both steer entropy to a target");
        }
        match budget.lever {
            BudgetLever::Bonus if self.bonus.is_some() => {
                refuse("entropy.bonus", "both set the factor of the same bonus")
            }
            BudgetLever::KlCoef if !has_kl_cov => refuse(
                "entropy.budget.lever = kl_coef",
                "that steers KL-Cov, which is not there: set loss.type = kl_cov",
            ),
            BudgetLever::Fraction if !has_clip_cov && !has_kl_cov => refuse(
                "entropy.budget.lever = fraction",
                "that steers Clip-Cov or KL-Cov, and neither is there: set loss.type = clip_cov or kl_cov",
            ),
            _ => Ok(()),
        }
    }

    /// A loss of whole sequences has no tokens that could be held back one by one.
    fn check_sequences(&self, loss: &dyn PolicyLoss) -> Result<(), LossError> {
        if loss.granularity() != Granularity::Sequence {
            return Ok(());
        }
        let token_wise = [
            ("entropy.clip_cov", self.clip_cov.is_some()),
            ("entropy.top_entropy", self.top_entropy.is_some()),
            ("entropy.ratio_clip", self.ratio_clip.is_some()),
        ];
        match token_wise.into_iter().find(|(_, is_on)| *is_on) {
            None => Ok(()),
            Some((first, _)) => Err(LossError::Combination {
                first,
                second: "loss.type = gmpo",
                reason: "that loss is one number for a whole sequence, of which no token can be held back",
            }),
        }
    }

    /// Whether any controller needs the current entropies of a micro-batch.
    pub fn needs_entropies(&self) -> bool {
        self.needs_entropy_gradient()
            || self.ratio_clip.is_some()
            || self.shaped_advantage.is_some()
    }

    /// Whether their gradient is needed too.
    pub fn needs_entropy_gradient(&self) -> bool {
        let has_budget = |budget: EntropyBudget| budget.lever == BudgetLever::Bonus;
        self.bonus.is_some() || self.adaptive.is_some() || self.budget.is_some_and(has_budget)
    }
}

/// Checks a controller, where there is one.
fn check<C>(
    control: Option<&C>,
    validate: impl Fn(&C) -> Result<(), LossError>,
) -> Result<(), LossError> {
    control.map_or(Ok(()), validate)
}
