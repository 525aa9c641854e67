//! Which keys there are, and which one was meant.

use std::path::PathBuf;

use losses::{
    AdaptiveEntropy, AdvantageConfig, Aggregation, ClipCovControl, EntropyBonus, EntropyBudget,
    EntropyControl, EntropyRatioClip, KlClamp, KlCovControl, LossConfig, ObjectiveConfig, PpoClip,
    ReferenceKl, RolloutCorrection, ShapedAdvantage, TopEntropy,
};
use policy::LoraConfig;
use reward::TaskConfig;
use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::{
    DataSection, FilterBy, OptimizerSection, RolloutDtype, RolloutSection, Schedule, TrainConfig,
    UpdateSection, layers::config_error,
};
use crate::{SftConfig, TrainerError};

/// The table whose keys nobody knows but the model.
const TEMPLATE_ARGUMENTS: &str = "data.template_arguments";

/// Every dotted key that a run's configuration may hold, of all types of its tagged tables.
pub(super) fn known_keys() -> Result<Vec<String>, TrainerError> {
    let mut keys = Vec::new();
    let mut add = |prefix: &str, text: String| -> Result<(), TrainerError> {
        let table = text
            .parse::<Table>()
            .map_err(|error| config_error(&error))?;
        collect_keys(&table, prefix, &mut keys);
        Ok(())
    };
    let text = |value: Result<String, toml::ser::Error>| value.map_err(|e| config_error(&e));
    add("", text(toml::to_string(&TrainConfig::default()))?)?;
    add("", text(toml::to_string(&with_every_option()))?)?;
    for loss in LossConfig::defaults() {
        add("loss.", text(toml::to_string(&loss))?)?;
    }
    for advantage in AdvantageConfig::defaults() {
        add("advantage.", text(toml::to_string(&advantage))?)?;
    }
    add_tasks(&mut add)?;
    keys.push("model".to_owned());
    keys.push(TEMPLATE_ARGUMENTS.to_owned());
    keys.sort();
    keys.dedup();
    Ok(keys)
}

fn data_with_every_option() -> DataSection {
    DataSection {
        train: Some(PathBuf::new()),
        validation: Some(PathBuf::new()),
        system: Some(String::new()),
        drop_overlong: true,
        ..DataSection::default()
    }
}

/// A configuration in which every optional table and key is there, to know their names by.
fn with_every_option() -> TrainConfig {
    TrainConfig {
        lora: Some(LoraConfig::default()),
        optimizer: optimizer_with_every_option(),
        data: data_with_every_option(),
        rollout: RolloutSection {
            dtype: Some(RolloutDtype::Bf16),
            filter_groups: Some(true),
            filter_by: FilterBy::Correct,
            ..RolloutSection::default()
        },
        update: UpdateSection {
            mask_truncated: true,
            ..UpdateSection::default()
        },
        loss: ObjectiveConfig {
            loss: LossConfig::PpoClip(PpoClip {
                dual_clip: Some(3.0),
                ..PpoClip::default()
            }),
            aggregation: Some(Aggregation::default()),
            constant_length_tokens: Some(1.0),
            reference_kl: Some(ReferenceKl {
                clamp: Some(KlClamp::default()),
                ..ReferenceKl::default()
            }),
            rollout_correction: Some(RolloutCorrection::default()),
        },
        entropy: EntropyControl {
            clip_cov: Some(ClipCovControl::default()),
            kl_cov: Some(KlCovControl::default()),
            bonus: Some(EntropyBonus::default()),
            adaptive: Some(AdaptiveEntropy::default()),
            budget: Some(EntropyBudget {
                final_target_nats: Some(1.0),
                ..EntropyBudget::default()
            }),
            top_entropy: Some(TopEntropy::default()),
            ratio_clip: Some(EntropyRatioClip::default()),
            shaped_advantage: Some(ShapedAdvantage::default()),
        },
        ..TrainConfig::default()
    }
}

fn optimizer_with_every_option() -> OptimizerSection {
    OptimizerSection {
        schedule: Schedule::Linear,
        final_ratio: 1.0,
        ..OptimizerSection::default()
    }
}

/// The names of the built-in tasks.
const TASKS: [&str; 2] = ["arithmetic", "countdown"];

