//! What is measured of a rollout before its updates: one pass over every response.

use std::ops::Range;

use burn::{module::Module, tensor::Tensor};
use policy::{CausalLm, EntropyPass, HeadOptions};

use crate::{
    Group, Scored, Trainer, TrainerError,
    batch::{Collated, Sequence, longest_response, micro_batches},
    critic::CriticModel,
    parallel::map_ordered,
};

/// Figures of a response's tokens before the update.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Measured {
    /// log π at the rollout's temperature.
    pub(crate) log_probs: Vec<f32>,
    /// Entropies at temperature 1, in nats.
    pub(crate) entropies: Vec<f32>,
    /// The same at the rollout's temperature.
    pub(crate) entropies_at_temperature: Vec<f32>,
    /// `log π_ref`, where a reference policy is held.
    pub(crate) ref_log_probs: Option<Vec<f32>>,
    /// The critic's values, where there is one.
    pub(crate) values: Option<Vec<f32>>,
}

impl Measured {
    /// Whether every figure can be trained on.
    pub(crate) fn is_finite(&self) -> bool {
        let optional = [&self.ref_log_probs, &self.values].into_iter().flatten();
        let all = [&self.log_probs, &self.entropies]
            .into_iter()
            .chain(optional);
        all.flatten().all(|figure| figure.is_finite())
    }
}

/// The models that measure, without gradients.
struct Models<'a> {
    policy: &'a CausalLm,
    reference: Option<&'a CausalLm>,
    critic: Option<&'a CriticModel>,
}

impl Trainer {
    /// Figures of every response, in the groups' order.
    pub(crate) fn measure(&self, groups: &[Group]) -> Result<Vec<Measured>, TrainerError> {
        if self.trusts_sampler(groups) {
            return Ok(groups
                .iter()
                .flat_map(|group| &group.samples)
                .map(sampled)
                .collect());
        }
        let sequences: Vec<Sequence> = groups
            .iter()
            .flat_map(|group| &group.samples)
            .map(|sample| Sequence::new(&sample.rollout.prompt_ids, &sample.rollout.response_ids))
            .collect();
        let policy = self.computing_model();
        let critic = self.critic.as_ref();
        let critic = critic.map(|critic| critic.model.valid().cast(self.dtype));
        let models = Models {
            policy: &policy,
            reference: self.reference.as_ref(),
            critic: critic.as_ref(),
        };
        let temperature = self.config.rollout.temperature;
        let ranges = micro_batches(&sequences, self.token_budget());
        let parts = map_ordered(&ranges, self.workers, |range: &Range<usize>| {
            self.stop.obey()?;
            measure_part(&sequences[range.clone()], &models, temperature)
        });
        let mut measured = Vec::with_capacity(sequences.len());
        for part in parts {
            measured.extend(part?);
        }
        Ok(measured)
    }
}

impl Trainer {
    /// Whether the sampler's figures are those of the policy as it is now, to the bit, and all that is needed.
    fn trusts_sampler(&self, groups: &[Group]) -> bool {
        let mut samples = groups.iter().flat_map(|group| &group.samples);
        let is_new = |sample: &Scored| {
            let rollout = &sample.rollout;
            rollout.key.step == self.state.step
                && rollout.sampler_entropies.len() == rollout.response_ids.len()
        };
        !self.config.update.recompute_log_probs
            && self.reference.is_none()
            && self.critic.is_none()
            && !self.samples_rounded()
            && self.config.rollout.temperature > 0.0
            && self.policy.model.is_fused()
            && samples.all(is_new)
    }
}

/// What the sampler said of its response.
fn sampled(sample: &Scored) -> Measured {
    let rollout = &sample.rollout;
    Measured {
        log_probs: rollout.sampler_log_probs.clone(),
        entropies: rollout.sampler_entropies.clone(),
        entropies_at_temperature: rollout.sampler_entropies_at_temperature.clone(),
        ref_log_probs: None,
        values: None,
    }
}

/// One micro-batch.
fn measure_part(
    sequences: &[Sequence],
    models: &Models<'_>,
    temperature: f64,
) -> Result<Vec<Measured>, TrainerError> {
    let lengths: Vec<usize> = sequences.iter().map(Sequence::response_tokens).collect();
    let collated = Collated::new(sequences, longest_response(sequences));
    let rows = |flat: Tensor<1>| {
        let mut rest = read(flat)?.into_iter();
        let rows = lengths
            .iter()
            .map(|&length| rest.by_ref().take(length).collect());
        Ok::<_, TrainerError>(rows.collect::<Vec<Vec<f32>>>())
    };
    let hidden = collated.hidden(models.policy);
    let options = HeadOptions {
        temperature,
        entropy: EntropyPass::Values,
    };
    let scores = collated.score_hidden(models.policy, hidden.clone(), options);
    let values = models
        .critic
        .map(|critic| rows(critic.values(&hidden, |trunk| collated.hidden(trunk))));
    let reference = models.reference.map(|reference| {
        let options = HeadOptions {
            temperature,
            entropy: EntropyPass::Skip,
        };
        rows(collated.score(reference, options).log_probs)
    });
    let empty = || vec![Vec::new(); lengths.len()];
    let optional = |flat: Option<Tensor<1>>| flat.map_or_else(|| Ok(empty()), rows);
    let mut log_probs = rows(scores.log_probs)?.into_iter();
    let mut entropies = optional(scores.entropies)?.into_iter();
    let mut warm = optional(scores.entropies_at_temperature)?.into_iter();
    let mut ref_log_probs = reference.transpose()?.map(Vec::into_iter);
    let mut values = values.transpose()?.map(Vec::into_iter);
    let response = |_| Measured {
        log_probs: log_probs.next().unwrap_or_default(),
        entropies: entropies.next().unwrap_or_default(),
        entropies_at_temperature: warm.next().unwrap_or_default(),
        ref_log_probs: ref_log_probs.as_mut().and_then(Iterator::next),
        values: values.as_mut().and_then(Iterator::next),
    };
    Ok(lengths.iter().map(response).collect())
}

/// Reads a tensor from its device.
pub(crate) fn read(tensor: Tensor<1>) -> Result<Vec<f32>, TrainerError> {
    tensor.try_into_vec_as::<f32>().map_err(|error| {
        TrainerError::Rollout(rollout::RolloutError::Device {
            message: format!("{error:?}"),
        })
    })
}
