//! Problems, answer extraction, verification and procedural tasks: text in, number out.
//!
//! A [`Problem`] comes from a file ([`load_problems`]) or from a procedural [`Task`]. A [`Reward`]
//! turns a model's [`Response`] to it into a [`Score`]; [`score_all`] does so for a whole batch, in
//! parallel and in order. [`VerifierReward`] asks the [`Verifier`], which finds the answer in the
//! response ([`extract_answer`]) and compares it with the gold one by text and by exact number.
//! [`RewardConfig`] chooses others, and combines several: for a form, a length, one text, a letter,
//! or whatever a program in another language finds ([`ExternalReward`]).
//!
//! Whatever a model writes, nothing here panics, hangs or rounds in silence: work is bounded, and
//! every verdict carries its reason.
//!
//! ```
//! use reward::{Problem, Response, Reward, Score, verify};
//!
//! assert!(verify("1/2", r"So the answer is \boxed{0.50}.").correct);
//!
//! /// A reward of one's own.
//! struct Brief;
//!
//! impl Reward for Brief {
//!     fn score(&self, problem: &Problem, response: &Response<'_>) -> Score {
//!         let right = verify(&problem.answer, response.text).correct;
//!         Score { correct: right, ..Score::of(f64::from(u8::from(right)) - 0.001 * response.tokens as f64, "brief") }
//!     }
//! }
//! ```

mod error;
mod extract;
mod load;
mod math;
mod problem;
mod response;
mod reward;
mod rewards;
mod score;
mod task;
mod verify;

pub use error::RewardError;
pub use extract::{Extraction, ExtractionRule, extract_answer, extract_by_rule};
pub use load::{DEFAULT_MAX_LINE_BYTES, load_problems, load_problems_capped};
pub use problem::Problem;
pub use response::Response;
pub use reward::{Reward, StopCheck, VerifierReward, score_all};
pub use rewards::{
    BoxCount, CombinedReward, ExactTextReward, ExternalConfig, ExternalReward, ExternalStats,
    FormatReward, Letters, MultipleChoiceReward, OverlongReward, RewardConfig, RewardKind,
    RewardPart, TaskReward, ThinkTags, WeightedReward,
};
pub use score::Score;
pub use task::{
    ArithmeticConfig, ArithmeticTask, CountdownConfig, CountdownReward, CountdownStyles,
    CountdownTask, MistakeRate, Operation, Sign, Split, StyleWeights, Task, TaskConfig,
};
pub use verify::{
    DEFAULT_MAX_BITS, Verdict, VerdictReason, Verifier, are_equivalent, gold_is_readable, verify,
};
