//! What a program is asked.

use serde::Serialize;

use crate::{Problem, Response};

/// A request, as it is written.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    pub(super) id: u64,
    problem: &'a Problem,
    response: &'a str,
    tokens: usize,
    truncated: bool,
}

impl<'a> Request<'a> {
    pub(super) fn new(id: u64, problem: &'a Problem, response: &Response<'a>) -> Self {
        Self {
            id,
            problem,
            response: response.text,
            tokens: response.tokens,
            truncated: response.truncated,
        }
    }

    /// The request as a line of JSON.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("texts and numbers are JSON");
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::test_problem;

    #[test]
    fn requests_are_one_line() {
        let problem = Problem {
            numbers: Some(vec![1, 2]),
            ..test_problem("7")
        };
        let response = Response {
            text: "a\n\"b\"",
            tokens: 3,
            truncated: true,
        };
        let line = String::from_utf8(Request::new(5, &problem, &response).to_line()).unwrap();
        let expected = concat!(
            r#"{"id":5,"problem":{"id":"1","prompt":"p","answer":"7","source":"test","#,
            r#""numbers":[1,2]},"response":"a\n\"b\"","tokens":3,"truncated":true}"#,
            "\n"
        );
        assert_eq!(line, expected);
    }
}
