//! The one entry that a trainer calls, whatever the algorithm.

use std::{ops::Range, sync::Arc};

use burn::tensor::{Device, Tensor};

use crate::{
    BudgetLever, ClipCovControl, Denominator, EntropyControl, KlCovControl, KlPlace, LossError,
    LossInputs, LossOutput, LossStats, ObjectiveConfig, PerToken, PolicyLoss, PolicyTerms,
    ReferenceKl, Selection, SelectionKey, SelectionView, aggregate, controller::whole_batch,
    kl_estimate, stats::StatMaps,
};

/// A validated objective: a loss, its aggregation, and the entropy controllers over it.
///
/// For each mini-batch: where [`needs_selection`](Self::needs_selection), call
/// [`select`](Self::select) on the host; then [`evaluate`](Self::evaluate) each micro-batch with
/// its rows of the selections and the mini-batch's [`Denominator`].
#[derive(Debug, Clone)]
pub struct PolicyObjective {
    config: ObjectiveConfig,
    /// A loss in the place of the configuration's.
    own: Option<Arc<dyn PolicyLoss>>,
    entropy: EntropyControl,
    /// How strong what a budget steers is now; 1 as configured.
    strength: f64,
}

/// What a mini-batch's controllers selected.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selections {
    /// Clip-Cov's or KL-Cov's tokens.
    pub covariance: Option<Selection>,
    /// The tokens that [`TopEntropy`](crate::TopEntropy) leaves out.
    pub low_entropy: Option<Selection>,
}

/// A micro-batch's share of [`Selections`] on the device; all `[batch, response_len]`.
#[derive(Debug, Clone, Default)]
pub struct SelectedTokens {
    /// 1 for Clip-Cov's or KL-Cov's tokens.
    pub covariance: Option<Tensor<2>>,
    /// 1 for the tokens that are left out.
    pub low_entropy: Option<Tensor<2>>,
}

impl Selections {
    /// Some of the rows, on a device.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub fn to_device(
        &self,
        rows: &Range<usize>,
        response_len: usize,
        device: &Device,
    ) -> SelectedTokens {
        let part = |selection: &Option<Selection>| {
            selection
                .as_ref()
                .map(|selection| selection.to_tensor(rows, response_len, device))
        };
        SelectedTokens {
            covariance: part(&self.covariance),
            low_entropy: part(&self.low_entropy),
        }
    }
}

impl PolicyObjective {
    /// Checks the configuration.
    ///
    /// # Errors
    /// The first setting that is out of its range or missing, or a combination that makes no sense.
    pub fn new(config: ObjectiveConfig, entropy: EntropyControl) -> Result<Self, LossError> {
        Self::build(config, entropy, None)
    }

    /// The same with a loss that the configuration has no name for: its own keys are passed over, and what stands beside them is
    /// of this loss.
    ///
    /// # Errors
    /// As [`PolicyObjective::new`].
    pub fn with_loss(
        config: ObjectiveConfig,
        entropy: EntropyControl,
        loss: Arc<dyn PolicyLoss>,
    ) -> Result<Self, LossError> {
        Self::build(config, entropy, Some(loss))
    }

    fn build(
        config: ObjectiveConfig,
        entropy: EntropyControl,
        own: Option<Arc<dyn PolicyLoss>>,
    ) -> Result<Self, LossError> {
        let objective = Self {
            config,
            own,
            entropy,
            strength: 1.0,
        };
        config.validate_for(objective.loss())?;
        entropy.validate(objective.loss())?;
        Ok(objective)
    }

    /// Whether the configuration's loss has another in its place.
    pub(crate) fn has_own_loss(&self) -> bool {
        self.own.is_some()
    }

    /// The loss: the configuration's, or the one in its place.
    pub fn loss(&self) -> &dyn PolicyLoss {
        match &self.own {
            Some(own) => own.as_ref(),
            None => self.config.loss.policy_loss(),
        }
    }

    /// Sets how strong what an [`EntropyBudget`](crate::EntropyBudget) steers is from now on; 1 is as configured.
    pub fn set_strength(&mut self, strength: f64) {
        self.strength = strength;
    }

    fn strength_of(&self, lever: BudgetLever) -> f64 {
        let budget = self.entropy.budget.filter(|budget| budget.lever == lever);
        budget.map_or(1.0, |_| self.strength)
    }

    /// The configuration.
    pub fn config(&self) -> &ObjectiveConfig {
        &self.config
    }

    /// The controllers beside the loss's own.
    pub fn entropy_control(&self) -> &EntropyControl {
        &self.entropy
    }

