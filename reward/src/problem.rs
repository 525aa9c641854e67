//! What a model is asked, and what the right answer is.

use serde::{Deserialize, Serialize};

/// A problem with a verifiable answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Identifies the problem within its source.
    pub id: String,
    /// What the model reads, before any chat template.
    pub prompt: String,
    /// What the model is told before it, as a chat's system message; none where the file says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The gold answer as text: a number, LaTeX, or a word.
    pub answer: String,
    /// The data source's or the task's name.
    pub source: String,
    /// The numbers a procedural problem is made of: a sum's signed terms, or the numbers that a
    /// countdown allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<Vec<i64>>,
    /// A solution that comes with the problem; for a countdown an expression that reaches the
    /// target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solution: Option<String>,
}

/// A problem of which the answer alone matters.
#[cfg(test)]
pub(crate) fn test_problem(answer: &str) -> Problem {
    Problem {
        id: "1".into(),
        prompt: "p".into(),
        answer: answer.into(),
        source: "test".into(),
        system: None,
        numbers: None,
        solution: None,
    }
}
