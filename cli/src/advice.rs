//! Errors that come with a hint.

use std::fmt::{self, Display, Formatter};

/// An error that knows what to do instead.
#[derive(Debug)]
pub(crate) struct Advised {
    message: String,
    hint: String,
}

impl Advised {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn hint(&self) -> &str {
        &self.hint
    }
}

impl Display for Advised {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advised {}
