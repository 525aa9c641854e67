//! A log's points on the law: what lies in which column, and which rows have both figures.

use anyhow::Result;
use entropy::LawPoint;

use super::{Records, Row, STEP_KEYS, is_step, step_of};
use crate::{
    advice::Advised,
    records::{ENTROPY_KEYS, REWARD_KEYS},
};

impl Records {
    /// The column of entropy: the one named, or one known by name.
    pub(crate) fn entropy_key(&self, named: Option<&str>) -> Result<String> {
        match named {
            Some(key) => self.find(key),
            None => self.find_any(&ENTROPY_KEYS, "entropies", "--entropy-key"),
        }
    }

    /// The column of performance: the one named, or one known by name.
    pub(crate) fn reward_key(&self, named: Option<&str>) -> Result<String> {
        match named {
            Some(key) => self.find(key),
            None => self.find_any(&REWARD_KEYS, "rewards", "--reward-key"),
        }
    }

    /// The same figures, joined by another of the step's names where no row has both of two figures: wandb numbers every
    /// call of its log, and a trainer may log entropy and reward of one step in two.
    pub(crate) fn joined_for(self, first: &str, second: &str) -> Self {
        let has_both = |row: &Row| row.contains_key(first) && row.contains_key(second);
        if self.rows.iter().any(has_both) {
            return self;
        }
        let names = STEP_KEYS.iter().filter(|name| self.has(name));
        let joined = names.map(|name| self.joined_by(name));
        let found = joined
            .into_iter()
            .find(|records| records.rows.iter().any(has_both));
        found.unwrap_or(self)
    }

    /// The rows that have this name of the step, joined by it.
    fn joined_by(&self, name: &str) -> Self {
        let own = |row: &Row| {
            let mut row = row.clone();
            row.retain(|key, _| key == name || !is_step(key));
            row
        };
        let all = self.rows.iter().chain(&self.stray);
        let total = all.clone().count();
        let rows = all.filter(|row| row.contains_key(name)).map(own);
        let mut rows: Vec<Row> = rows.collect();
        // Each name counts in its own order; of one step, what came last stays last.
        rows.sort_by(|a, b| a[name].total_cmp(&b[name]));
        let mut notes = self.notes[..self.unreadable].to_vec();
        let left_out = match total - rows.len() {
            0 => String::new(),
            count => format!("; {count} lines have none and are left out"),
        };
        notes.push(format!(
            "entropy and reward stand in different lines: they are joined by '{name}'{left_out}"
        ));
        Self::in_order(rows, notes)
    }

    /// The points of the rows that have both figures, with their steps; rows without a step count on.
    pub(crate) fn law_points(&self, entropy: &str, reward: &str) -> Vec<(f64, LawPoint)> {
        let rows = self.rows.iter().enumerate();
        rows.filter_map(|(index, row)| {
            let (entropy, reward) = (*row.get(entropy)?, *row.get(reward)?);
            let step = step_of(row).unwrap_or(index as f64);
            Some((step, LawPoint { entropy, reward }))
        })
        .collect()
    }

    /// What to say of the rows that gave no point, where there are any.
    pub(crate) fn left_out(&self, points: usize) -> Option<String> {
        // Our own first line is the validation before any update, and never has either.
        let is_step_0 = self.rows.first().and_then(step_of) == Some(0.0);
        let total = self.rows.len();
        let lacking = total.saturating_sub(points + usize::from(is_step_0));
        (lacking > 0).then(|| {
            format!("{lacking} of {total} lines lack entropy or reward and are left out of the law")
        })
    }

    /// Why no row has both figures.
    pub(crate) fn nothing_joined(&self, entropy: &str, reward: &str) -> Advised {
        let lines = |key: &str| match self.column(key).into_iter().flatten().count() {
            1 => "1 line".to_owned(),
            count => format!("{count} lines"),
        };
        Advised::new(
            format!(
                "no line has both '{entropy}' ({}) and '{reward}' ({}), and no step that they share joins them",
                lines(entropy),
                lines(reward)
            ),
            format!(
                "lines are joined by the first that they have of {}",
                STEP_KEYS.join(", ")
            ),
        )
    }
}

/// Refuses one column as both figures.
pub(crate) fn check_two_columns(entropy: &str, reward: &str) -> Result<()> {
    if entropy != reward {
        return Ok(());
    }
    Err(Advised::new(
        format!("entropy and reward are both its column '{entropy}', which cannot be fitted to itself"),
        "name two columns with --entropy-key and --reward-key, or the other's file with --reward-input: a TensorBoard export holds one figure",
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::records;

    /// As wandb has it: each call of its log has a `_step` and a clock of its own.
    const SPLIT: &str = "\
        {\"_step\":1,\"_runtime\":0.5,\"training/global_step\":1,\"entropy\":0.9}\n\
        {\"_step\":2,\"_runtime\":0.6,\"training/global_step\":1,\"reward\":0.1}\n\
        {\"_step\":3,\"_runtime\":0.7,\"system\":1}\n\
        {\"_step\":4,\"_runtime\":1.5,\"training/global_step\":2,\"entropy\":0.8}\n\
        {\"_step\":5,\"_runtime\":1.6,\"training/global_step\":2,\"reward\":0.2}\n";

    #[test]
    fn figures_of_different_lines_are_joined_by_the_step_that_they_share() {
        let found = records(SPLIT).joined_for("entropy", "reward");
        let points = found.law_points("entropy", "reward");
        let points: Vec<(f64, f64, f64)> = points
            .iter()
            .map(|(step, point)| (*step, point.entropy, point.reward))
            .collect();
        assert_eq!(points, [(1.0, 0.9, 0.1), (2.0, 0.8, 0.2)]);
        let [note] = &found.notes[..] else {
            panic!("{:?}", found.notes);
        };
        assert!(
            note.contains("'training/global_step'") && note.contains("1 lines have none"),
            "{note}"
        );
    }

    #[test]
    fn a_block_of_each_figure_is_joined_too() {
        let line = |(place, step, key): (u64, u64, &str)| {
            format!("{{\"_step\":{place},\"training/global_step\":{step},\"{key}\":0.5}}\n")
        };
        let blocks = [
            (0, 1, "entropy"),
            (2, 2, "entropy"),
            (1, 1, "reward"),
            (3, 2, "reward"),
        ];
        let found = records(&blocks.map(line).concat()).joined_for("entropy", "reward");
        assert_eq!(found.law_points("entropy", "reward").len(), 2);
        assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
    }

    #[test]
    fn lines_that_have_both_stay_as_they_are() {
        let text = "{\"step\":1,\"global_step\":7,\"entropy\":1,\"reward\":2}\n{\"step\":2,\"global_step\":7,\"entropy\":3}\n";
        let found = records(text).joined_for("entropy", "reward");
        assert!(
            found.rows.len() == 2 && found.notes.is_empty(),
            "{:?}",
            found.notes
        );
        assert_eq!(
            found.left_out(1).unwrap(),
            "1 of 2 lines lack entropy or reward and are left out of the law"
        );
    }

    #[test]
    fn what_nothing_joins_is_told_with_its_lines() {
        let found = records(
            "{\"step\":1,\"entropy\":1}\n{\"step\":2,\"reward\":2}\n{\"step\":3,\"reward\":2}\n",
        );
        let found = found.joined_for("entropy", "reward");
        let why = found.nothing_joined("entropy", "reward").to_string();
        assert!(
            why.contains("'entropy' (1 line)") && why.contains("'reward' (2 lines)"),
            "{why}"
        );
    }
}
