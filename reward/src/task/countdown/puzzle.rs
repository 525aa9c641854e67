//! Drawing a countdown that can be solved.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::expression::Written;
use super::{CountdownConfig, Operation};
use crate::Split;

/// Numbers, a target, and an expression that reaches it.
pub(super) struct Puzzle {
    pub(super) numbers: Vec<i64>,
    pub(super) target: i64,
    pub(super) solution: String,
}

impl Puzzle {
    /// Draws numbers and joins some of them (or all) at random; `None` where the result is no
    /// target or is one of the numbers.
    pub(super) fn draw(config: &CountdownConfig, rng: &mut ChaCha8Rng) -> Option<Self> {
        let numbers: Vec<i64> = (0..config.numbers)
            .map(|_| rng.random_range(1..=config.max_number))
            .collect();
        let used = if config.use_all {
            numbers.len()
        } else {
            rng.random_range(2..=numbers.len())
        };
        let mut pool: Vec<Written> = numbers.iter().copied().map(Written::number).collect();
        while pool.len() > used {
            take(&mut pool, rng);
        }
        while pool.len() > 1 {
            let (left, right) = (take(&mut pool, rng), take(&mut pool, rng));
            pool.push(join(&config.operations, &left, &right, rng)?);
        }
        let reached = pool.pop()?;
        let target = reached.value;
        let usable = target <= config.max_target && !numbers.contains(&target);
        usable.then(|| Self {
            numbers,
            target,
            solution: reached.into_text(),
        })
    }

    /// The split by numbers and target, whatever the numbers' order.
    pub(super) fn split(&self) -> Split {
        let mut sorted = self.numbers.clone();
        sorted.sort_unstable();
        Split::of(&question_text(&sorted, self.target))
    }
}

/// `3 7 25 50 -> 178`.
pub(super) fn question_text(numbers: &[i64], target: i64) -> String {
    let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
    format!("{} -> {target}", numbers.join(" "))
}

fn take(pool: &mut Vec<Written>, rng: &mut ChaCha8Rng) -> Written {
    pool.swap_remove(rng.random_range(0..pool.len()))
}

fn join(
    operations: &[Operation],
    left: &Written,
    right: &Written,
    rng: &mut ChaCha8Rng,
) -> Option<Written> {
    let operation = operations[rng.random_range(0..operations.len())];
    let swapped = !operation.commutes() && left.value < right.value;
    let (left, right) = if swapped {
        (right, left)
    } else {
        (left, right)
    };
    let value = operation.apply_positive(left.value, right.value)?;
    Some(Written::join(operation, left, right, value))
}
