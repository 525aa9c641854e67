//! Worked solutions of a countdown.

use std::fmt::Write;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Operation;
use super::expression::{Expression, Item, Written};
use crate::MistakeRate;

/// Rewrites an expression as steps, some of which may go wrong.
pub(super) struct Worker<'a> {
    pub(super) operations: &'a [Operation],
    pub(super) rng: &'a mut ChaCha8Rng,
    pub(super) mistakes: MistakeRate,
    pub(super) shows_steps: bool,
}

impl Worker<'_> {
    /// The steps, if shown, and the final line; `None` where the expression leaves the positive
    /// integers.
    pub(super) fn solve(mut self, expression: &Expression) -> Option<String> {
        let mut lines = String::new();
        let mut stack = Vec::new();
        for item in &expression.items {
            let written = match item {
                Item::Number(number) => Written::number(*number),
                Item::Operation(operation) => {
                    let right = stack.pop()?;
                    let left = stack.pop()?;
                    self.step(*operation, left, right, &mut lines)?
                }
            };
            stack.push(written);
        }
        let reached = stack.pop()?;
        let _ = write!(lines, "#### {}", reached.into_text());
        Some(lines)
    }

    /// Writes `50*3=150`, or another step in its place, and returns where it leads.
    fn step(
        &mut self,
        operation: Operation,
        left: Written,
        right: Written,
        lines: &mut String,
    ) -> Option<Written> {
        let (mut left, mut right) = (left, right);
        let mut operation = operation;
        if self.mistakes.strikes(self.rng) {
            (operation, right) = self.mistake(operation, &left, right);
        }
        if operation.commutes() && self.rng.random_bool(0.5) {
            std::mem::swap(&mut left, &mut right);
        }
        let value = apply(operation, &left, &right)?;
        if self.shows_steps {
            let symbol = operation.symbol();
            let _ = writeln!(lines, "{}{symbol}{}={value}", left.value, right.value);
        }
        Some(Written::join(operation, &left, &right, value))
    }

    /// Another operation that gives another result, or, where there is none, another number in
    /// place of the right operand.
    fn mistake(
        &mut self,
        operation: Operation,
        left: &Written,
        right: Written,
    ) -> (Operation, Written) {
        let result = apply(operation, left, &right);
        let others: Vec<Operation> = self
            .operations
            .iter()
            .copied()
            .filter(|other| apply(*other, left, &right).is_some_and(|it| Some(it) != result))
            .collect();
        if !others.is_empty() {
            return (others[self.rng.random_range(0..others.len())], right);
        }
        let near = [right.value.saturating_add(1), right.value - 1]
            .into_iter()
            .map(Written::number);
        let wrong =
            |near: &Written| apply(operation, left, near).is_some_and(|it| Some(it) != result);
        let replaced = near.into_iter().find(wrong);
        (operation, replaced.unwrap_or(right))
    }
}

fn apply(operation: Operation, left: &Written, right: &Written) -> Option<i64> {
    operation.apply_positive(left.value, right.value)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn solve(text: &str, seed: u64, mistakes: MistakeRate, shows_steps: bool) -> String {
        let operations = &[Operation::Add, Operation::Subtract, Operation::Multiply];
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let worker = Worker {
            operations,
            rng: &mut rng,
            mistakes,
            shows_steps,
        };
        worker.solve(&Expression::parse(text).unwrap()).unwrap()
    }

    #[test]
    fn steps_lead_to_the_expression() {
        let seen: std::collections::BTreeSet<String> = (0..50)
            .map(|seed| solve("50*3-7", seed, MistakeRate::NEVER, true))
            .collect();
        let expected = [
            "3*50=150\n150-7=143\n#### 3*50-7",
            "50*3=150\n150-7=143\n#### 50*3-7",
        ];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(solve("50-7", 0, MistakeRate::NEVER, false), "#### 50-7");
    }

    #[test]
    fn mistakes_change_the_value_and_are_carried_on() {
        for seed in 0..50 {
            let text = solve("50*3-7", seed, MistakeRate::ALWAYS, true);
            let (steps, expression) = text.split_once("\n#### ").unwrap();
            let value = Expression::parse(expression).unwrap().value().unwrap();
            assert_ne!(value, 143.into(), "{text}");
            assert!(steps.ends_with(&format!("={value}")), "{text}");
        }
    }
}
