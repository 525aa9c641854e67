//! The reward of a countdown.

use serde::{Deserialize, Serialize};

use super::expression::{Expression, MAX_EXPRESSION_BYTES};
use crate::extract::{after_thinking, last_line};
use crate::{ExtractionRule, Problem, Response, Reward, Score, extract_by_rule};

/// Reward 1 where the response's expression uses the given numbers alone, each at most once, and
/// equals the target exactly.
///
/// The expression stands after the last `####`, in the last box, or in the last line; what follows
/// an equals sign is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CountdownReward {
    /// Whether every number must be used.
    pub use_all: bool,
}

impl Reward for CountdownReward {
    fn score(&self, problem: &Problem, response: &Response<'_>) -> Score {
        let Some(text) = expression_text(response.text) else {
            return Score::binary(false, None, "no_answer");
        };
        let reason = self.judge(problem, &text);
        let shown = (text.len() <= MAX_EXPRESSION_BYTES).then_some(text);
        Score::binary(reason == REACHED, shown, reason)
    }
}

const REACHED: &str = "reaches_target";

impl CountdownReward {
    fn judge(self, problem: &Problem, text: &str) -> &'static str {
        let (Some(numbers), Ok(target)) = (&problem.numbers, problem.answer.trim().parse::<i64>())
        else {
            return "problem_without_numbers_or_target";
        };
        if text.len() > MAX_EXPRESSION_BYTES {
            return "expression_too_long";
        }
        let Some(expression) = Expression::parse(&plain(text)) else {
            return "not_an_expression";
        };
        if let Some(objection) = self.objection(numbers, &expression) {
            return objection;
        }
        match expression.value() {
            None => "undefined_or_too_large",
            Some(value) if value == i128::from(target).into() => REACHED,
            Some(_) => "misses_target",
        }
    }

    fn objection(self, given: &[i64], expression: &Expression) -> Option<&'static str> {
        let mut left = given.to_vec();
        for number in expression.numbers() {
            let Some(at) = left.iter().position(|candidate| *candidate == number) else {
                return Some("number_not_given_or_used_twice");
            };
            left.swap_remove(at);
        }
        (self.use_all && !left.is_empty()).then_some("number_unused")
    }
}

/// Where the response states its expression.
fn expression_text(response: &str) -> Option<String> {
    let visible = after_thinking(response);
    let marked = [ExtractionRule::Hashes, ExtractionRule::Boxed]
        .into_iter()
        .find_map(|rule| extract_by_rule(rule, response));
    let text = match marked {
        Some(found) => found.text.into_owned(),
        None => last_line(visible)?.to_owned(),
    };
    let left = text.split('=').next().unwrap_or_default().trim();
    (!left.is_empty()).then(|| left.to_owned())
}

/// Signs of LaTeX and typography as their plain forms.
fn plain(text: &str) -> String {
    text.replace(r"\times", "*")
        .replace(r"\cdot", "*")
        .replace(r"\div", "/")
        .replace(['×', '·'], "*")
        .replace('÷', "/")
        .replace('−', "-")
        .replace('$', "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem() -> Problem {
        Problem {
            id: "1".into(),
            prompt: "3 7 25 50 -> 178\n".into(),
            answer: "178".into(),
            source: "countdown".into(),
            system: None,
            numbers: Some(vec![3, 7, 25, 50]),
            solution: None,
        }
    }

    #[track_caller]
    fn check(response: &str, reason: &str) {
        let score = CountdownReward::default().score(&problem(), &response.into());
        assert_eq!(score.reason, reason, "{response}");
        assert_eq!(score.correct, reason == "reaches_target");
    }

    #[test]
    fn expressions_are_judged_by_numbers_and_value() {
        check(
            "50*3=150\n150+25=175\n#### 50*3+25+3",
            "number_not_given_or_used_twice",
        );
        check("7*25=175\n175+3=178\n#### 7*25+3", "reaches_target");
        check("#### 3+25*7=178", "reaches_target");
        check(r"so \boxed{7 \times 25 + 3}", "reaches_target");
        check("try this:\n7*25+3\n\n", "reaches_target");
        check("#### 7*25+50", "misses_target");
        check("#### 178", "number_not_given_or_used_twice");
        check("#### 3/(7-7)", "number_not_given_or_used_twice");
        check("#### 7*25+", "not_an_expression");
        check("I give up", "not_an_expression");
        check("", "no_answer");
        check("= 178", "no_answer");
        check(
            &format!("#### {}", "7+".repeat(1000)),
            "expression_too_long",
        );
        check("<think>#### 7*25+3</think>\n#### 3", "misses_target");
    }

    #[test]
    fn all_numbers_can_be_required() {
        let reward = CountdownReward { use_all: true };
        assert_eq!(
            reward.score(&problem(), &"#### 7*25+3".into()).reason,
            "number_unused"
        );
        let smaller = Problem {
            numbers: Some(vec![3, 7, 25]),
            ..problem()
        };
        assert!(reward.score(&smaller, &"#### 7*25+3".into()).correct);
    }

    #[test]
    fn values_are_exact_and_problems_complete() {
        let twenty_four = Problem {
            answer: "24".into(),
            numbers: Some(vec![3, 3, 8, 8]),
            ..problem()
        };
        let reward = CountdownReward { use_all: true };
        assert!(reward.score(&twenty_four, &"#### 8/(3-8/3)".into()).correct);
        assert_eq!(
            reward.score(&twenty_four, &"#### 8/(3-3)+8".into()).reason,
            "undefined_or_too_large"
        );
        let incomplete = Problem {
            numbers: None,
            ..problem()
        };
        let score = reward.score(&incomplete, &"#### 1".into());
        assert_eq!(score.reason, "problem_without_numbers_or_target");
    }

    proptest! {
        #[test]
        fn never_panics(response in "\\PC{0,120}") {
            let _ = CountdownReward::default().score(&problem(), &response.as_str().into());
        }
    }
}
