//! The countdown task itself.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::expression::Expression;
use super::puzzle::{Puzzle, question_text};
use super::solution::Worker;
use super::{CountdownConfig, CountdownReward, Operation};
use crate::task::seed::problem_rng;
use crate::{MistakeRate, Problem, Reward, Split, Task};

pub(super) const NAME: &str = "countdown";

/// Draws tried for a problem before settings count as hopeless.
const TRIAL_DRAWS: usize = 20_000;
/// Problems that so many draws must yield, so that drawing one never takes long.
const TRIAL_PROBLEMS: usize = 8;

/// Reaching a target from given numbers, each used at most once (or all of them).
///
/// Every problem is made from an expression and so can be solved; no target is among its numbers.
#[derive(Debug, Clone)]
pub struct CountdownTask {
    config: CountdownConfig,
}

impl CountdownTask {
    pub(super) fn new(config: CountdownConfig) -> Self {
        Self { config }
    }

    /// Whether problems of a split turn up often enough.
    pub(super) fn can_draw(&self, split: Split) -> bool {
        let mut rng = problem_rng(NAME, split, 0, u64::MAX);
        let drawn = (0..TRIAL_DRAWS).filter(|_| self.draw(split, &mut rng).is_some());
        drawn.take(TRIAL_PROBLEMS).count() == TRIAL_PROBLEMS
    }

    fn draw(&self, split: Split, rng: &mut ChaCha8Rng) -> Option<Puzzle> {
        Puzzle::draw(&self.config, rng).filter(|puzzle| puzzle.split() == split)
    }

    fn shows_steps(&self, rng: &mut ChaCha8Rng) -> bool {
        let styles = self.config.styles;
        rng.random::<f64>() * (styles.steps + styles.direct) < styles.steps
    }
}

impl Task for CountdownTask {
    fn name(&self) -> &str {
        NAME
    }

    fn problem(&self, split: Split, seed: u64, index: u64) -> Problem {
        let mut rng = problem_rng(NAME, split, seed, index);
        let puzzle = loop {
            if let Some(puzzle) = self.draw(split, &mut rng) {
                break puzzle;
            }
        };
        Problem {
            id: format!("{NAME}-{}-{seed}-{index}", split.as_str()),
            prompt: format!("{}\n", question_text(&puzzle.numbers, puzzle.target)),
            answer: puzzle.target.to_string(),
            source: NAME.to_owned(),
            system: None,
            numbers: Some(puzzle.numbers),
            solution: Some(puzzle.solution),
        }
    }

    fn worked_solution(
        &self,
        problem: &Problem,
        rng: &mut ChaCha8Rng,
        mistakes: MistakeRate,
    ) -> String {
        let shows_steps = self.shows_steps(rng);
        let worker = Worker {
            operations: &self.config.operations,
            rng,
            mistakes,
            shows_steps,
        };
        let expression = problem.solution.as_deref().and_then(Expression::parse);
        expression
            .and_then(|expression| worker.solve(&expression))
            .unwrap_or_else(|| format!("#### {}", problem.answer))
    }

    fn reward(&self) -> Box<dyn Reward> {
        Box::new(CountdownReward {
            use_all: self.config.use_all,
        })
    }

    fn alphabet(&self) -> String {
        let mut characters: Vec<char> = "\n #()-0123456789=>".chars().collect();
        characters.extend(
            self.config
                .operations
                .iter()
                .copied()
                .map(Operation::symbol),
        );
        characters.sort_unstable();
        characters.dedup();
        characters.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn prompts_name_numbers_and_target() {
        let task = CountdownConfig::default().build().unwrap();
        for index in 0..200 {
            let problem = task.problem(Split::Train, 1, index);
            let (numbers, target) = problem
                .prompt
                .strip_suffix('\n')
                .unwrap()
                .split_once(" -> ")
                .unwrap();
            let numbers: Vec<i64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
            assert_eq!(Some(&numbers), problem.numbers.as_ref());
            assert_eq!(target, problem.answer);
            assert!(numbers.iter().all(|number| (1..=50).contains(number)));
            assert!(!numbers.iter().any(|number| number.to_string() == target));
            assert!((1..=200).contains(&target.parse::<i64>().unwrap()));
        }
    }

    #[test]
    fn both_styles_occur() {
        let task = CountdownConfig::default().build().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let problem = task.problem(Split::Train, 1, 1);
        let with_steps: BTreeSet<bool> = (0..200)
            .map(|_| {
                task.worked_solution(&problem, &mut rng, MistakeRate::NEVER)
                    .contains('\n')
            })
            .collect();
        assert_eq!(with_steps.len(), 2);
    }
}