    /// Whether [`evaluate`](Self::evaluate) needs selections.
    pub fn needs_selection(&self) -> bool {
        self.needs_current_log_probs() || self.entropy.top_entropy.is_some()
    }

    /// Whether [`select`](Self::select) reads the current log-probabilities; where not, or where the
    /// policy has not moved yet, the old ones serve.
    pub fn needs_current_log_probs(&self) -> bool {
        self.clip_cov().is_some() || self.kl_cov().is_some()
    }

    /// Whether the reference policy's log-probabilities are needed, in the loss or in the reward.
    pub fn needs_reference(&self) -> bool {
        self.config.reference_kl.is_some()
    }

    /// The reference penalty that belongs in the reward, if any.
    pub fn reward_penalty(&self) -> Option<ReferenceKl> {
        let kl = self.config.reference_kl;
        kl.filter(|kl| kl.place == KlPlace::Reward)
    }

    /// The Clip-Cov selection, the loss's own or a controller's.
    pub fn clip_cov(&self) -> Option<ClipCovControl> {
        let own = self.loss().clip_cov();
        let mut control = own.or(self.entropy.clip_cov)?;
        let strength = self.strength_of(BudgetLever::Fraction);
        control.fraction = (control.fraction * strength).min(1.0);
        Some(control)
    }

    /// The KL-Cov penalty, the loss's own or a controller's.
    pub fn kl_cov(&self) -> Option<KlCovControl> {
        let own = self.loss().kl_cov();
        let mut control = own.or(self.entropy.kl_cov)?;
        let strength = self.strength_of(BudgetLever::Fraction);
        control.top_fraction = (control.top_fraction * strength).min(1.0);
        control.kl_coef *= self.strength_of(BudgetLever::KlCoef);
        Some(control)
    }

    /// The adaptive coefficient after a step's measurement, from that of the step before; 0
    /// without an adaptive bonus.
    pub fn next_entropy_coef(&self, coef: f64, entropy_nats: f64) -> f64 {
        let adaptive = self.entropy.adaptive;
        adaptive.map_or(0.0, |control| control.next_coef(coef, entropy_nats))
    }

