//! Recorded figures of a run, a row a step: our own `metrics.jsonl`, JSON lines and points, and CSV exports of wandb and
//! `TensorBoard`.
//!
//! Logs are read after crashes and out of other tools, so what is wrong with a line costs that line alone and is said;
//! a file of which nothing can be used is an error.

mod columns;
mod law;
mod read;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, bail};

pub(crate) use columns::{ENTROPY_KEYS, REWARD_KEYS};
pub(crate) use law::check_two_columns;

/// Names under which the step's number is kept, ours first.
const STEP_KEYS: [&str; 8] = [
    "step",
    "Step",
    "_step",
    "global_step",
    "training/global_step",
    "train/global_step",
    "trainer/global_step",
    "iteration",
];

/// Clocks, which go on within a step and are no figures of it.
const CLOCK_KEYS: [&str; 6] = [
    "_runtime",
    "_timestamp",
    "Wall time",
    "Relative Time (Process)",
    "epoch",
    "train/epoch",
];

/// One row: figures by dotted key.
pub(crate) type Row = BTreeMap<String, f64>;

/// Rows in the order of their steps, and what was wrong with the file.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) rows: Vec<Row>,
    /// For people: what was left out, and why.
    pub(crate) notes: Vec<String>,
    /// The first of them, which are about lines that cannot be read.
    unreadable: usize,
    /// Rows that go back to a step which is not there: another name of the step may have a place for them.
    stray: Vec<Row>,
}

impl Records {
    /// Reads a file by its contents: an object or array of points, a trainer's state with its log, JSON lines, or values
    /// separated by commas, semicolons or tabs.
    ///
    /// Of a run's folder, its metrics.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let of_run = path.join("metrics.jsonl");
        let path = if path.is_dir() { &of_run } else { path };
        let place = || path.display().to_string();
        let bytes = std::fs::read(path).with_context(place)?;
        Self::parse(&bytes).with_context(place)
    }

    /// Reads a file's contents.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}');
        let (rows, notes) = read::rows(text)?;
        if rows.is_empty() {
            let why = notes
                .first()
                .map_or(String::new(), |note| format!(" ({note})"));
            bail!("no line of figures{why}");
        }
        Ok(Self::in_order(rows, notes))
    }

    /// Rows that no file has, such as means over several runs.
    pub(crate) fn of(rows: Vec<Row>) -> Self {
        Self::in_order(rows, Vec::new())
    }

    /// Rows by step: those of one step are one row, as some loggers write training and validation apart, and a run that
    /// went on from a checkpoint writes its steps again.
    fn in_order(rows: Vec<Row>, notes: Vec<String>) -> Self {
        let mut found = Self {
            unreadable: notes.len(),
            notes,
            ..Self::default()
        };
        let replaced: usize = rows.into_iter().map(|row| found.add(row)).sum();
        if replaced > 0 {
            found.notes.push(format!(
                "steps come again or go back, as in a run that was resumed: {replaced} earlier lines are replaced by later ones"
            ));
        }
        if !found.stray.is_empty() {
            found.notes.push(format!(
                "{} lines go back to an earlier step and hold other figures: they are left out",
                found.stray.len()
            ));
        }
        found
    }

    /// Puts a row where it belongs; how many earlier ones it replaces.
    fn add(&mut self, row: Row) -> usize {
        let kept = &mut self.rows;
        let (Some(step), Some(last)) = (step_of(&row), kept.last()) else {
            kept.push(row);
            return 0;
        };
        let last_step = step_of(last).unwrap_or(f64::NEG_INFINITY);
        if step > last_step {
            kept.push(row);
            return 0;
        }
        if step < last_step && !repeats(&row, last) {
            // Other figures of steps that are there, or a summary at the end, say: it takes nothing back.
            let of = |own: &Row| step_of(own).unwrap_or(f64::NEG_INFINITY);
            let place = kept.binary_search_by(|own| of(own).total_cmp(&step));
            match place.ok().map(|place| &mut kept[place]) {
                Some(own) if !repeats(&row, own) => own.extend(row),
                _ => self.stray.push(row),
            }
            return 0;
        }
        let before = kept.len();
        while kept
            .last()
            .and_then(step_of)
            .is_some_and(|last| last > step)
        {
            kept.pop();
        }
        before - kept.len() + usize::from(merged(kept, row, step))
    }

    /// Every key that some row has.
    pub(crate) fn keys(&self) -> Vec<&str> {
        let keys = self.rows.iter().flat_map(BTreeMap::keys);
        let keys: BTreeSet<&str> = keys.map(String::as_str).collect();
        keys.into_iter().collect()
    }

    /// Whether any row has a figure under this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.rows.iter().any(|row| row.contains_key(key))
    }

    /// Gives a column's figures a second name.
    pub(crate) fn alias(&mut self, key: &str, name: &str) {
        if key == name {
            return;
        }
        for row in &mut self.rows {
            if let Some(figure) = row.get(key).copied() {
                row.insert(name.to_owned(), figure);
            }
        }
    }

    /// A key's figure in each row.
    pub(crate) fn column(&self, key: &str) -> Vec<Option<f64>> {
        let rows = self.rows.iter();
        rows.map(|row| row.get(key).copied()).collect()
    }
}