fn add_tasks(
    add: &mut dyn FnMut(&str, String) -> Result<(), TrainerError>,
) -> Result<(), TrainerError> {
    TASKS
        .iter()
        .try_for_each(|task| add("task.", default_of::<TaskConfig>("name", task)?))
}

/// A tagged table's default for one tag, as TOML.
fn default_of<T: DeserializeOwned + Serialize>(
    tag: &str,
    value: &str,
) -> Result<String, TrainerError> {
    let table = toml::from_str::<T>(&format!("{tag} = \"{value}\""));
    let table = table.map_err(|error| config_error(&error))?;
    toml::to_string(&table).map_err(|error| config_error(&error))
}

/// The keys of a supervised run's configuration.
pub(crate) fn known_sft_keys() -> Result<Vec<String>, TrainerError> {
    let mut keys = vec![TEMPLATE_ARGUMENTS.to_owned()];
    let mut add = |prefix: &str, text: String| -> Result<(), TrainerError> {
        collect_keys(
            &text.parse().map_err(|error| config_error(&error))?,
            prefix,
            &mut keys,
        );
        Ok(())
    };
    add(
        "",
        toml::to_string(&SftConfig {
            lora: Some(LoraConfig::default()),
            data: data_with_every_option(),
            optimizer: optimizer_with_every_option(),
            ..SftConfig::default()
        })
        .map_err(|error| config_error(&error))?,
    )?;
    add_tasks(&mut add)?;
    Ok(keys)
}

fn collect_keys(table: &Table, prefix: &str, keys: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        if let Value::Table(inner) = value {
            collect_keys(inner, &format!("{path}."), keys);
        }
        keys.push(path);
    }
}

pub(super) fn check_keys(table: &Table, known: &[String], place: &str) -> Result<(), TrainerError> {
    let mut found = Vec::new();
    collect_keys(table, "", &mut found);
    found
        .iter()
        .try_for_each(|key| check_key(key, known, place))
}

pub(super) fn check_key(key: &str, known: &[String], place: &str) -> Result<(), TrainerError> {
    // What a template takes is the model's affair.
    let is_argument = key
        .strip_prefix(TEMPLATE_ARGUMENTS)
        .is_some_and(|rest| rest.starts_with('.'));
    if is_argument || known.iter().any(|name| name == key) {
        return Ok(());
    }
    Err(TrainerError::UnknownKey {
        key: key.to_owned(),
        place: place.to_owned(),
        nearest: nearest_key(key, known),
    })
}