    /// The factor of a step's entropy bonus.
    pub fn entropy_bonus(&self, adaptive_coef: f64, entropy_nats: f64) -> f64 {
        let constant = self.entropy.bonus.map_or(0.0, |bonus| bonus.coef);
        let adaptive = self.entropy.adaptive;
        let adaptive = adaptive.map_or(0.0, |c| c.active_coef(adaptive_coef, entropy_nats));
        let budget = self.entropy.budget;
        let budget = budget.filter(|budget| budget.lever == BudgetLever::Bonus);
        constant + adaptive + budget.map_or(0.0, |budget| budget.bonus_coef * self.strength)
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

    /// Selects tokens on the host, each controller over the whole mini-batch or, if so configured,
    /// over each of the micro-batches that its rows are cut into.
    ///
    /// # Errors
    /// A trained token that is not finite.
    ///
    /// # Panics
    /// If the view's lengths differ.
    pub fn select(
        &self,
        view: &SelectionView,
        micro_batches: &[Range<usize>],
        key: &SelectionKey,
    ) -> Result<Selections, LossError> {
        let mut selections = Selections::default();
        if let Some(control) = self.clip_cov() {
            let clip = self.loss().clip();
            let select = |view: &SelectionView| control.select(view, clip.as_ref(), key);
            let selection = whole_batch(view, control.selection, micro_batches, select)?;
            selections.covariance = Some(selection);
        }
        if let Some(control) = self.kl_cov() {
            let select = |view: &SelectionView| control.select(view);
            let selection = whole_batch(view, control.selection, micro_batches, select)?;
            selections.covariance = Some(selection);
        }
        if let Some(control) = self.entropy.top_entropy {
            let select = |view: &SelectionView| control.leave_out(view);
            let selection = whole_batch(view, control.selection, micro_batches, select)?;
            selections.low_entropy = Some(selection);
        }
        Ok(selections)
    }

    /// A micro-batch's share of the mini-batch's loss, with its statistics. In this order:
    ///
    /// ```text
    /// A ← shaped advantage → l = the loss's own → taken out (Clip-Cov, low entropy) → held (ERC)
    ///   → + KL-Cov's penalty → · rollout correction → - bonus·H → + KL to the reference → aggregate
    /// ```
    ///
    /// # Shapes
    /// `inputs` and `selected`: `[batch, response_len]`.
    ///
    /// # Panics
    /// If shapes differ, or an input or a selection is missing that the objective needs.
    pub fn evaluate(
        &self,
        inputs: &LossInputs,
        selected: &SelectedTokens,
        denominator: &Denominator,
        entropy_bonus: f64,
    ) -> LossOutput {
        let inputs = inputs.without_padding();
        let log_ratio = inputs.log_ratio();
        let terms = PolicyTerms {
            log_probs: inputs.log_probs.clone(),
            log_ratio: log_ratio.clone(),
            advantages: self.shaped_advantages(&inputs),
            mask: inputs.mask.clone(),
        };
        let PerToken { loss, clipped } = self.loss().per_token(&terms);
        let (loss, held) = self.hold_back(loss, &log_ratio, &inputs, selected);
        let loss = match &inputs.optional.weights {
            Some(weights) => loss * weights.clone(),
            None => loss,
        };
        let loss = self.with_entropy_bonus(loss, &inputs, entropy_bonus);
        let reference_kl = self.reference_kl(&inputs);
        let loss = match &reference_kl {
            Some((Some(penalty), _)) => loss + penalty.clone(),
            _ => loss,
        };
        let mask = inputs.mask.without_autodiff();
        let loss = aggregate(
            loss,
            mask.clone(),
            self.config.aggregation_for(self.loss()),
            denominator,
        );
        let stats = LossStats::of(StatMaps {
            mask,
            log_ratio: log_ratio.without_autodiff(),
            clipped,
            held,
            selected: selected.covariance.clone().map(Tensor::without_autodiff),
            reference_kl: reference_kl.map(|(_, estimate)| estimate.without_autodiff()),
        });
        LossOutput { loss, stats }
    }

    fn shaped_advantages(&self, inputs: &LossInputs) -> Tensor<2> {
        let advantages = inputs.advantages.clone();
        match self.entropy.shaped_advantage {
            Some(control) => control.shape(advantages, entropies(inputs)),
            None => advantages,
        }
    }

    /// What the controllers do to the tokens' losses, and where ERC holds them.
    fn hold_back(
        &self,
        mut loss: Tensor<2>,
        log_ratio: &Tensor<2>,
        inputs: &LossInputs,
        selected: &SelectedTokens,
    ) -> (Tensor<2>, Option<Tensor<2>>) {
        let covariance = || {
            let tokens = selected.covariance.clone();
            same_shape(
                tokens.expect("this objective selects tokens: pass their selection"),
                inputs,
            )
        };
        if self.clip_cov().is_some() {
            loss = ClipCovControl::take_out(loss, covariance());
        }
        if self.entropy.top_entropy.is_some() {
            let tokens = selected.low_entropy.clone();
            let left_out = tokens.expect("top_entropy selects tokens: pass their selection");
            loss = ClipCovControl::take_out(loss, same_shape(left_out, inputs));
        }
        let mut held = None;
        if let Some(control) = self.entropy.ratio_clip {
            let before = inputs.optional.old_entropies.clone();
            let before = before.expect("ratio_clip compares entropies: pass old_entropies");
            let (without, outside) = control.hold(loss, entropies(inputs), before);
            loss = without;
            held = Some(outside);
        }
        if let Some(control) = self.kl_cov() {
            loss = loss + control.penalty(log_ratio.clone(), covariance());
        }
        (loss, held)
    }

    fn with_entropy_bonus(&self, loss: Tensor<2>, inputs: &LossInputs, factor: f64) -> Tensor<2> {
        if self.entropy.needs_entropy_gradient() && factor != 0.0 {
            loss - entropies(inputs) * factor
        } else {
            loss
        }
    }

    /// The penalty of each token, where it belongs in the loss, and the bare estimate.
    fn reference_kl(&self, inputs: &LossInputs) -> Option<(Option<Tensor<2>>, Tensor<2>)> {
        let config = self.config.reference_kl?;
        let reference = inputs.optional.ref_log_probs.clone();
        let reference = reference.expect("reference_kl is configured: pass ref_log_probs");
        let estimate = kl_estimate(
            inputs.log_probs.clone(),
            reference,
            config.estimator,
            config.clamp,
        );
        let penalty = (config.place == KlPlace::Loss).then(|| estimate.clone() * config.coef);
        Some((penalty, estimate))
    }
}

fn entropies(inputs: &LossInputs) -> Tensor<2> {
    let entropies = inputs.optional.entropies.clone();
    entropies.expect("a controller reads the current entropies: pass them")
}

fn same_shape(selected: Tensor<2>, inputs: &LossInputs) -> Tensor<2> {
    let (found, expected) = (selected.dims(), inputs.mask.dims());
    assert_eq!(
        found, expected,
        "the selection is {found:?}, the batch {expected:?}"
    );
    selected
}
