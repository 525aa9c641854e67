//! What is measured of a rollout before its updates: one pass over every response, which is the first update's own where
//! it can be.

use std::ops::Range;

use burn::{module::Module, tensor::Tensor};
use policy::EntropyPass;

use crate::{
    Group, Scored, Trainer, TrainerError,
    batch::Sequence,
    forward::{Figures, Forward, MicroBatches, read_matrix},
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

/// The forward passes that the first mini-batch of a step was measured by. Its update goes back through them, since the
/// policy does not move in between, and needs none of its own.
pub(crate) struct FirstPass {
    parts: MicroBatches,
    forwards: Vec<Forward>,
}

impl FirstPass {
    /// The passes, if they are of just these micro-batches: groups may have been left out since.
    pub(crate) fn of(self, parts: &MicroBatches) -> Option<Vec<Forward>> {
        (self.parts == *parts).then_some(self.forwards)
    }
}

impl Trainer {
    /// Figures of every response, in the groups' order, and the passes that gave those of the first mini-batch, where
    /// there is room to hold them until its update.
    pub(crate) fn measure(
        &self,
        groups: &[Group],
    ) -> Result<(Vec<Measured>, Option<FirstPass>), TrainerError> {
        let samples = groups.iter().flat_map(|group| &group.samples);
        if self.trusts_sampler(groups) {
            return Ok((samples.map(sampled).collect(), None));
        }
        let mut first: Vec<Sequence> = samples
            .map(|sample| Sequence::new(&sample.rollout.prompt_ids, &sample.rollout.response_ids))
            .collect();
        let rest = first.split_off(self.mini_batch_rows().min(first.len()));
        let [first, rest] = [first, rest].map(|part| MicroBatches::new(part, self.token_budget()));
        if !self.holds_until_update(&first, &rest) {
            return Ok((self.measure_without_graphs(&[&first, &rest])?, None));
        }
        let (mut measured, pass) = self.measure_with_graphs(first)?;
        measured.extend(self.measure_without_graphs(&[&rest])?);
        Ok((measured, Some(pass)))
    }

    /// Whether the passes of the first mini-batch may be held over all that comes before its update: not where that
    /// generates once more, and without a look at the room where nothing else passes by.
    fn holds_until_update(&self, first: &MicroBatches, rest: &MicroBatches) -> bool {
        let is_alone = rest.ranges.is_empty() && self.reference.is_none();
        !self.estimator.needs_greedy_baseline()
            && (is_alone && first.ranges.len() <= 1 || self.has_room_for_graphs(first))
    }

    fn measure_with_graphs(
        &self,
        parts: MicroBatches,
    ) -> Result<(Vec<Measured>, FirstPass), TrainerError> {
        let entropy = self.entropy_pass(true);
        let kept = self.blocks_kept(&parts, &parts.ranges);
        let passes = self.each(&parts.ranges, |range| {
            let forward = self.forward(&parts, range, kept, entropy);
            let measured = self.measured(&parts, range, &forward.figures)?;
            Ok((measured, forward))
        })?;
        let (measured, forwards): (Vec<_>, Vec<_>) = passes.into_iter().unzip();
        Ok((measured.concat(), FirstPass { parts, forwards }))
    }

    fn measure_without_graphs(
        &self,
        batches: &[&MicroBatches],
    ) -> Result<Vec<Measured>, TrainerError> {
        let ranges = batches
            .iter()
            .flat_map(|&parts| parts.ranges.iter().map(move |range| (parts, range)));
        let ranges: Vec<_> = ranges.collect();
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let policy = self.computing_model();
        let critic = self.critic.as_ref();
        let critic = critic.map(|critic| critic.model.valid().cast(self.dtype));
        let options = self.head_options(EntropyPass::Values);
        let measured = self.each(&ranges, |&(parts, range)| {
            let collated = parts.collated(range);
            let hidden = collated.hidden(&policy);
            let values = critic.as_ref();
            let values =
                values.map(|critic| critic.values(&hidden, |trunk| collated.hidden(trunk)));
            let figures = Figures::of(&collated, &policy, hidden, values, options);
            self.measured(parts, range, &figures)
        })?;
        Ok(measured.concat())
    }

    /// A micro-batch's figures by response, the reference policy's among them.
    fn measured(
        &self,
        parts: &MicroBatches,
        range: &Range<usize>,
        figures: &Figures,
    ) -> Result<Vec<Measured>, TrainerError> {
        let lengths = parts.sequences[range.clone()].iter();
        let lengths: Vec<usize> = lengths.map(Sequence::response_tokens).collect();
        let rows = |matrix: &Tensor<2>| {
            let cells = read_matrix(matrix)?;
            let rows = cells.chunks(parts.response_len).zip(&lengths);
            let rows = rows.map(|(row, &length)| row[..length].to_vec());
            Ok::<_, TrainerError>(rows.collect::<Vec<_>>().into_iter())
        };
        let optional = |matrix: Option<&Tensor<2>>| matrix.map(rows).transpose();
        let reference = self.reference.as_ref().map(|reference| {
            let collated = parts.collated(range);
            let scores = collated.score(reference, self.head_options(EntropyPass::Skip));
            collated.spread(scores.log_probs)
        });
        let mut log_probs = rows(&figures.log_probs)?;
        let mut entropies = optional(figures.entropies.as_ref())?.unwrap_or_default();
        let warm = figures.entropies_at_temperature.as_ref();
        let mut warm = optional(warm)?.unwrap_or_default();
        let mut ref_log_probs = optional(reference.as_ref())?;
        let mut values = optional(figures.values.as_ref())?;
        let response = |_| Measured {
            log_probs: log_probs.next().unwrap_or_default(),
            entropies: entropies.next().unwrap_or_default(),
            entropies_at_temperature: warm.next().unwrap_or_default(),
            ref_log_probs: ref_log_probs.as_mut().and_then(Iterator::next),
            values: values.as_mut().and_then(Iterator::next),
        };
        Ok(lengths.iter().map(response).collect())
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

/// Reads a tensor from its device.
pub(crate) fn read(tensor: Tensor<1>) -> Result<Vec<f32>, TrainerError> {
    tensor.try_into_vec_as::<f32>().map_err(|error| {
        TrainerError::Rollout(rollout::RolloutError::Device {
            message: format!("{error:?}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, experience::Experience, tiny, tiny::weights};

    /// Micro-batches of one response each, and all figures from passes of the trainer's own.
    fn trainer(memory: &str) -> Trainer {
        let memory = format!("update.memory={memory}");
        let config = tiny::config(&[
            "update.max_tokens=1",
            "update.recompute_log_probs=true",
            "advantage.type=gae",
            "loss.type=kl_cov",
            &memory,
        ]);
        Trainer::new(config, tiny::policy()).unwrap()
    }

    fn groups(trainer: &mut Trainer) -> Vec<Group> {
        trainer.state.step = 1;
        trainer.sample_round(2, &mut |_: Event<'_>| ()).unwrap()
    }

    #[test]
    fn passes_that_are_held_measure_the_same_and_update_the_same() {
        let mut weights_after = Vec::new();
        let mut figures = Vec::new();
        for memory in ["small", "balanced"] {
            let mut trainer = trainer(memory);
            let groups = groups(&mut trainer);
            let (measured, pass) = trainer.measure(&groups).unwrap();
            assert_eq!(pass.is_some(), memory == "balanced");
            assert!(measured.iter().all(|row| row.values.is_some()));
            figures.push(measured.clone());
            let mut rows = trainer.experiences(&groups, measured, None).unwrap();
            for (index, row) in rows.iter_mut().enumerate() {
                row.advantages.fill(index as f32 - 3.5);
            }
            trainer
                .update(&rows, pass, 0.0, &mut |_: Event<'_>| ())
                .unwrap();
            weights_after.push(weights(&trainer));
        }
        assert_eq!(figures[0], figures[1]);
        assert!(weights_after[0] == weights_after[1]);
    }

    /// With a sum over a constant length, a response that is left out is one without an advantage.
    #[test]
    fn truncated_responses_are_left_out_of_the_losses() {
        let constant = [
            "loss.aggregation=seq_mean_token_sum_norm",
            "loss.constant_length_tokens=16.0",
            "update.mask_truncated=true",
        ];
        let after = |masked: bool| {
            let mut trainer = Trainer::new(tiny::config(&constant), tiny::policy()).unwrap();
            let groups = groups(&mut trainer);
            let (measured, _) = trainer.measure(&groups).unwrap();
            let mut rows = trainer.experiences(&groups, measured, None).unwrap();
            let samples = groups.iter().flat_map(|group| &group.samples);
            for (row, sample) in rows.iter().zip(samples) {
                assert_eq!(row.is_masked, sample.rollout.finish.is_truncated());
            }
            for (index, row) in rows.iter_mut().enumerate() {
                let is_out = index % 2 == 0;
                row.is_masked = is_out && masked;
                let advantage = if is_out && !masked {
                    0.0
                } else {
                    index as f32 - 3.5
                };
                row.advantages.fill(advantage);
            }
            trainer
                .update(&rows, None, 0.0, &mut |_: Event<'_>| ())
                .unwrap();
            weights(&trainer)
        };
        assert!(after(true) == after(false));
    }

    #[test]
    fn a_batch_of_truncated_responses_alone_moves_nothing() {
        let selected = "entropy.top_entropy.top_fraction=0.5";
        for (loss, selects) in [
            ("ppo_clip", true),
            ("clip_cov", true),
            ("kl_cov", true),
            ("gspo", true),
            ("cispo", true),
            // One number for a whole sequence.
            ("gmpo", false),
        ] {
            let loss = format!("loss.type={loss}");
            let both = [loss.as_str(), selected];
            for settings in [&both[..1], &both[..=usize::from(selects)]] {
                let mut trainer = Trainer::new(tiny::config(settings), tiny::policy()).unwrap();
                let groups = groups(&mut trainer);
                let (measured, _) = trainer.measure(&groups).unwrap();
                let mut rows = trainer.experiences(&groups, measured, None).unwrap();
                // The optimizer has moments to go on with.
                for masked in [false, true] {
                    for (index, row) in rows.iter_mut().enumerate() {
                        row.is_masked = masked;
                        row.advantages.fill(index as f32 - 3.5);
                    }
                    let before = weights(&trainer);
                    trainer
                        .update(&rows, None, 0.0, &mut |_: Event<'_>| ())
                        .unwrap();
                    assert_eq!(weights(&trainer) == before, masked, "{settings:?}");
                }
            }
        }
    }

    #[test]
    fn passes_of_other_micro_batches_are_not_gone_back_through() {
        let after = |holds: bool| {
            let mut trainer = trainer("balanced");
            let groups = groups(&mut trainer);
            let (measured, pass) = trainer.measure(&groups).unwrap();
            let rows = trainer.experiences(&groups, measured, None).unwrap();
            let mut left: Vec<Experience> = rows[4..].to_vec();
            for (index, row) in left.iter_mut().enumerate() {
                row.advantages.fill(index as f32 - 1.5);
            }
            let pass = pass.filter(|_| holds);
            assert_eq!(pass.is_some(), holds);
            let before = weights(&trainer);
            trainer
                .update(&left, pass, 0.0, &mut |_: Event<'_>| ())
                .unwrap();
            assert!(weights(&trainer) != before);
            weights(&trainer)
        };
        assert!(after(true) == after(false));
    }
}
