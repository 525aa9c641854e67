//! The arithmetic task itself.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::config::{MAX_DIGITS, MAX_OPERANDS};
use super::style::{Style, Worker, sum_text};
use super::{ArithmeticConfig, Sign};
use crate::task::seed::problem_rng;
use crate::{ExtractionRule, MistakeRate, Problem, Reward, Split, Task, Verifier, VerifierReward};

pub(super) const NAME: &str = "arithmetic";

/// Sums of several integers, for models that read characters.
///
/// A response counts where its last line that begins with `####` holds the sum.
#[derive(Debug, Clone)]
pub struct ArithmeticTask {
    config: ArithmeticConfig,
}

impl ArithmeticTask {
    pub(super) fn new(config: ArithmeticConfig) -> Self {
        Self { config }
    }

    /// Signed operands; the first is positive.
    fn draw_terms(&self, rng: &mut ChaCha8Rng) -> Vec<i64> {
        let lowest = 10_i64.pow(self.config.digits - 1);
        let signs = &self.config.operations;
        (0..self.config.operands)
            .map(|position| {
                let magnitude = rng.random_range(lowest..lowest * 10);
                let sign = signs[rng.random_range(0..signs.len())];
                if position > 0 && sign == Sign::Minus {
                    -magnitude
                } else {
                    magnitude
                }
            })
            .collect()
    }

    fn subtracts(&self) -> bool {
        self.config.operations.contains(&Sign::Minus)
    }
}

impl Task for ArithmeticTask {
    fn name(&self) -> &str {
        NAME
    }

    fn problem(&self, split: Split, seed: u64, index: u64) -> Problem {
        let mut rng = problem_rng(NAME, split, seed, index);
        let terms = loop {
            let terms = self.draw_terms(&mut rng);
            if Split::of(&canonical(&terms)) == split {
                break terms;
            }
        };
        Problem {
            id: format!("{NAME}-{}-{seed}-{index}", split.as_str()),
            prompt: format!("{}=\n", sum_text(&terms)),
            answer: terms.iter().sum::<i64>().to_string(),
            source: NAME.to_owned(),
            system: None,
            numbers: Some(terms),
            solution: None,
        }
    }

    fn worked_solution(
        &self,
        problem: &Problem,
        rng: &mut ChaCha8Rng,
        mistakes: MistakeRate,
    ) -> String {
        let Some(terms) = problem
            .numbers
            .as_deref()
            .filter(|terms| is_workable(terms))
        else {
            return format!("#### {}", problem.answer);
        };
        let style = Style::choose(self.config.styles, rng);
        Worker::new(rng, mistakes).solve(terms, style)
    }

    fn reward(&self) -> Box<dyn Reward> {
        let required_rule = Some(ExtractionRule::Hashes);
        Box::new(VerifierReward {
            verifier: Verifier {
                required_rule,
                ..Verifier::default()
            },
            ..VerifierReward::default()
        })
    }

    fn alphabet(&self) -> String {
        let minus = if self.subtracts() { "-" } else { "" };
        let plus = "+";
        format!("\n #{plus}{minus}0123456789=")
    }
}

/// Whether terms are within what a configuration allows: a problem may come from a file.
fn is_workable(terms: &[i64]) -> bool {
    let limit = 10_u64.pow(MAX_DIGITS);
    (2..=MAX_OPERANDS).contains(&terms.len())
        && terms.iter().all(|term| term.unsigned_abs() < limit)
}

/// The terms in order of size, so that a sum and its rearrangements fall into one split.
fn canonical(terms: &[i64]) -> String {
    let mut sorted = terms.to_vec();
    sorted.sort_unstable();
    sum_text(&sorted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_compact_sums() {
        let task = ArithmeticConfig::default().build().unwrap();
        for index in 0..100 {
            let problem = task.problem(Split::Train, 1, index);
            let sum = problem.prompt.strip_suffix("=\n").unwrap();
            let terms: Vec<i64> = sum.split('+').map(|term| term.parse().unwrap()).collect();
            assert_eq!(terms.len(), 4);
            assert!(terms.iter().all(|term| (10..100).contains(term)));
            assert_eq!(terms.iter().sum::<i64>().to_string(), problem.answer);
        }
    }

    #[test]
    fn the_reward_wants_the_final_line() {
        let task = ArithmeticConfig::default().build().unwrap();
        let problem = Problem {
            answer: "202".into(),
            ..task.problem(Split::Train, 1, 0)
        };
        let reward = task.reward();
        assert!(
            reward
                .score(&problem, &"176+26=202\n#### 202".into())
                .correct
        );
        assert!(!reward.score(&problem, &"176+26=202".into()).correct);
        assert!(!reward.score(&problem, &"#### 202\n#### 203".into()).correct);
        assert_eq!(reward.score(&problem, &"202".into()).reason, "no_answer");
    }

    #[test]
    fn numbers_beyond_the_task_get_their_answer_alone() {
        let task = ArithmeticConfig::default().build().unwrap();
        let mut rng = rand::SeedableRng::seed_from_u64(0);
        for numbers in [
            vec![],
            vec![7],
            vec![i64::MAX, i64::MAX],
            vec![i64::MIN, -1],
            vec![1; 65],
        ] {
            let answer = "7".to_owned();
            let numbers = Some(numbers);
            let problem = Problem {
                answer,
                numbers,
                ..task.problem(Split::Train, 1, 0)
            };
            let solution = task.worked_solution(&problem, &mut rng, MistakeRate::NEVER);
            assert_eq!(solution, "#### 7");
        }
    }

    #[test]
    fn rearranged_sums_are_in_one_split() {
        assert_eq!(canonical(&[47, -38, 91]), canonical(&[91, 47, -38]));
        assert_ne!(canonical(&[47, -38, 91]), canonical(&[47, 38, -91]));
    }
}
