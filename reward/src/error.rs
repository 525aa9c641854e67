//! What can be wrong with problem files and with the settings of tasks and rewards.

use std::path::PathBuf;

/// Why problems could not be loaded, or a task or a reward could not be built. Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// The file is missing or may not be read.
    #[error("cannot open the problem file {path}: check that it exists and is readable")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Reading broke off.
    #[error("cannot read {path} at line {line}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The line being read.
        line: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is longer than the cap.
    #[error(
        "{path}, line {line}: longer than {limit_bytes} bytes; a problem file has one JSON object \
         per line, so split it or raise the cap"
    )]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The cap in bytes.
        limit_bytes: usize,
    },
    /// A line holds bytes that are no UTF-8.
    #[error("{path}, line {line}: not UTF-8; convert the file to UTF-8")]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// Where in the line.
        source: std::str::Utf8Error,
    },
    /// A line is no JSON.
    #[error("{path}, line {line}, column {column}: not valid JSON; each line must be one object")]
    InvalidJson {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column within the line, from 1.
        column: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A line is JSON, but no object.
    #[error("{path}, line {line}: expected a JSON object, as in {{\"problem\": …, \"answer\": …}}")]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A field has a type that cannot be used.
    #[error("{path}, line {line}: field `{field}` must be {expected}")]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field's name.
        field: &'static str,
        /// What it should have been.
        expected: &'static str,
    },
    /// No field holds the problem's text.
    #[error("{path}, line {line}: no problem text; give `problem`, `question` or `prompt`")]
    MissingPrompt {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// No field holds the answer.
    #[error(
        "{path}, line {line}: no answer; give `answer`, `final_answer`, `ground_truth`, or a `solution` that \
         ends in \\boxed{{…}}"
    )]
    MissingAnswer {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// The file is a table of another form.
    #[error(
        "{path} is a Parquet file; problems are JSON lines: \
         python3 -c 'import pandas; pandas.read_parquet(\"{path}\").to_json(\"problems.jsonl\", orient=\"records\", lines=True)' \
         makes them of it"
    )]
    Parquet {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no problem.
    #[error("{path} holds no problems: give one JSON object per line")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A task's setting is out of range.
    #[error("task {task}: `{setting}` = {value} {requirement}")]
    InvalidSetting {
        /// The task's name.
        task: &'static str,
        /// The setting.
        setting: &'static str,
        /// The value it has.
        value: String,
        /// What it must be, as the end of a sentence.
        requirement: &'static str,
    },
    /// A task's settings allow no, or next to no, problems.
    #[error(
        "task {task}: the settings leave too few problems to draw from; allow more operations, \
         larger numbers or a larger target"
    )]
    TooFewProblems {
        /// The task's name.
        task: &'static str,
    },
    /// A reward's setting is out of range.
    #[error("reward {reward}: `{setting}` = {value} {requirement}")]
    InvalidRewardSetting {
        /// The reward's name.
        reward: &'static str,
        /// The setting.
        setting: &'static str,
        /// The value it has.
        value: String,
        /// What it must be, as the end of a sentence.
        requirement: &'static str,
    },
    /// The program of an external reward cannot be started.
    #[error(
        "cannot start the reward program {command:?}: check that it is installed and may be run"
    )]
    StartProgram {
        /// The program and its arguments.
        command: Vec<String>,
        /// What the system said.
        source: std::io::Error,
    },
    /// A mistake rate is no probability.
    #[error("mistake rate {value} must lie between 0 and 1")]
    InvalidMistakeRate {
        /// The rate given.
        value: f64,
    },
}
