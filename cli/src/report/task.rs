//! What runs train on, and whether that is the same.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use toml::{Table, Value};

use super::run::flat;

/// The problems of a run.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// The built-in task's name, or the path of the file of problems.
    name: String,
    /// The task's settings by their keys.
    settings: BTreeMap<String, String>,
    /// Of the file's contents, where it can still be read: a file may be given by several paths, and a path like
    /// `train.jsonl` may stand for several files.
    digest: Option<u64>,
}

impl Task {
    /// Of a run's settings; `None` where they name none.
    pub(super) fn of(settings: &Table) -> Option<Self> {
        let data = settings.get("data").and_then(|data| data.get("train"));
        if let Some(Value::String(path)) = data {
            return Some(Self::of_file(Path::new(path)));
        }
        let Value::Table(fields) = settings.get("task")? else {
            return None;
        };
        let mut settings: BTreeMap<String, String> = flat(fields).into_iter().collect();
        let name = settings.remove("name");
        Some(Self {
            name: name.unwrap_or_else(|| "a task".to_owned()),
            settings,
            digest: None,
        })
    }

    fn of_file(path: &Path) -> Self {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let digest = fs::read(&real).ok().map(|bytes| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            hasher.finish()
        });
        Self {
            name: real.display().to_string(),
            settings: BTreeMap::new(),
            digest,
        }
    }

    /// Its name in few words.
    pub(super) fn label(&self) -> String {
        let file = Path::new(&self.name).file_name();
        file.map_or_else(
            || self.name.clone(),
            |file| file.to_string_lossy().into_owned(),
        )
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self.digest, other.digest) {
            (Some(own), Some(others)) => own == others,
            _ => self.name == other.name && self.settings == other.settings,
        }
    }

    /// Its name, and those settings in which others of the name differ from it.
    fn told_apart(&self, tasks: &[&Self]) -> String {
        let namesakes: Vec<&&Self> = tasks.iter().filter(|task| task.name == self.name).collect();
        let differs = |key: &str| {
            let own = self.settings.get(key);
            namesakes.iter().any(|task| task.settings.get(key) != own)
        };
        let settings = self.settings.iter().filter(|(key, _)| differs(key));
        let settings: Vec<String> = settings
            .map(|(key, value)| format!("{key} {value}"))
            .collect();
        if settings.is_empty() {
            self.name.clone()
        } else {
            format!("{} with {}", self.name, settings.join(", "))
        }
    }
}

/// What to say of runs, by name, whose tasks differ or are not known.
pub(super) fn notes(runs: &[(&str, Option<&Task>)]) -> Vec<String> {
    let mut notes = Vec::new();
    let unknown = runs.iter().filter(|(_, task)| task.is_none());
    let unknown: Vec<&str> = unknown.map(|(name, _)| *name).collect();
    if runs.len() > 1 && !unknown.is_empty() {
        notes.push(format!(
            "{}: without a config.toml that can be read, the task is unknown, and so is whether rewards, accuracies and laws compare.",
            unknown.join(", ")
        ));
    }
    let mut groups: Vec<(&Task, Vec<&str>)> = Vec::new();
    for (name, task) in runs {
        let Some(task) = task else { continue };
        match groups.iter_mut().find(|(other, _)| other.is_same(task)) {
            Some((_, names)) => names.push(name),
            None => groups.push((task, vec![name])),
        }
    }
    if groups.len() > 1 {
        let tasks: Vec<&Task> = groups.iter().map(|(task, _)| *task).collect();
        let each = groups.iter();
        let each = each
            .map(|(task, names)| format!("{} on {}", names.join(", "), task.told_apart(&tasks)));
        notes.push(format!(
            "These runs are of different tasks, so their rewards, accuracies and laws do not compare: {}.",
            each.collect::<Vec<_>>().join("; ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(text: &str) -> Option<Task> {
        Task::of(&text.parse().unwrap())
    }

    fn told(texts: &[&str]) -> Vec<String> {
        let tasks: Vec<Option<Task>> = texts.iter().map(|text| task(text)).collect();
        let names = ["a", "b", "c"].into_iter();
        let runs: Vec<(&str, Option<&Task>)> =
            names.zip(tasks.iter().map(Option::as_ref)).collect();
        notes(&runs)
    }

    #[test]
    fn only_what_differs_is_told() {
        let easy = "[task]\nname = 'arithmetic'\nterms = 3\ndigits = 2\n";
        let hard = "[task]\nname = 'arithmetic'\nterms = 4\ndigits = 2\n";
        assert_eq!(told(&[easy, easy]), [""; 0]);
        let notes = told(&[easy, hard, easy]);
        assert!(
            notes.len() == 1
                && notes[0]
                    .ends_with("a, c on arithmetic with terms 3; b on arithmetic with terms 4."),
            "{notes:?}"
        );
        let other = "[task]\nname = 'countdown'\nnumbers = 4\n";
        let notes = told(&[easy, other]);
        assert!(
            notes[0].ends_with("a on arithmetic; b on countdown."),
            "{notes:?}"
        );
    }

    #[test]
    fn an_unknown_task_is_told_of_beside_another_run() {
        let known = "[task]\nname = 'arithmetic'\n";
        let notes = told(&[known, ""]);
        assert!(notes.len() == 1 && notes[0].starts_with("b: "), "{notes:?}");
        assert_eq!(told(&[""]), [""; 0]);
    }

    #[test]
    fn files_are_the_same_by_their_contents() {
        let dir = tempfile::tempdir().unwrap();
        let file = |folder: &str, text: &str| {
            let folder = dir.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            let path = folder.join("train.jsonl");
            fs::write(&path, text).unwrap();
            format!("[data]\ntrain = '{}'\n", path.display())
        };
        let (one, two, copy) = (file("one", "1"), file("two", "2"), file("copy", "1"));
        let notes = told(&[&one, &two, &copy]);
        assert!(
            notes.len() == 1
                && notes[0].contains("a, c on ")
                && notes[0].contains("two/train.jsonl"),
            "{notes:?}"
        );
        let gone = |path: &str| format!("[data]\ntrain = '/no/such/{path}/train.jsonl'\n");
        assert_eq!(told(&[&gone("x"), &gone("x")]), [""; 0]);
        assert_eq!(told(&[&gone("x"), &gone("y")]).len(), 1);
    }
}