/// A row's step, where it has one.
pub(crate) fn step_of(row: &Row) -> Option<f64> {
    STEP_KEYS.iter().find_map(|key| row.get(*key).copied())
}

/// Adds a row's figures to those of its step; whether it replaced any.
fn merged(kept: &mut Vec<Row>, row: Row, step: f64) -> bool {
    let own = kept.last_mut().filter(|last| step_of(last) == Some(step));
    let Some(own) = own else {
        kept.push(row);
        return false;
    };
    let is_repeated = repeats(&row, own);
    own.extend(row);
    is_repeated
}

/// Whether a row has a figure that another has too.
fn repeats(row: &Row, other: &Row) -> bool {
    let is_figure = |key: &&String| !is_step(key) && !CLOCK_KEYS.contains(&key.as_str());
    row.keys()
        .filter(is_figure)
        .any(|key| other.contains_key(key))
}

fn is_step(key: &str) -> bool {
    STEP_KEYS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn records(text: &str) -> Records {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Records::load(file.path()).unwrap()
    }

    fn steps(records: &Records) -> Vec<f64> {
        records.rows.iter().filter_map(step_of).collect()
    }

    #[test]
    fn a_resumed_run_keeps_what_it_wrote_last() {
        let lines = [
            (1, 0.1),
            (2, 0.2),
            (3, 0.3),
            (2, 0.25),
            (2, 0.26),
            (3, 0.35),
        ];
        let line = |(step, reward): &(i32, f64)| format!("{{\"step\":{step},\"reward\":{reward}}}");
        let text = lines.iter().map(line).collect::<Vec<_>>().join("\n");
        let found = records(&text);
        assert_eq!(steps(&found), [1.0, 2.0, 3.0]);
        assert_eq!(found.column("reward"), [Some(0.1), Some(0.26), Some(0.35)]);
        assert!(
            found.notes[0].contains("3 earlier lines"),
            "{:?}",
            found.notes
        );
    }

    #[test]
    fn rows_of_one_step_are_joined_and_a_summary_takes_nothing_back() {
        let found = records(
            "{\"step\":1,\"loss\":1}\n{\"step\":1,\"eval\":2}\n{\"step\":2,\"loss\":3}\n{\"step\":0,\"runtime\":9}\n",
        );
        assert_eq!(steps(&found), [1.0, 2.0]);
        assert_eq!(found.column("eval"), [Some(2.0), None]);
        assert!(
            found.notes.len() == 1 && found.notes[0].contains("1 lines go back"),
            "{:?}",
            found.notes
        );
        let blocks = [(1, "a"), (2, "a"), (1, "b"), (2, "b")];
        let line = |(step, key): (u64, &str)| format!("{{\"step\":{step},\"{key}\":{step}}}\n");
        let found = records(&blocks.map(line).concat());
        assert_eq!(found.column("b"), [Some(1.0), Some(2.0)]);
        assert!(found.notes.is_empty(), "{:?}", found.notes);
    }

    #[test]
    fn a_line_that_cannot_be_read_costs_itself_alone() {
        let found = records(
            "{\"step\":1,\"x\":1}\nnonsense\n{\"step\":2,\"x\":NaN}\n{\"step\":3,\"x\":2}\n{\"step\":4,",
        );
        assert_eq!(steps(&found), [1.0, 2.0, 3.0]);
        assert_eq!(found.column("x"), [Some(1.0), None, Some(2.0)]);
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
        assert!(found.notes[0].contains("line 2") && found.notes[1].contains("line 5"));
    }

    #[test]
    fn points_nested_figures_and_tables_are_read() {
        let points = records(
            "{\"points\": [{\"entropy\": 1.5, \"reward\": 0.1}, {\"entropy\": 1, \"reward\": null}]}",
        );
        assert_eq!(points.column("entropy"), [Some(1.5), Some(1.0)]);
        assert_eq!(points.column("reward"), [Some(0.1), None]);
        let nested =
            records("{\"step\": 1, \"q\": {\"top\": 2.5}, \"flag\": true, \"text\": \"x\"}");
        assert_eq!(nested.column("q.top"), [Some(2.5)]);
        let table = records("\u{feff}\"Step\",\"a - actor/entropy\",\"b\"\n1,0.5,\n2,nan,3\n");
        assert_eq!(steps(&table), [1.0, 2.0]);
        assert_eq!(table.column("a - actor/entropy"), [Some(0.5), None]);
        assert_eq!(table.column("b"), [None, Some(3.0)]);
    }

    #[test]
    fn a_trainer_s_state_is_read_by_its_log() {
        let found = records(
            "{\n \"best_metric\": null, \"global_step\": 2,\n \"log_history\": [\n  {\"epoch\": 0.1, \"entropy\": 0.5, \"step\": 1},\n  \
             {\"epoch\": 0.2, \"entropy\": 0.4, \"step\": 2},\n  {\"epoch\": 0.2, \"step\": 2, \"eval_reward\": 0.3}\n ]\n}\n",
        );
        assert_eq!(steps(&found), [1.0, 2.0]);
        assert_eq!(found.column("entropy"), [Some(0.5), Some(0.4)]);
        assert_eq!(found.column("eval_reward"), [None, Some(0.3)]);
        assert!(found.notes.is_empty(), "{:?}", found.notes);
    }

    #[test]
    fn tables_of_other_delimiters_are_read() {
        for text in [
            "step\tentropy, nats\treward\n1\t0.5\t0.1\n2\t0.4\t0.2\n",
            "step;entropy, nats;reward\n1;0.5;0.1\n2;0.4;0.2\n",
            "step;\"entropy, nats\";reward\n1;0,5;0,1\n2;0,4;0,2\n",
            "step,\"entropy, nats\",reward\n1,0.5,0.1\n2,0.4,0.2\n",
        ] {
            let found = records(text);
            assert_eq!(steps(&found), [1.0, 2.0], "{text}");
            let expected = [Some(0.5), Some(0.4)];
            assert_eq!(found.column("entropy, nats"), expected, "{text}");
        }
    }

    #[test]
    fn a_file_of_nothing_is_an_error() {
        for text in [
            "",
            "\n\n",
            "not json at all",
            "{\"points\": []}",
            "a,b\n",
            "[1, 2]",
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let error = format!("{:#}", Records::load(file.path()).unwrap_err());
            assert!(error.contains("no line of figures"), "{text:?}: {error}");
        }
    }

    #[test]
    fn every_input_that_fuzzing_knows_is_read_or_refused() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/records");
        let mut read = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let Ok(records) = Records::load(&entry.unwrap().path()) else {
                continue;
            };
            if let (Ok(entropy), Ok(reward)) = (records.entropy_key(None), records.reward_key(None))
            {
                let points = records.joined_for(&entropy, &reward);
                let points = points.law_points(&entropy, &reward);
                let points: Vec<_> = points.into_iter().map(|(_, point)| point).collect();
                let _ = entropy::fit_law(&points);
                read += 1;
            }
        }
        assert!(read > 4, "{read}");
    }
}
