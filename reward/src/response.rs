//! What a model wrote, with what generation knows of it.

/// A response as rewards see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Response<'a> {
    /// The text, without the end token.
    pub text: &'a str,
    /// How many tokens were generated, the end token included.
    pub tokens: usize,
    /// Whether the limit on tokens cut it short, before the model ended it.
    pub truncated: bool,
}

impl<'a> From<&'a str> for Response<'a> {
    /// A text whose tokens nobody counted: 0 of them, and complete.
    fn from(text: &'a str) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}
