//! Finding the answer in what a model wrote.

mod answer;
mod boxed;
mod line;
mod prose;
mod spans;

pub use answer::{Extraction, ExtractionRule, extract_answer, extract_by_rule};
pub(crate) use line::{after_thinking, last_line};
pub(crate) use prose::gold_formulas;
