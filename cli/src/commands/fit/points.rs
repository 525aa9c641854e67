//! Points of entropy and performance out of recorded figures.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result};
use entropy::LawPoint;

use crate::{
    commands::say,
    records::{ENTROPY_KEYS, REWARD_KEYS, Records, step_of},
};

/// The columns that the user names.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) entropy: Option<&'a str>,
    pub(super) reward: Option<&'a str>,
}

/// The points of a file, or of two whose rows are joined by step, with notes on what was left out.
pub(super) fn points(
    input: &Path,
    reward_input: Option<&Path>,
    keys: Keys<'_>,
) -> Result<Vec<LawPoint>> {
    let records = load(input)?;
    let place = || input.display().to_string();
    let entropy_key = match keys.entropy {
        Some(key) => records.find(key),
        None => records.find_any(&ENTROPY_KEYS, "entropies", "--entropy-key"),
    };
    let entropies = records.column(&entropy_key.with_context(place)?);
    let rewards = match reward_input {
        None => rewards(&records, keys.reward).with_context(place)?,
        Some(path) => {
            let others = load(path)?;
            let found =
                rewards(&others, keys.reward).with_context(|| path.display().to_string())?;
            by_step(&records, &others, &found)
        }
    };
    let pairs = entropies.into_iter().zip(rewards);
    let pairs: Vec<Option<LawPoint>> = pairs
        .map(|(entropy, reward)| {
            Some(LawPoint {
                entropy: entropy?,
                reward: reward?,
            })
        })
        .collect();
    let total = pairs.len();
    let found: Vec<LawPoint> = pairs.into_iter().flatten().collect();
    // Our own first line is the validation before any update, and never has either.
    if total > found.len() + usize::from(is_step_0(&records)) {
        say(&format!(
            "note: {}: {} of {total} lines lack entropy or reward and are left out",
            input.display(),
            total - found.len()
        ));
    }
    Ok(found)
}

fn load(path: &Path) -> Result<Records> {
    let records = Records::load(path)?;
    for note in &records.notes {
        say(&format!("note: {}: {note}", path.display()));
    }
    Ok(records)
}

fn rewards(records: &Records, key: Option<&str>) -> Result<Vec<Option<f64>>> {
    let key = match key {
        Some(key) => records.find(key)?,
        None => records.find_any(&REWARD_KEYS, "rewards", "--reward-key")?,
    };
    Ok(records.column(&key))
}

/// The other file's figures at these rows' steps.
fn by_step(records: &Records, others: &Records, figures: &[Option<f64>]) -> Vec<Option<f64>> {
    let steps = others.rows.iter().map(|row| step_of(row).map(f64::to_bits));
    let by_step: HashMap<Option<u64>, Option<f64>> = steps.zip(figures.iter().copied()).collect();
    let at = |row| by_step.get(&Some(step_of(row)?.to_bits())).copied()?;
    records.rows.iter().map(at).collect()
}

fn is_step_0(records: &Records) -> bool {
    let first = records.rows.first();
    first.and_then(step_of) == Some(0.0)
}
