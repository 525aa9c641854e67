//! Rewards besides a task's own and the verifier, and sums of several.

mod boxes;
mod combined;
mod config;
mod exact_text;
mod external;
mod format;
mod letters;
mod multiple_choice;
mod overlong;
mod setting;
mod stated;

pub use combined::{CombinedReward, WeightedReward};
pub use config::{RewardConfig, RewardKind, RewardPart, TaskReward};
pub use exact_text::ExactTextReward;
pub use external::{ExternalConfig, ExternalReward, ExternalStats};
pub use format::{BoxCount, FormatReward, ThinkTags};
pub use letters::Letters;
pub use multiple_choice::MultipleChoiceReward;
pub use overlong::OverlongReward;
