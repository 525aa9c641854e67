//! From scored, measured groups to what an update reads.

use losses::{AdvantageInputs, RolloutCorrection};

use crate::{Event, Group, Observer, Trainer, TrainerError, batch::Sequence, measure::Measured};

/// A response as the update sees it. Vectors have one figure a response token.
#[derive(Debug, Clone)]
pub(crate) struct Experience {
    pub(crate) sequence: Sequence,
    /// What random choices about it are keyed by: unique in the run.
    pub(crate) row_key: u64,
    pub(crate) advantages: Vec<f32>,
    /// What it was before the update.
    pub(crate) old: Measured,
    /// What a critic learns.
    pub(crate) returns: Vec<f32>,
    /// Factors of the policy loss, where the rollout is corrected.
    pub(crate) weights: Option<Vec<f32>>,
    /// Whether its tokens are left out of the losses.
    pub(crate) is_masked: bool,
}

impl Trainer {
    /// Takes out the groups with a figure that nothing can be learnt from.
    pub(crate) fn drop_broken(
        &self,
        groups: &mut Vec<Group>,
        measured: &mut Vec<Measured>,
        observer: &mut dyn Observer,
    ) -> Vec<Group> {
        let mut rows = std::mem::take(measured).into_iter();
        let is_broken = |group: &mut Group| {
            let figures: Vec<Measured> = rows.by_ref().take(group.samples.len()).collect();
            let Some(response) = figures.iter().position(|figures| !figures.is_finite()) else {
                measured.extend(figures);
                return false;
            };
            let what = format!("a log-probability of response {response}");
            self.tell_of_dropped(&group.problem.id, &what, observer);
            true
        };
        groups.extract_if(.., is_broken).collect()
    }

    pub(crate) fn tell_of_dropped(&self, id: &str, what: &str, observer: &mut dyn Observer) {
        let step = self.state.step;
        let text =
            format!("step {step}: problem '{id}' is left out: {what} is missing or not finite");
        observer.on_event(Event::Warning(&text));
    }

    /// The reward of a greedy response to each group's problem, where the estimator asks for it. Groups without one
    /// are taken out, and given back.
    #[allow(clippy::type_complexity, reason = "rewards, and groups")]
    pub(crate) fn greedy_rewards(
        &self,
        groups: &mut Vec<Group>,
        measured: &mut Vec<Measured>,
        observer: &mut dyn Observer,
    ) -> Result<(Option<Vec<f64>>, Vec<Group>), TrainerError> {
        if !self.estimator.needs_greedy_baseline() {
            return Ok((None, Vec::new()));
        }
        let problems = groups.iter().map(|group| group.problem.clone()).collect();
        let answers = self.answer_greedily(problems, observer)?;
        let mut rewards = Vec::with_capacity(groups.len());
        let mut rows = std::mem::take(measured).into_iter();
        let mut answers = answers.into_iter();
        let is_missing = |group: &mut Group| {
            let figures = rows.by_ref().take(group.samples.len());
            let reward = answers
                .next()
                .and_then(|answer| answer.rewards()?.first().copied());
            if let Some(reward) = reward {
                measured.extend(figures);
                rewards.push(reward);
                return false;
            }
            figures.for_each(drop);
            self.tell_of_dropped(&group.problem.id, "the greedy answer's reward", observer);
            true
        };
        let missing = groups.extract_if(.., is_missing).collect();
        Ok((Some(rewards), missing))
    }

    /// Rewards to advantages, joined with what was measured.
    pub(crate) fn experiences(
        &self,
        groups: &[Group],
        measured: Vec<Measured>,
        greedy_rewards: Option<&[f64]>,
    ) -> Result<Vec<Experience>, TrainerError> {
        let rewards = self.token_rewards(groups, &measured);
        let (advantages, returns) = self.advantages(groups, &rewards, &measured, greedy_rewards)?;
        let size = self.config.rollout.group_size as u64;
        // Rounded generation is another policy than the one that learns, however near, and so is that of a step before.
        let is_other = self.samples_rounded() || groups.iter().any(|group| self.is_carried(group));
        let other = is_other.then(RolloutCorrection::default);
        let correction = self.config.loss.rollout_correction.or(other);
        let samples = groups.iter().flat_map(|group| &group.samples);
        let rows = samples.zip(measured).zip(advantages).zip(returns);
        let experience =
            |(((sample, old), advantages), returns): (((&crate::Scored, Measured), _), _)| {
                let rollout = &sample.rollout;
                let weights = correction.map(|correction| {
                    correction.weights(&old.log_probs, &rollout.sampler_log_probs)
                });
                Experience {
                    sequence: Sequence::new(&rollout.prompt_ids, &rollout.response_ids),
                    row_key: rollout.key.row * size + rollout.key.sample,
                    advantages,
                    old,
                    returns,
                    weights,
                    is_masked: self.config.update.mask_truncated && rollout.finish.is_truncated(),
                }
            };
        Ok(rows.map(experience).collect())
    }

