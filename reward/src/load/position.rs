//! Where a line stands.

use std::path::Path;

use crate::RewardError;

/// Where a line stands, for errors.
#[derive(Clone, Copy)]
pub(super) struct Position<'a> {
    pub(super) path: &'a Path,
    pub(super) line: usize,
}

impl Position<'_> {
    pub(super) fn wrong_type(self, field: &'static str, expected: &'static str) -> RewardError {
        RewardError::WrongType {
            path: self.path.into(),
            line: self.line,
            field,
            expected,
        }
    }
}
