//! Reading a file line by line, within bounds.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::Position;
use super::fields::read_problem;
use crate::{Problem, RewardError};

/// The longest line that [`load_problems`] reads: 16 MiB.
pub const DEFAULT_MAX_LINE_BYTES: usize = 16 << 20;

/// What Parquet files begin with.
const PARQUET_MARK: &[u8] = b"PAR1";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads problems from JSON lines, in the file's order.
///
/// The prompt is `problem`, `question` or `prompt`: a text, or a list of a user's message with a system message before it
/// or none; `system` has that too. The answer is `answer` (text, number, boolean,
/// or a list of them; where it is a text with a `#### 72` line, as in GSM8K, what follows the
/// hashes without commas), else `final_answer`, `ground_truth` or that of `reward_model`, else the last box in `solution`. Where there is no `solution`,
/// such an answer's whole text is it. `id` defaults to the line's number, `source` to the file's
/// stem. Blank lines and a byte order mark are skipped.
///
/// # Errors
/// If the file cannot be read, holds no problem, or a line is too long, broken, or lacks a prompt
/// or an answer; with the line's number, from 1.
pub fn load_problems(path: impl AsRef<Path>) -> Result<Vec<Problem>, RewardError> {
    load_problems_capped(path, DEFAULT_MAX_LINE_BYTES)
}

/// As [`load_problems`], with a cap on the length of a line in bytes.
///
/// # Errors
/// As [`load_problems`].
pub fn load_problems_capped(
    path: impl AsRef<Path>,
    max_line_bytes: usize,
) -> Result<Vec<Problem>, RewardError> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|source| RewardError::Open {
        path: path.into(),
        source,
    })?;
    let mut reader = BufReader::new(file);
    let mut problems = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        let position = Position { path, line };
        if !read_line(&mut reader, &mut bytes, max_line_bytes, position)? {
            break;
        }
        if line == 1 && bytes.starts_with(PARQUET_MARK) {
            return Err(RewardError::Parquet { path: path.into() });
        }
        if let Some(object) = parse_line(&bytes, position)? {
            problems.push(read_problem(&object, position)?);
        }
    }
    if problems.is_empty() {
        return Err(RewardError::Empty { path: path.into() });
    }
    Ok(problems)
}

/// Reads the next line into `bytes`; false at the end of the file.
fn read_line(
    reader: &mut impl BufRead,
    bytes: &mut Vec<u8>,
    max_line_bytes: usize,
    Position { path, line }: Position<'_>,
) -> Result<bool, RewardError> {
    bytes.clear();
    // One byte more than the cap (and the line feed) tells a line that is too long.
    let mut limited = reader.take(max_line_bytes as u64 + 1);
    let count = limited
        .read_until(b'\n', bytes)
        .map_err(|source| RewardError::Read {
            path: path.into(),
            line,
            source,
        })?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.len() > max_line_bytes {
        let limit_bytes = max_line_bytes;
        return Err(RewardError::LineTooLong {
            path: path.into(),
            line,
            limit_bytes,
        });
    }
    Ok(count > 0)
}