    /// Whether a group was sampled in a step before.
    fn is_carried(&self, group: &Group) -> bool {
        let mut samples = group.samples.iter();
        samples.any(|sample| sample.rollout.key.step != self.state.step)
    }

    /// Each token's reward: the outcome on the last one, less a penalty on each where the reference policy's belongs
    /// in the reward.
    fn token_rewards(&self, groups: &[Group], measured: &[Measured]) -> Vec<Vec<f64>> {
        let penalty = self.objective.reward_penalty();
        let samples = groups.iter().flat_map(|group| &group.samples);
        let row = |(sample, figures): (&crate::Scored, &Measured)| {
            let mut rewards = vec![0.0; figures.log_probs.len()];
            if let (Some(penalty), Some(reference)) = (penalty, &figures.ref_log_probs) {
                for (index, reward) in rewards.iter_mut().enumerate() {
                    let now = f64::from(figures.log_probs[index]);
                    *reward -= penalty.reward_penalty(now, f64::from(reference[index]));
                }
            }
            if let Some(last) = rewards.last_mut() {
                // A group without one of its rewards has been left out.
                *last += sample.score.reward.unwrap_or_default();
            }
            rewards
        };
        samples.zip(measured).map(row).collect()
    }

    /// Advantages and returns of each response's tokens.
    #[allow(clippy::type_complexity, reason = "two vectors of rows")]
    fn advantages(
        &self,
        groups: &[Group],
        rewards: &[Vec<f64>],
        measured: &[Measured],
        greedy_rewards: Option<&[f64]>,
    ) -> Result<(Vec<Vec<f32>>, Vec<Vec<f32>>), TrainerError> {
        let response_len = rewards.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let numbered = groups.iter().zip(0_u64..);
        let group_of: Vec<u64> = numbered
            .flat_map(|(group, number)| vec![number; group.samples.len()])
            .collect();
        let ones: Vec<Vec<f64>> = rewards.iter().map(|row| vec![1.0; row.len()]).collect();
        let mask: Vec<f32> = padded(&ones, response_len)
            .iter()
            .map(|&m| m as f32)
            .collect();
        let values = measured.iter().map(|figures| figures.values.as_ref());
        let values: Option<Vec<Vec<f64>>> = values
            .map(|row| Some(row?.iter().map(|&value| f64::from(value)).collect()))
            .collect();
        let values = values.map(|rows| padded(&rows, response_len));
        let greedy = greedy_rewards.map(|greedy| {
            group_of
                .iter()
                .map(|&group| greedy[group as usize])
                .collect::<Vec<_>>()
        });
        let found = self.estimator.advantages(&AdvantageInputs {
            token_rewards: &padded(rewards, response_len),
            mask: &mask,
            groups: &group_of,
            values: values.as_deref(),
            greedy_rewards: greedy.as_deref(),
        })?;
        let rows = |figures: &[f64]| {
            let cut = figures.chunks(response_len).zip(rewards);
            cut.map(|(row, own)| row[..own.len()].iter().map(|&x| x as f32).collect())
                .collect()
        };
        Ok((rows(&found.advantages), rows(&found.returns)))
    }
}

/// Rows of unequal length as one matrix, 0 at padding.
fn padded(rows: &[Vec<f64>], length: usize) -> Vec<f64> {
    let mut matrix = vec![0.0; rows.len() * length];
    for (cells, row) in matrix.chunks_mut(length).zip(rows) {
        cells[..row.len()].copy_from_slice(row);
    }
    matrix
}