/// Names that other tools have for a setting, by their last part: those of SETTINGS.md, and what else people write.
const ALIASES: [(&str, &str); 89] = [
    ("critic.optim.lr", "critic.learning_rate"),
    ("lr", "optimizer.learning_rate"),
    ("learning_rate", "optimizer.learning_rate"),
    ("n", "rollout.group_size"),
    ("num_generations", "rollout.group_size"),
    ("train_batch_size", "rollout.prompts_per_step"),
    ("batch_size", "rollout.prompts_per_step"),
    ("generation_batch_size", "rollout.prompts_per_step"),
    ("max_completion_length", "rollout.max_new_tokens"),
    ("max_response_length", "rollout.max_new_tokens"),
    ("val_kwargs.temperature", "validation.temperature"),
    ("temperature", "rollout.temperature"),
    ("ppo_mini_batch_size", "update.mini_batch_prompts"),
    ("ppo_max_token_len_per_gpu", "update.max_tokens"),
    ("ppo_micro_batch_size_per_gpu", "update.max_tokens"),
    ("ppo_epochs", "update.epochs"),
    ("num_iterations", "update.epochs"),
    ("mask_truncated_completions", "update.mask_truncated"),
    ("val", "data.validation"),
    ("val_files", "data.validation"),
    ("train_files", "data.train"),
    ("dataset", "data.train"),
    ("shuffle_dataset", "data.shuffle"),
    ("kl_coef", "loss.reference_kl.coef"),
    ("kl_loss_coef", "loss.reference_kl.coef"),
    ("use_kl_loss", "loss.reference_kl.coef"),
    ("use_kl_in_reward", "loss.reference_kl.place"),
    ("kl_loss_type", "loss.reference_kl.estimator"),
    ("kl_penalty", "loss.reference_kl.estimator"),
    ("beta", "loss.reference_kl.coef"),
    ("rollout_is", "loss.rollout_correction.level"),
    ("rollout_is_threshold", "loss.rollout_correction.threshold"),
    ("entropy_coeff", "entropy.bonus.coef"),
    ("entropy_coef", "entropy.bonus.coef"),
    ("top_entropy_quantile", "entropy.top_entropy.top_fraction"),
    ("epsilon", "loss.clip_low"),
    ("epsilon_high", "loss.clip_high"),
    ("clip_ratio", "loss.clip_low"),
    ("clip_ratio_low", "loss.clip_low"),
    ("clip_ratio_high", "loss.clip_high"),
    ("cliprange", "loss.clip_low"),
    ("clip_ratio_c", "loss.dual_clip"),
    ("delta", "loss.dual_clip"),
    ("loss_agg_mode", "loss.aggregation"),
    ("loss_mode", "loss.type"),
    ("loss_type", "loss.aggregation"),
    ("importance_sampling_level", "loss.type"),
    ("clip_cov_ratio", "loss.fraction"),
    ("clip_cov_lb", "loss.cov_low"),
    ("clip_cov_ub", "loss.cov_high"),
    ("kl_cov_ratio", "loss.top_fraction"),
    ("ppo_kl_coef", "loss.kl_coef"),
    ("sapo_temperature_pos", "loss.tau_pos"),
    ("sapo_temperature_neg", "loss.tau_neg"),
    ("adv_estimator", "advantage.type"),
    ("norm_adv_by_std_in_grpo", "advantage.type"),
    ("scale_rewards", "advantage.scale"),
    ("lam", "advantage.lambda"),
    ("cliprange_value", "critic.clip"),
    ("critic_warmup", "critic.warmup_steps"),
    ("filter_groups.enable", "rollout.filter_groups"),
    ("metric", "rollout.filter_by"),
    ("max_num_gen_batches", "rollout.max_sampling_rounds"),
    ("lr_scheduler_type", "optimizer.schedule"),
    ("lr_warmup_steps", "optimizer.warmup_steps"),
    ("warmup_ratio", "optimizer.warmup_steps"),
    ("min_lr_ratio", "optimizer.final_ratio"),
    ("grad_clip", "optimizer.max_grad_norm"),
    ("adam_beta1", "optimizer.beta_1"),
    ("adam_beta2", "optimizer.beta_2"),
    ("adam_epsilon", "optimizer.epsilon"),
    ("lora_r", "lora.rank"),
    ("r", "lora.rank"),
    ("lora_target_modules", "lora.targets"),
    ("lora_rank", "lora.rank"),
    ("lora_alpha", "lora.alpha"),
    ("target_modules", "lora.targets"),
    ("total_training_steps", "steps"),
    ("max_steps", "steps"),
    ("epochs", "steps"),
    ("total_epochs", "steps"),
    ("num_train_epochs", "steps"),
    ("test_freq", "validation.every"),
    ("eval_steps", "validation.every"),
    ("save_freq", "checkpoint.every"),
    ("save_steps", "checkpoint.every"),
    ("save_total_limit", "checkpoint.keep"),
    ("max_actor_ckpt_to_keep", "checkpoint.keep"),
    ("bf16", "model.dtype"),
];