/// The line's object; `None` where the line is blank.
fn parse_line(
    bytes: &[u8],
    Position { path, line }: Position<'_>,
) -> Result<Option<Map<String, Value>>, RewardError> {
    let bytes = match bytes.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) if line == 1 => rest,
        _ => bytes,
    };
    let text = str::from_utf8(bytes).map_err(|source| RewardError::InvalidUtf8 {
        path: path.into(),
        line,
        source,
    })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(RewardError::NotAnObject {
            path: path.into(),
            line,
        }),
        Err(source) => {
            let column = source.column();
            Err(RewardError::InvalidJson {
                path: path.into(),
                line,
                column,
                source,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    fn file_with(contents: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new()
            .suffix(".jsonl")
            .tempfile()
            .unwrap();
        file.write_all(contents).unwrap();
        file
    }

    fn load(contents: &[u8]) -> Result<Vec<Problem>, RewardError> {
        load_problems(file_with(contents).path())
    }

    fn answer(line: &str) -> String {
        load(line.as_bytes()).unwrap().remove(0).answer
    }

    #[test]
    fn reads_the_shapes_of_the_public_sets() {
        assert_eq!(
            answer(r#"{"id": "0", "question": "q", "answer": 70.0}"#),
            "70"
        );
        assert_eq!(
            answer(r#"{"id": 60, "problem": "p", "question": "q", "answer": "204"}"#),
            "204"
        );
        assert_eq!(
            answer(r#"{"question": "q", "answer": "a\nb\n#### 1,072"}"#),
            "1072"
        );
        assert_eq!(
            answer(r#"{"question": "q", "final_answer": ["2"], "answer": null}"#),
            "2"
        );
        assert_eq!(
            answer(r#"{"question": "q", "final_answer": ["$2$", 3]}"#),
            "$2$, 3"
        );
        assert_eq!(
            answer(r#"{"problem": "p", "solution": "so $\\boxed{1.6} \\mathrm{cm}$"}"#),
            "1.6"
        );
        assert_eq!(answer(r#"{"prompt": "p", "answer": true}"#), "true");
        assert_eq!(answer(r#"{"prompt": "p", "answer": -0.25}"#), "-0.25");
        assert_eq!(answer(r#"{"prompt": "p", "answer": 3}"#), "3");
    }

    #[test]
    fn rows_of_verl_and_trl_are_read() {
        let line = json!({
            "data_source": "math_dapo",
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
            "reward_model": {"ground_truth": "2", "style": "rule"},
        });
        let problem = &load(line.to_string().as_bytes()).unwrap()[0];
        assert_eq!(
            (problem.prompt.as_str(), problem.answer.as_str()),
            ("1+1?", "2")
        );
        assert_eq!(problem.system.as_deref(), Some("Be brief."));
        let line = json!({"prompt": [{"role": "user", "content": "1+1?"}], "ground_truth": 2});
        let problem = &load(line.to_string().as_bytes()).unwrap()[0];
        assert_eq!(
            (problem.answer.as_str(), problem.system.as_deref()),
            ("2", None)
        );
        let line = json!({"prompt": "1+1?", "answer": 2, "system": "Be brief."});
        let problem = &load(line.to_string().as_bytes()).unwrap()[0];
        assert_eq!(problem.system.as_deref(), Some("Be brief."));
        let blank = json!({"prompt": "1+1?", "answer": 2, "system": " "}).to_string();
        assert_eq!(load(blank.as_bytes()).unwrap()[0].system, None);
        let number = json!({"prompt": "1+1?", "answer": 2, "system": 3}).to_string();
        assert!(
            load(number.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("`system`")
        );
        // An answer that is called a solution, and a solution without an answer.
        let line = json!({"prompt": [{"role": "user", "content": "1+1?"}], "solution": "$2$"});
        let problem = &load(line.to_string().as_bytes()).unwrap()[0];
        assert_eq!(
            (problem.answer.as_str(), problem.solution.as_deref()),
            ("$2$", None)
        );
        let worked = json!({"prompt": "1+1?", "solution": "One and one are 2"}).to_string();
        assert!(load(worked.as_bytes()).is_err());
        for messages in [
            json!([]),
            json!([{"role": "assistant", "content": "2"}]),
            json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
            json!([{"role": "user", "content": " "}]),
            json!([{"role": "user", "content": [{"type": "text", "text": "a"}]}]),
            json!(["1+1?"]),
        ] {
            let line = json!({"prompt": messages, "answer": 2}).to_string();
            let error = load(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("role `user`"), "{error}");
        }
    }

    #[test]
    fn a_parquet_file_is_told_from_broken_lines() {
        let error = load(b"PAR1\x15\x04\x15\xff").unwrap_err().to_string();
        assert!(
            error.contains("Parquet") && error.contains("to_json"),
            "{error}"
        );
    }

    #[test]
    fn keeps_ids_sources_and_prompts() {
        let text = "\u{feff}{\"problem\": \"p\", \"question\": \"q\", \"answer\": 1, \
                    \"unique_id\": \"a/1\", \"data_source\": \"set\"}\r\n\n  \n\
                    {\"question\": \"q\", \"answer\": 2, \"numbers\": [1, -2]}";
        let file = file_with(text.as_bytes());
        let problems = load_problems(file.path()).unwrap();
        assert_eq!(problems.len(), 2);
        assert_eq!(
            (problems[0].id.as_str(), problems[0].source.as_str()),
            ("a/1", "set")
        );
        assert_eq!(problems[0].prompt, "p");
        assert_eq!(problems[1].id, "4");
        assert_eq!(
            problems[1].source,
            file.path().file_stem().unwrap().to_string_lossy()
        );
        assert_eq!(problems[1].numbers, Some(vec![1, -2]));
    }

    #[test]
    fn a_worked_answer_is_a_solution_where_there_is_no_other() {
        let solution = |line: &str| load(line.as_bytes()).unwrap()[0].solution.clone();
        let worked = "2+2 = <<2+2=4>>4\n#### 4";
        let line = |rest: &str| format!(r#"{{"question": "q", {rest}}}"#);
        let given = |field: &str, text: &str| format!("{}: {}", json!(field), json!(text));
        let answer = given("answer", worked);
        assert_eq!(solution(&line(&answer)).as_deref(), Some(worked));
        let both = format!("{answer}, {}", given("solution", "so 4"));
        assert_eq!(solution(&line(&both)).as_deref(), Some("so 4"));
        for bare in ["4", "#### 4", "\n #### 4"] {
            assert_eq!(solution(&line(&given("answer", bare))), None, "{bare:?}");
        }
    }

    #[test]
    fn a_problem_written_as_json_is_read_back() {
        let written = Problem {
            id: "x-1".into(),
            prompt: "3 7 -> 21\n".into(),
            answer: "21".into(),
            source: "countdown".into(),
            system: None,
            numbers: Some(vec![3, 7]),
            solution: Some("3*7".into()),
        };
        let line = serde_json::to_string(&written).unwrap();
        assert_eq!(load(line.as_bytes()).unwrap(), [written]);
    }

    #[test]
    fn errors_name_the_line() {
        let good = b"{\"prompt\": \"p\", \"answer\": 1}\n\n".as_slice();
        let after = |bad: &[u8]| load(&[good, bad].concat()).unwrap_err();
        assert!(matches!(
            after(b"{\"pro"),
            RewardError::InvalidJson { line: 3, .. }
        ));
        assert!(matches!(
            after(b"[1]"),
            RewardError::NotAnObject { line: 3, .. }
        ));
        assert!(matches!(
            after(b"{\"a\": \"\xff\"}"),
            RewardError::InvalidUtf8 { line: 3, .. }
        ));
        assert!(matches!(
            after(b"{\"answer\": 1}"),
            RewardError::MissingPrompt { line: 3, .. }
        ));
        let no_answer = b"{\"prompt\": \"p\", \"answer\": \" \"}";
        assert!(matches!(
            after(no_answer),
            RewardError::MissingAnswer { line: 3, .. }
        ));
        let wrong = b"{\"prompt\": [\"p\"], \"answer\": 1}";
        assert!(matches!(
            after(wrong),
            RewardError::WrongType {
                line: 3,
                field: "prompt",
                ..
            }
        ));
        let wrong = b"{\"prompt\": \"p\", \"answer\": {}}";
        assert!(matches!(
            after(wrong),
            RewardError::WrongType {
                line: 3,
                field: "answer",
                ..
            }
        ));
        let wrong = b"{\"prompt\": \"p\", \"answer\": 1, \"numbers\": [1.5]}";
        assert!(matches!(
            after(wrong),
            RewardError::WrongType {
                line: 3,
                field: "numbers",
                ..
            }
        ));
        let deep = [b"{\"prompt\": ".as_slice(), &b"[".repeat(100_000)].concat();
        assert!(matches!(
            after(&deep),
            RewardError::InvalidJson { line: 3, .. }
        ));
        assert!(after(b"{").to_string().contains("line 3"));
    }

    #[test]
    fn files_without_problems_and_missing_files_are_errors() {
        assert!(matches!(load(b""), Err(RewardError::Empty { .. })));
        assert!(matches!(load(b" \n\n"), Err(RewardError::Empty { .. })));
        let missing = load_problems("no/such/file.jsonl").unwrap_err();
        assert!(matches!(&missing, RewardError::Open { .. }));
        assert!(missing.to_string().contains("no/such/file.jsonl"));
        let folder = tempfile::tempdir().unwrap();
        assert!(load_problems(folder.path()).is_err());
    }

    #[test]
    fn lines_are_capped() {
        let line = "{\"prompt\": \"p\", \"answer\": 1}";
        let file = file_with(format!("{line}\n{line}\n").as_bytes());
        assert_eq!(
            load_problems_capped(file.path(), line.len()).unwrap().len(),
            2
        );
        let error = load_problems_capped(file.path(), line.len() - 1).unwrap_err();
        assert!(matches!(error, RewardError::LineTooLong { line: 1, .. }));
    }
}
