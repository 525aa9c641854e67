//! Which column holds what: each framework has names of its own.

use anyhow::{Result, bail};

use super::Records;
use crate::advice::Advised;

/// Names of the policy's entropy: ours, a bare point's, and those that verl, TRL, `OpenRLHF`, `SkyRL` and NeMo-RL log.
pub(crate) const ENTROPY_KEYS: [&str; 11] = [
    "entropy_token_mean",
    "entropy",
    "actor/entropy",
    "actor/entropy_loss",
    "train/entropy",
    "policy/entropy",
    "policy/policy_entropy",
    "policy/entropy_avg",
    "objective/entropy",
    "train/policy_entropy",
    "train/approx_entropy",
];

/// Names of performance: ours, a bare point's, and those of the same frameworks.
pub(crate) const REWARD_KEYS: [&str; 11] = [
    "reward_mean",
    "reward",
    "critic/score/mean",
    "critic/rewards/mean",
    "train/reward",
    "reward/avg_raw_reward",
    "objective/scores",
    "objective/rlhf_reward",
    "train/accuracy",
    "accuracy",
    "accuracy_mean",
];

impl Records {
    /// The column that a key means: the key itself, or `RUN - KEY` as wandb names it in exports.
    pub(crate) fn find(&self, key: &str) -> Result<String> {
        match &matching(&self.keys(), key)[..] {
            [] => bail!("no column '{key}'; there are: {}", self.listed()),
            [one] => Ok((*one).to_owned()),
            several => bail!(
                "'{key}' may mean any of {}; give one of them whole",
                several.join(", ")
            ),
        }
    }

    /// The first of some keys that is there, or a `TensorBoard` export's only figure.
    pub(super) fn find_any(&self, keys: &[&str], what: &str, option: &str) -> Result<String> {
        let names = self.keys();
        if let Some(key) = keys.iter().find(|key| !matching(&names, key).is_empty()) {
            return self.find(key);
        }
        let value = "Value";
        if names == ["Step", value, "Wall time"] {
            return Ok(value.to_owned());
        }
        Err(Advised::new(
            format!(
                "no column of {what} known by name; there are: {}",
                self.listed()
            ),
            format!("name it with {option}"),
        )
        .into())
    }

    fn listed(&self) -> String {
        const MOST: usize = 60;
        let keys = self.keys();
        let more = keys.len().saturating_sub(MOST);
        let text = keys[..keys.len() - more].join(", ");
        match more {
            0 => text,
            more => format!("{text} and {more} more"),
        }
    }
}

/// The names that a key may mean.
fn matching<'a>(names: &[&'a str], key: &str) -> Vec<&'a str> {
    if let Some(whole) = names.iter().find(|name| **name == key) {
        return vec![whole];
    }
    let is_of_run = |name: &&&str| {
        let own = name.rsplit_once(" - ").map(|(_, own)| own);
        own == Some(key)
    };
    names.iter().filter(is_of_run).copied().collect()
}