/// The known key that was probably meant: one but for a slip, one by another tool's name, one that is nearly the same, one of the same section or of another that
/// ends alike, or the one with the fewest letters between.
fn nearest_key(key: &str, known: &[String]) -> String {
    let distance = |name: &String| strsim::damerau_levenshtein(name, key);
    let nearest = |names: &mut dyn Iterator<Item = &String>| {
        let nearest = names.min_by_key(|name| distance(name));
        nearest.cloned()
    };
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let (section, own) = match key.rsplit_once('.') {
        Some((section, own)) => (Some(section), own),
        None => (None, key),
    };
    let parts = |name: &str| name.matches('.').count();
    let slip = |most: usize| {
        let is_slip = |name: &&String| parts(name) == parts(key) && distance(name) <= most;
        nearest(&mut known.iter().filter(is_slip))
    };
    let alike = || known.iter().filter(|name| last(name) == own);
    // Without a section, several that end alike say less than what other tools mean by the name.
    let ends_alike = match section {
        Some(_) => nearest(&mut alike()),
        None => alike().next().filter(|_| alike().count() == 1).cloned(),
    };
    let alias = || {
        let is_named = |name: &str| {
            let before = key.strip_suffix(name);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let (_, meant) = ALIASES.iter().find(|(name, _)| is_named(name))?;
        let here = section.map(|section| format!("{section}.{}", last(meant)));
        let meant = [here, Some((*meant).to_owned())];
        meant
            .into_iter()
            .flatten()
            .find(|name| known.contains(name))
    };
    // The first letters of a name, or a name with more behind it.
    let begins = || {
        let is_alike = |name: &&String| {
            name.rsplit_once('.').map(|(section, _)| section) == section
                && (last(name).starts_with(own) || own.starts_with(&last(name)))
        };
        nearest(&mut known.iter().filter(is_alike))
    };
    let by_last = || {
        known.iter().min_by_key(|name| {
            let of_last = strsim::damerau_levenshtein(&last(name), own);
            (distance(name).min(2 * of_last), distance(name))
        })
    };
    let found = slip(1).or_else(alias).or_else(|| slip(2));
    let found = found.or(ends_alike).or_else(begins);
    found.or_else(|| by_last().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_stands_in_the_reference() {
        let reference = include_str!("../../../SETTINGS.md");
        for key in known_keys().unwrap() {
            let row = format!("\n| `{key}` |");
            assert!(reference.contains(&row), "SETTINGS.md has no row of {key}");
        }
    }

    /// The names in a cell of a table, of which those after the first may leave out what they share with it.
    fn names(cell: &str) -> Vec<&str> {
        cell.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn names_of_other_tools_lead_to_the_setting_of_the_reference() {
        let reference = include_str!("../../../SETTINGS.md");
        let known = known_keys().unwrap();
        let is_known = |name: &str| known.iter().any(|key| key == name);
        let (_, elsewhere) = reference.split_once("\n## Names elsewhere\n").unwrap();
        let (mut held, mut wrong) = (0, Vec::new());
        for row in elsewhere.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split('|').collect();
            let (theirs, ours) = (names(cells[1]), names(cells[2]));
            if theirs.len() != ours.len() {
                continue;
            }
            for (their, our) in theirs.into_iter().zip(ours) {
                // What holds a value, or is a setting here too, is for people.
                if !is_known(our) || their.contains('=') || is_known(their) {
                    continue;
                }
                held += 1;
                let nearest = nearest_key(their.trim_start_matches('.'), &known);
                if nearest != our {
                    wrong.push(format!("{their} leads to {nearest}, not to {our}"));
                }
            }
        }
        assert!(held >= 50, "{held} names");
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn an_unknown_key_is_told_of_the_one_that_was_meant() {
        let known = known_keys().unwrap();
        for (key, meant) in [
            ("learning_rate", "optimizer.learning_rate"),
            ("optimizer.lr", "optimizer.learning_rate"),
            ("group_size", "rollout.group_size"),
            ("rollout.n", "rollout.group_size"),
            ("data.val", "data.validation"),
            ("loss.clip_hihg", "loss.clip_high"),
            ("rolout.top_k", "rollout.top_k"),
            ("validation.evry", "validation.every"),
            ("critc.learning_rate", "critic.learning_rate"),
            ("critic.lr", "critic.learning_rate"),
            ("entropy.kl_cv.kl_coef", "entropy.kl_cov.kl_coef"),
            ("actor.optim.lr", "optimizer.learning_rate"),
            ("lora.r", "lora.rank"),
            ("model.lora_rank", "lora.rank"),
            ("lora.alpha_scale", "lora.alpha"),
            // These begin or end as other settings do.
            ("total_epochs", "steps"),
            ("num_train_epochs", "steps"),
            ("epsilon", "loss.clip_low"),
            ("beta", "loss.reference_kl.coef"),
            ("actor.kl_loss_coef", "loss.reference_kl.coef"),
        ] {
            assert_eq!(nearest_key(key, &known), meant, "{key}");
        }
    }
}
