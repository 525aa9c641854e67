//! The choice of a task.

use serde::{Deserialize, Serialize};

use super::{ArithmeticConfig, CountdownConfig, Task};
use crate::RewardError;

/// A task and its settings, told apart by `name`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum TaskConfig {
    /// Sums of several integers.
    Arithmetic(ArithmeticConfig),
    /// A target from given numbers.
    Countdown(CountdownConfig),
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self::Arithmetic(ArithmeticConfig::default())
    }
}

impl TaskConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// If one is out of range, or together they leave too few problems.
    pub fn validate(&self) -> Result<(), RewardError> {
        match self {
            Self::Arithmetic(config) => config.validate(),
            Self::Countdown(config) => config.validate(),
        }
    }

    /// Its name, as configurations have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Arithmetic(_) => "arithmetic",
            Self::Countdown(_) => "countdown",
        }
    }

    /// The task itself.
    ///
    /// # Errors
    /// As [`TaskConfig::validate`].
    pub fn build(&self) -> Result<Box<dyn Task>, RewardError> {
        Ok(match self {
            Self::Arithmetic(config) => Box::new(config.clone().build()?),
            Self::Countdown(config) => Box::new(config.clone().build()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{MistakeRate, Problem, Split, score_all};

    fn tasks() -> Vec<Box<dyn Task>> {
        [
            "name = 'arithmetic'",
            "name = 'arithmetic'\noperands = 2\ndigits = 1",
            "name = 'arithmetic'\noperands = 5\ndigits = 3\noperations = ['+', '-']",
            "name = 'countdown'",
            "name = 'countdown'\nnumbers = 5\nuse_all = true\noperations = ['+', '-', '*', '/']",
        ]
        .into_iter()
        .map(|text| toml::from_str::<TaskConfig>(text).unwrap().build().unwrap())
        .collect()
    }

    /// What a problem asks, whatever the order of its numbers.
    fn question(problem: &Problem) -> (Vec<i64>, String) {
        let mut numbers = problem.numbers.clone().unwrap();
        numbers.sort_unstable();
        (numbers, problem.answer.clone())
    }

    #[test]
    fn configurations_are_read_and_written() {
        let config: TaskConfig = toml::from_str("name = 'arithmetic'\noperands = 3").unwrap();
        let TaskConfig::Arithmetic(arithmetic) = &config else {
            panic!("{config:?}")
        };
        assert_eq!((arithmetic.operands, arithmetic.digits), (3, 2));
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<TaskConfig>(&written).unwrap(), config);
        assert!(TaskConfig::default().validate().is_ok());
        for wrong in [
            "name = 'chess'",
            "operands = 3",
            "name = 'arithmetic'\nnumbers = 3",
        ] {
            assert!(toml::from_str::<TaskConfig>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn problems_are_deterministic_and_splits_are_disjoint() {
        for task in tasks() {
            let draw = |split, seed| -> Vec<Problem> {
                (0..5_000)
                    .map(|index| task.problem(split, seed, index))
                    .collect()
            };
            let train = draw(Split::Train, 1);
            let held_out = draw(Split::HeldOut, 1);
            assert_eq!(train[4_000], task.problem(Split::Train, 1, 4_000));
            assert_ne!(train[..20], draw(Split::Train, 2)[..20]);
            let questions: HashSet<_> = train.iter().map(question).collect();
            assert!(
                held_out
                    .iter()
                    .all(|problem| !questions.contains(&question(problem)))
            );
            assert!(
                train
                    .iter()
                    .chain(&held_out)
                    .all(|problem| problem.source == task.name())
            );
            let ids: HashSet<_> = train.iter().chain(&held_out).map(|p| &p.id).collect();
            assert_eq!(ids.len(), 10_000);
        }
    }

    #[test]
    fn solutions_score_as_their_mistakes_say() {
        /// Two wrong steps can cancel out; in the shortest solutions that is most likely.
        const MOST_CANCELLED: f64 = 0.06;
        for task in tasks() {
            let reward = task.reward();
            let accuracy = |split, rate| {
                let mut rng = ChaCha8Rng::seed_from_u64(3);
                let problems: Vec<_> = (0..2_000).map(|i| task.problem(split, 5, i)).collect();
                let solutions: Vec<_> = problems
                    .iter()
                    .map(|problem| task.worked_solution(problem, &mut rng, rate))
                    .collect();
                let pairs: Vec<_> = problems
                    .iter()
                    .zip(solutions.iter().map(|text| text.as_str().into()))
                    .collect();
                let scores = score_all(reward.as_ref(), &pairs);
                scores.iter().filter(|score| score.correct).count() as f64 / 2_000.0
            };
            assert!(
                accuracy(Split::Train, MistakeRate::NEVER) >= 1.0,
                "{}",
                task.name()
            );
            assert!(
                accuracy(Split::HeldOut, MistakeRate::NEVER) >= 1.0,
                "{}",
                task.name()
            );
            let all_wrong = accuracy(Split::Train, MistakeRate::ALWAYS);
            assert!(all_wrong < MOST_CANCELLED, "{}: {all_wrong}", task.name());
            let some_wrong = accuracy(Split::Train, MistakeRate::new(0.08).unwrap());
            assert!(
                (0.5..0.95).contains(&some_wrong),
                "{}: {some_wrong}",
                task.name()
            );
        }
    }

    #[test]
    fn alphabets_cover_prompts_and_solutions_and_hold_nothing_else() {
        for task in tasks() {
            let mut rng = ChaCha8Rng::seed_from_u64(4);
            let rate = MistakeRate::new(0.5).unwrap();
            let mut seen = HashSet::new();
            for index in 0..3_000 {
                let problem = task.problem(Split::Train, 2, index);
                seen.extend(problem.prompt.chars());
                seen.extend(task.worked_solution(&problem, &mut rng, rate).chars());
            }
            let mut seen: Vec<char> = seen.into_iter().collect();
            seen.sort_unstable();
            assert_eq!(seen.into_iter().collect::<String>(), task.alphabet());
        }
    }

    #[test]
    fn problems_of_another_kind_get_their_answer_alone() {
        let problem = Problem {
            system: None,
            id: "1".into(),
            prompt: "How many?".into(),
            answer: "7".into(),
            source: "file".into(),
            numbers: None,
            solution: None,
        };
        for task in tasks() {
            let mut rng = ChaCha8Rng::seed_from_u64(0);
            let solution = task.worked_solution(&problem, &mut rng, MistakeRate::ALWAYS);
            assert_eq!(solution, "#### 7");
        }
    }
}
