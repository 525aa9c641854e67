//! Points of entropy and performance out of recorded figures.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result};
use entropy::LawPoint;

use crate::{
    advice::Advised,
    commands::say,
    records::{Records, check_two_columns, step_of},
};

/// The columns that the user names.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) entropy: Option<&'a str>,
    pub(super) reward: Option<&'a str>,
}

/// The points of a file, or of two whose rows are joined by step; what is left out is told of.
pub(super) fn points(
    input: &Path,
    reward_input: Option<&Path>,
    keys: Keys<'_>,
) -> Result<Vec<LawPoint>> {
    let place = || input.display().to_string();
    let (records, points) = match reward_input.filter(|path| !is_same_file(path, input)) {
        None => of_one(input, keys).with_context(place)?,
        Some(path) => of_two(input, path, keys).with_context(place)?,
    };
    if let Some(note) = records.left_out(points.len()) {
        say(&format!("note: {}: {note}", input.display()));
    }
    Ok(points)
}

/// The points of a file that has both figures, and its rows as they were joined.
fn of_one(input: &Path, keys: Keys<'_>) -> Result<(Records, Vec<LawPoint>)> {
    let mut records = Records::load(input)?;
    let columns = records.entropy_key(keys.entropy);
    let columns = columns.and_then(|entropy| Ok((entropy, records.reward_key(keys.reward)?)));
    if let Ok((entropy, reward)) = &columns {
        records = records.joined_for(entropy, reward);
    }
    tell(&records, input);
    let (entropy, reward) = columns?;
    check_two_columns(&entropy, &reward)?;
    let points = records.law_points(&entropy, &reward);
    if points.is_empty() {
        return Err(records.nothing_joined(&entropy, &reward).into());
    }
    Ok((
        records,
        points.into_iter().map(|(_, point)| point).collect(),
    ))
}

/// The points of a file of entropies, with the rewards that another has at their steps, and the first's rows.
fn of_two(input: &Path, path: &Path, keys: Keys<'_>) -> Result<(Records, Vec<LawPoint>)> {
    let records = Records::load(input)?;
    tell(&records, input);
    let entropies = records.column(&records.entropy_key(keys.entropy)?);
    let others = Records::load(path)?;
    tell(&others, path);
    let place = || path.display().to_string();
    let reward_key = others.reward_key(keys.reward).with_context(place)?;
    let rewards = by_step(&records, &others, &others.column(&reward_key));
    let points = entropies
        .into_iter()
        .zip(rewards)
        .filter_map(|(entropy, reward)| {
            Some(LawPoint {
                entropy: entropy?,
                reward: reward?,
            })
        });
    let points: Vec<LawPoint> = points.collect();
    if points.is_empty() {
        return Err(Advised::new(
            format!(
                "no step of it with an entropy has a reward in {}",
                path.display()
            ),
            "the two files are joined by step: export both over the same steps",
        )
        .into());
    }
    Ok((records, points))
}

/// Says what is wrong with a file.
fn tell(records: &Records, path: &Path) {
    for note in &records.notes {
        say(&format!("note: {}: {note}", path.display()));
    }
}

/// Whether two paths lead to one file.
fn is_same_file(first: &Path, second: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(first).is_some_and(|first| Some(first) == real(second))
}

/// The other file's figures at these rows' steps.
fn by_step(records: &Records, others: &Records, figures: &[Option<f64>]) -> Vec<Option<f64>> {
    let steps = others.rows.iter().map(|row| step_of(row).map(f64::to_bits));
    let by_step: HashMap<Option<u64>, Option<f64>> = steps.zip(figures.iter().copied()).collect();
    let at = |row| by_step.get(&Some(step_of(row)?.to_bits())).copied()?;
    records.rows.iter().map(at).collect()
}
