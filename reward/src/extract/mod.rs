//! Finding the answer in what a model wrote.

mod answer;
mod boxed;
mod line;
mod prose;

pub use answer::{Extraction, ExtractionRule, extract_answer, extract_by_rule};
pub(crate) use line::{after_thinking, last_line};
