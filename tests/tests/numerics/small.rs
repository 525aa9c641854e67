//! Runs of milliseconds: a policy of some thousand parameters that knows nothing, and a reward that it can differ in.

use burn::tensor::Device;
use policy::{Policy, SaveDtype};
use reward::{Problem, Response, Reward, Score};
use trainer::{
    ArchitectureSection, Event, SftConfig, Stages, StepMetrics, TrainConfig, Trainer, TrainerError,
};

pub(crate) fn policy(context_tokens: usize) -> Policy {
    let sft = SftConfig {
        architecture: ArchitectureSection {
            hidden_size: 16,
            intermediate_size: 16,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: context_tokens,
        },
        ..SftConfig::default()
    };
    sft.new_policy(&Device::flex().autodiff()).unwrap()
}

/// Right where the bytes' sum is even.
pub(crate) struct ByBytes;

impl Reward for ByBytes {
    fn score(&self, _: &Problem, response: &Response<'_>) -> Score {
        let sum: usize = response.text.bytes().map(usize::from).sum();
        Score::binary(sum.is_multiple_of(2), None, "by_bytes")
    }
}

/// The same for every response.
pub(crate) struct Constant(pub(crate) f64);

impl Reward for Constant {
    fn score(&self, _: &Problem, _: &Response<'_>) -> Score {
        let mut score = Score::binary(true, None, "constant");
        score.reward = Some(self.0);
        score
    }
}

pub(crate) fn config(settings: &[&str]) -> Result<TrainConfig, TrainerError> {
    let small = [
        "rollout.prompts_per_step=2",
        "rollout.group_size=4",
        "rollout.max_new_tokens=6",
        "rollout.filter_groups=false",
        "rollout.max_sampling_rounds=1",
        "update.mini_batch_prompts=1",
        "validation.problems=0",
    ];
    let all: Vec<String> = small
        .iter()
        .chain(settings)
        .map(|&setting| setting.to_owned())
        .collect();
    TrainConfig::load(None, &all)
}

pub(crate) fn trainer(settings: &[&str], reward: impl Reward + 'static) -> Trainer {
    let stages = Stages::default().with_reward(reward);
    Trainer::compose(config(settings).unwrap(), policy(128), stages).unwrap()
}

pub(crate) fn step(trainer: &mut Trainer) -> StepMetrics {
    trainer.step(&mut |_: Event<'_>| ()).unwrap().metrics
}

/// The weights, to the bit.
pub(crate) fn weights(trainer: &Trainer) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    trainer.policy().save(dir.path(), SaveDtype::F32).unwrap();
    std::fs::read(dir.path().join("model.safetensors")).unwrap()
}

/// That what a step measured is finite: of its policy where it kept a group, of its updates where it made one.
pub(crate) fn assert_finite(metrics: &StepMetrics, what: &str) {
    let mut figures = vec![metrics.reward_mean, metrics.response_length_mean];
    if metrics.groups_kept > 0 {
        figures.extend([
            metrics.entropy_token_mean,
            metrics.entropy_response_mean,
            metrics.entropy_rollout_temperature,
            metrics.entropy_sampled,
            metrics.covariance_mean,
            metrics.sampler_log_prob_gap,
        ]);
        figures.extend(metrics.sampler_kl);
    }
    if metrics.updates > 0 {
        let optional = [
            metrics.reference_kl,
            metrics.value_loss,
            metrics.entropy_bonus,
            metrics.entropy_strength,
            metrics.held_fraction,
            metrics.correction_weight_mean,
        ];
        figures.extend([
            metrics.policy_loss,
            metrics.grad_norm,
            metrics.approx_kl,
            metrics.clip_fraction,
        ]);
        figures.extend(optional.into_iter().flatten());
    }
    for (place, figure) in figures.iter().enumerate() {
        assert!(figure.is_finite(), "{what}: figure {place} of {metrics:?}");
    }
    assert_eq!(metrics.skipped_updates, 0, "{what}");
}
