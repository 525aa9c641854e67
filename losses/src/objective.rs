//! The one entry that a trainer calls, whatever the algorithm.

use burn::tensor::Tensor;

use crate::{
    ClipCov, Denominator, LossConfig, LossError, LossInputs, LossOutput, LossStats,
    ObjectiveConfig, PerToken, Selection, SelectionKey, SelectionScope, SelectionView, aggregate,
    importance_weighted, kl_estimate, stats::StatMaps,
};

/// A validated objective.
///
/// For each mini-batch: where [`needs_selection`](Self::needs_selection), call
/// [`select`](Self::select) on the host, once for the mini-batch or once for each micro-batch as
/// [`selection_scope`](Self::selection_scope) says; then [`evaluate`](Self::evaluate) each
/// micro-batch with its rows of the selection and the mini-batch's [`Denominator`].
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyObjective {
    config: ObjectiveConfig,
}

impl PolicyObjective {
    /// Checks the configuration.
    ///
    /// # Errors
    /// The first setting that is out of its range or missing.
    pub fn new(config: ObjectiveConfig) -> Result<Self, LossError> {
        config.validate()?;
        Ok(Self { config })
    }

    /// The configuration.
    pub fn config(&self) -> &ObjectiveConfig {
        &self.config
    }

    /// Whether [`evaluate`](Self::evaluate) needs a selection.
    pub fn needs_selection(&self) -> bool {
        self.selection_scope().is_some()
    }

    /// Among which tokens to select; `None` where nothing is selected.
    pub fn selection_scope(&self) -> Option<SelectionScope> {
        self.config.loss.selection_scope()
    }

    /// Whether [`evaluate`](Self::evaluate) needs the reference policy's log-probabilities.
    pub fn needs_reference(&self) -> bool {
        self.config.reference_kl.is_some()
    }

    /// One warning for each part of the objective that does nothing as configured.
    pub fn warnings(&self, updates_per_rollout: usize) -> Vec<String> {
        match &self.config.loss {
            LossConfig::PpoClip(_) | LossConfig::ClipCov(_) => Vec::new(),
            LossConfig::KlCov(kl_cov) => {
                kl_cov.inertness(updates_per_rollout).into_iter().collect()
            }
        }
    }

    /// What the whole mini-batch divides by, from its mask.
    ///
    /// # Shapes
    /// `mask`: `[rows, response_len]`, row-major.
    ///
    /// # Panics
    /// If the mask is no multiple of `response_len`.
    pub fn denominator(&self, mask: &[f32], response_len: usize) -> Denominator {
        let denominator = Denominator::from_mask(mask, response_len);
        match self.config.constant_length_tokens {
            Some(length) => denominator.with_constant_length(length),
            None => denominator,
        }
    }

    /// Selects tokens on the host; `None` where the objective selects none.
    ///
    /// # Errors
    /// A trained token that is not finite.
    ///
    /// # Panics
    /// If the view's lengths differ.
    pub fn select(
        &self,
        view: &SelectionView,
        key: &SelectionKey,
    ) -> Result<Option<Selection>, LossError> {
        match &self.config.loss {
            LossConfig::PpoClip(_) => Ok(None),
            LossConfig::ClipCov(clip_cov) => clip_cov.select(view, key).map(Some),
            LossConfig::KlCov(kl_cov) => kl_cov.select(view).map(Some),
        }
    }

    /// A micro-batch's share of the mini-batch's loss, with its statistics.
    ///
    /// # Shapes
    /// `inputs` and `selection`: `[batch, response_len]`.
    ///
    /// # Panics
    /// If shapes differ, or a selection or the reference's log-probabilities are missing where the
    /// objective needs them.
    pub fn evaluate(
        &self,
        inputs: &LossInputs,
        selection: Option<Tensor<2>>,
        denominator: &Denominator,
    ) -> LossOutput {
        let inputs = inputs.without_padding();
        if let Some(selected) = &selection {
            let (found, expected) = (selected.dims(), inputs.mask.dims());
            assert_eq!(
                found, expected,
                "the selection is {found:?}, the batch {expected:?}"
            );
        }
        let log_ratio = inputs.log_ratio();
        let PerToken { mut loss, clipped } = self.per_token(
            log_ratio.clone(),
            inputs.advantages.clone(),
            selection.clone(),
        );
        let reference_kl = self.reference_kl(&inputs);
        if let Some((penalty, _)) = &reference_kl {
            loss = loss + penalty.clone();
        }
        let mask = inputs.mask.without_autodiff();
        let loss = aggregate(loss, mask.clone(), self.config.aggregation, denominator);
        let stats = LossStats::of(StatMaps {
            mask,
            log_ratio: log_ratio.without_autodiff(),
            clipped,
            selected: selection.map(Tensor::without_autodiff),
            reference_kl: reference_kl.map(|(_, estimate)| estimate.without_autodiff()),
        });
        LossOutput { loss, stats }
    }

    fn per_token(
        &self,
        log_ratio: Tensor<2>,
        advantages: Tensor<2>,
        selection: Option<Tensor<2>>,
    ) -> PerToken {
        let selected = || selection.expect("this loss selects tokens: pass their selection");
        match &self.config.loss {
            LossConfig::PpoClip(clip) => clip.per_token(log_ratio, advantages),
            LossConfig::ClipCov(clip_cov) => {
                let base = clip_cov.clip().per_token(log_ratio, advantages);
                PerToken {
                    loss: ClipCov::take_out(base.loss, selected()),
                    ..base
                }
            }
            LossConfig::KlCov(kl_cov) => {
                let penalty = kl_cov.penalty(log_ratio.clone(), selected());
                let loss = importance_weighted(log_ratio, advantages) + penalty;
                PerToken {
                    loss,
                    clipped: None,
                }
            }
        }
    }

    /// The penalty of each token and the bare estimate, where one is configured.
    fn reference_kl(&self, inputs: &LossInputs) -> Option<(Tensor<2>, Tensor<2>)> {
        let config = self.config.reference_kl?;
        let reference = inputs.ref_log_probs.clone();
        let reference = reference.expect("reference_kl is configured: pass ref_log_probs");
        let estimate = kl_estimate(
            inputs.log_probs.clone(),
            reference,
            config.estimator,
            config.clamp,
        );
        Some((estimate.clone() * config.coef, estimate))
    }
}
