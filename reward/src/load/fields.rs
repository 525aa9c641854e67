//! The fields of a problem, under the names that public sets give them.

use serde_json::{Map, Value};

use super::Position;
use crate::{ExtractionRule, Problem, RewardError, extract_by_rule, gold_is_readable};

const PROMPT_FIELDS: [&str; 3] = ["problem", "question", "prompt"];
const ANSWER_FIELDS: [&str; 3] = ["answer", "final_answer", "ground_truth"];
const ID_FIELDS: [&str; 3] = ["id", "unique_id", "idx"];
const SOURCE_FIELDS: [&str; 2] = ["source", "data_source"];

pub(super) fn read_problem(
    object: &Map<String, Value>,
    position: Position<'_>,
) -> Result<Problem, RewardError> {
    let text = |value: &Value| scalar_text(value).filter(|text| !text.trim().is_empty());
    let stem = || {
        position
            .path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let (prompt, system) = read_prompt(object, position)?;
    let (answer, is_solution) = read_answer(object, position)?;
    Ok(Problem {
        id: ID_FIELDS
            .iter()
            .find_map(|field| object.get(*field).and_then(text))
            .unwrap_or_else(|| position.line.to_string()),
        prompt,
        system,
        answer,
        source: SOURCE_FIELDS
            .iter()
            .find_map(|field| object.get(*field).and_then(text))
            .unwrap_or_else(stem),
        numbers: read_numbers(object, position)?,
        // What is nothing but the answer teaches no way to it.
        solution: read_solution(object)
            .filter(|_| !is_solution)
            .map(str::to_owned),
    })
}

/// The prompt, and what comes before it as a system message.
fn read_prompt(
    object: &Map<String, Value>,
    position: Position<'_>,
) -> Result<(String, Option<String>), RewardError> {
    let own_system = match object.get("system") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => said(text),
        Some(_) => return Err(position.wrong_type("system", "a string")),
    };
    for field in PROMPT_FIELDS {
        match object.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.trim().is_empty() => {}
            Some(Value::String(text)) => return Ok((text.clone(), own_system)),
            Some(Value::Array(messages)) => {
                let expected = "a string, or a list of messages: one of role `user`, and before it one of role `system` or none";
                let read = read_messages(messages);
                let (prompt, system) = read.ok_or_else(|| position.wrong_type(field, expected))?;
                return Ok((prompt, system.or(own_system)));
            }
            Some(_) => return Err(position.wrong_type(field, "a string or a list of messages")),
        }
    }
    Err(RewardError::MissingPrompt {
        path: position.path.into(),
        line: position.line,
    })
}

/// A user's message, and a system message before it, as verl's and TRL's sets have them.
fn read_messages(messages: &[Value]) -> Option<(String, Option<String>)> {
    let text = |message: &Value, role: &str| {
        let is_of = message.get("role").and_then(Value::as_str) == Some(role);
        let text = message.get("content").and_then(Value::as_str);
        text.filter(|_| is_of).map(str::to_owned)
    };
    let (system, user) = match messages {
        [user] => (None, user),
        [system, user] => (said(&text(system, "system")?), user),
        _ => return None,
    };
    Some((said(&text(user, "user")?)?, system))
}

/// A text that is not blank.
fn said(text: &str) -> Option<String> {
    (!text.trim().is_empty()).then(|| text.to_owned())
}

/// The gold answer, and whether that is the whole of `solution`.
fn read_answer(
    object: &Map<String, Value>,
    position: Position<'_>,
) -> Result<(String, bool), RewardError> {
    // verl's sets have it among what their scorers take.
    let of_verl = object.get("reward_model");
    let of_verl = of_verl.and_then(|scorer| scorer.get("ground_truth"));
    let answers = ANSWER_FIELDS.map(|field| (field, object.get(field)));
    for (field, value) in answers.into_iter().chain([("ground_truth", of_verl)]) {
        let text = match value {
            None | Some(Value::Null) => continue,
            Some(Value::Array(items)) => list_text(items),
            Some(value) => scalar_text(value),
        };
        let expected = "a string, a number, a boolean or a list of them";
        let text = text.ok_or_else(|| position.wrong_type(field, expected))?;
        if !text.trim().is_empty() {
            return Ok((without_steps(&text), false));
        }
    }
    if let Some(boxed) = boxed_in_solution(object) {
        return Ok((boxed, false));
    }
    match bare_solution(object) {
        Some(answer) => Ok((answer.to_owned(), true)),
        None => Err(RewardError::MissingAnswer {
            path: position.path.into(),
            line: position.line,
        }),
    }
}

/// GSM8K's answers are whole solutions that end in `#### 72`.
fn without_steps(text: &str) -> String {
    match extract_by_rule(ExtractionRule::Hashes, text) {
        Some(found) => found.text.replace(',', ""),
        None => text.trim().to_owned(),
    }
}

/// What is called a solution, else an answer in GSM8K's form, which is one.
fn read_solution(object: &Map<String, Value>) -> Option<&str> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    text("solution").or_else(|| text("answer").filter(|answer| has_steps(answer)))
}

/// Whether anything leads to the `#### 72` of an answer in GSM8K's form.
fn has_steps(answer: &str) -> bool {
    let steps = answer.split_once("####").map(|(steps, _)| steps);
    steps.is_some_and(|steps| !steps.trim().is_empty())
        && extract_by_rule(ExtractionRule::Hashes, answer).is_some()
}

fn boxed_in_solution(object: &Map<String, Value>) -> Option<String> {
    let solution = object.get("solution")?.as_str()?;
    let found = extract_by_rule(ExtractionRule::Boxed, solution)?;
    (!found.text.is_empty()).then(|| found.text.into_owned())
}

/// A solution that is no more than an answer, `$3$`, as some of TRL's sets have it.
fn bare_solution(object: &Map<String, Value>) -> Option<&str> {
    let text = object.get("solution")?.as_str()?.trim();
    let is_formula = text.len() > 2 && text.starts_with('$') && text.ends_with('$');
    let is_bare = is_formula || !text.contains(char::is_whitespace);
    (is_bare && gold_is_readable(text)).then_some(text)
}

fn read_numbers(
    object: &Map<String, Value>,
    position: Position<'_>,
) -> Result<Option<Vec<i64>>, RewardError> {
    let value = match object.get("numbers") {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let numbers: Option<Vec<i64>> = value
        .as_array()
        .and_then(|items| items.iter().map(Value::as_i64).collect());
    let expected = "a list of integers";
    numbers
        .map(Some)
        .ok_or_else(|| position.wrong_type("numbers", expected))
}

fn list_text(items: &[Value]) -> Option<String> {
    let texts: Option<Vec<String>> = items.iter().map(scalar_text).collect();
    Some(texts?.join(", "))
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) => Some(number_text(number)),
        _ => None,
    }
}

/// Whole floats are written as integers: 70.0 is "70".
fn number_text(number: &serde_json::Number) -> String {
    /// Up to here every whole f64 is the integer that was written.
    const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < LARGEST_EXACT => {
            (float as i64).to_string()
        }
        _ => number.to_string(),
    }
}
