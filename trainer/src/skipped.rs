//! Updates that are not made, since their loss or gradient is not finite: of which sequences, and all that it takes to
//! compute them again.

use std::fmt;

use losses::{EntropyControl, ObjectiveConfig};
use serde_json::{Value, json};

use crate::batch::Sequence;

/// Names of problems that are told of at once.
const MOST_NAMED: usize = 8;

/// The mini-batch of an update that was not made. Matrices have a row a response, 0 at padding.
#[derive(Debug, Clone)]
pub struct SkippedBatch {
    pub(crate) step: u64,
    /// Its place among the step's updates.
    pub(crate) mini_batch: u64,
    pub(crate) objective: ObjectiveConfig,
    pub(crate) entropy: EntropyControl,
    /// The problem of each row.
    pub(crate) problems: Vec<String>,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) response_len: usize,
    /// `log π` under the weights that the update would have changed.
    pub(crate) log_probs: Vec<f32>,
    pub(crate) old_log_probs: Vec<f32>,
    pub(crate) ref_log_probs: Option<Vec<f32>>,
    pub(crate) advantages: Vec<f32>,
    pub(crate) weights: Option<Vec<f32>>,
    pub(crate) mask: Vec<f32>,
}

impl fmt::Display for SkippedBatch {
    /// The problems that are to blame, or all where none is by itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blamed = self.blamed();
        let (what, problems) = if blamed.is_empty() {
            ("over problems", self.distinct(|_| true))
        } else {
            ("by problems", blamed)
        };
        let named: Vec<String> = problems.iter().map(|id| format!("'{id}'")).collect();
        let more = match named.len().saturating_sub(MOST_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = &named[..named.len().min(MOST_NAMED)];
        write!(f, "{what} {}{more}", named.join(", "))
    }
}

impl SkippedBatch {
    /// Problems with a response whose own figures, or their product, are not finite.
    fn blamed(&self) -> Vec<&str> {
        self.distinct(|row| {
            let cells = row * self.response_len..(row + 1) * self.response_len;
            cells.into_iter().any(|cell| !self.is_finite(cell))
        })
    }

    fn is_finite(&self, cell: usize) -> bool {
        let at = |figures: &Option<Vec<f32>>| figures.as_ref().map_or(0.0, |figures| figures[cell]);
        let ratio = (self.log_probs[cell] - self.old_log_probs[cell]).exp();
        let term = ratio * self.advantages[cell] + at(&self.weights) + at(&self.ref_log_probs);
        self.mask[cell] == 0.0 || term.is_finite()
    }

    /// The problems of some rows, each once.
    fn distinct(&self, is_meant: impl Fn(usize) -> bool) -> Vec<&str> {
        let rows = self.problems.iter().enumerate();
        let mut ids: Vec<&str> = rows
            .filter(|(row, _)| is_meant(*row))
            .map(|(_, id)| id.as_str())
            .collect();
        ids.dedup();
        ids
    }

    /// The case that `anneal replay` reads, with what was sampled beside it.
    pub(crate) fn to_json(&self) -> Value {
        let matrix = |figures: &[f32]| -> Vec<Vec<Value>> {
            let rows = figures.chunks(self.response_len);
            rows.map(|row| row.iter().copied().map(number).collect())
                .collect()
        };
        let optional = |figures: &Option<Vec<f32>>| figures.as_deref().map(matrix);
        let parts = |part: fn(&Sequence) -> &[u32]| -> Vec<&[u32]> {
            self.sequences.iter().map(part).collect()
        };
        json!({
            "loss": self.objective.loss,
            "aggregation": self.objective.aggregation(),
            "constant_length_tokens": self.objective.constant_length_tokens,
            "entropy": self.entropy,
            "inputs": {
                "log_probs": matrix(&self.log_probs),
                "old_log_probs": matrix(&self.old_log_probs),
                "ref_log_probs": optional(&self.ref_log_probs),
                "advantages": matrix(&self.advantages),
                "mask": matrix(&self.mask),
            },
            "batch": {
                "step": self.step,
                "mini_batch": self.mini_batch,
                "problems": self.problems,
                "prompt_ids": parts(|sequence| sequence.parts().0),
                "response_ids": parts(|sequence| sequence.parts().1),
                "weights": optional(&self.weights),
            },
        })
    }
}

/// A figure that JSON may have no number for.
fn number(figure: f32) -> Value {
    if figure.is_finite() {
        json!(figure)
    } else {
        json!(figure.to_string())
    }
}
