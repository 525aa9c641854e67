//! The choice of rewards.

use serde::{Deserialize, Serialize};

use super::combined::{CombinedReward, WeightedReward};
use super::setting::Settings;
use super::{ExactTextReward, ExternalConfig, FormatReward, MultipleChoiceReward, OverlongReward};
use crate::{CountdownReward, Reward, RewardError, VerifierReward};

/// The `[reward]` table: what responses are scored by.
///
/// ```toml
/// [[reward.parts]]
/// type = "verifier"
///
/// [[reward.parts]]
/// type = "overlong"
/// weight = 0.5
/// max_tokens = 4096
/// cache_tokens = 512
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// The parts of the sum; none for the task's own reward, or the verifier's for files. The first
    /// that judges correctness decides whether an answer is right.
    pub parts: Vec<RewardPart>,
}

/// A part of the sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardPart {
    /// What its reward is multiplied by; 1 where it is not given.
    #[serde(default = "one")]
    pub weight: f64,
    /// Its type and the type's settings. They refuse keys that neither they nor the part have.
    #[serde(flatten)]
    pub reward: RewardKind,
}

/// A reward and its settings, told apart by `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RewardKind {
    /// What there is without parts: the task's own reward, or the verifier's for files.
    Task(TaskReward),
    /// Whether the verifier finds the answer right.
    Verifier(VerifierReward),
    /// Whether the answer is one text.
    ExactText(ExactTextReward),
    /// Whether the right letter is chosen.
    MultipleChoice(MultipleChoiceReward),
    /// Whether the response has a form.
    Format(FormatReward),
    /// A penalty on long responses.
    Overlong(OverlongReward),
    /// Whether an expression reaches a countdown's target.
    Countdown(CountdownReward),
    /// What a program says.
    External(ExternalConfig),
}

/// The reward of the problems' own task; it has no settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskReward {}

fn one() -> f64 {
    1.0
}

impl RewardConfig {
    /// Checks every setting. Programs are not looked for.
    ///
    /// # Errors
    /// If one is out of range.
    pub fn validate(&self) -> Result<(), RewardError> {
        self.parts.iter().try_for_each(RewardPart::validate)?;
        let is_task = |part: &&RewardPart| matches!(part.reward, RewardKind::Task(_));
        let tasks = self.parts.iter().filter(is_task).count();
        let settings = Settings { reward: "task" };
        settings.require(tasks <= 1, "parts", tasks, "must hold it once at most")
    }

    /// Whether the verifier reads gold answers of problems whose own reward is, or is not, the verifier's.
    pub fn asks_verifier(&self, own_is_verifier: bool) -> bool {
        let asks = |part: &RewardPart| match part.reward {
            RewardKind::Verifier(_) => true,
            RewardKind::Task(_) => own_is_verifier,
            _ => false,
        };
        match self.parts.as_slice() {
            [] => own_is_verifier,
            parts => parts.iter().any(asks),
        }
    }

    /// The sum of the parts, or `default` where there are none. It starts the external programs.
    ///
    /// # Errors
    /// As [`RewardConfig::validate`], or if a program cannot be started.
    pub fn build(&self, default: Box<dyn Reward>) -> Result<Box<dyn Reward>, RewardError> {
        self.validate()?;
        if self.parts.is_empty() {
            return Ok(default);
        }
        let mut task = Some(default);
        let parts = self.parts.iter().zip(self.names());
        let parts = parts.map(|(part, name)| {
            Ok(WeightedReward {
                name,
                weight: part.weight,
                reward: part.reward.build(&mut task)?,
            })
        });
        let parts = parts.collect::<Result<_, RewardError>>()?;
        Ok(Box::new(CombinedReward::new(parts)))
    }

    /// The parts' types, the second of a type with a 2 behind it, and so on.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for part in &self.parts {
            let name = part.reward.name();
            let before = self.parts[..names.len()].iter();
            let same = before.filter(|other| other.reward.name() == name).count();
            names.push(match same {
                0 => name.to_owned(),
                same => format!("{name}_{}", same + 1),
            });
        }
        names
    }
}

impl RewardPart {
    fn validate(&self) -> Result<(), RewardError> {
        let settings = Settings {
            reward: self.reward.name(),
        };
        let requirement = "must be a finite number";
        settings.require(self.weight.is_finite(), "weight", self.weight, requirement)?;
        self.reward.validate()
    }
}

impl RewardKind {
    /// Its type, as configurations have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Task(_) => "task",
            Self::Verifier(_) => "verifier",
            Self::ExactText(_) => "exact_text",
            Self::MultipleChoice(_) => "multiple_choice",
            Self::Format(_) => "format",
            Self::Overlong(_) => "overlong",
            Self::Countdown(_) => "countdown",
            Self::External(_) => "external",
        }
    }

    fn validate(&self) -> Result<(), RewardError> {
        match self {
            Self::Task(_) | Self::Verifier(_) | Self::ExactText(_) | Self::Countdown(_) => Ok(()),
            Self::MultipleChoice(reward) => reward.validate(),
            Self::Format(reward) => reward.validate(),
            Self::Overlong(reward) => reward.validate(),
            Self::External(config) => config.validate(),
        }
    }

    fn build(&self, task: &mut Option<Box<dyn Reward>>) -> Result<Box<dyn Reward>, RewardError> {
        Ok(match self {
            // There is one at most, as was checked.
            Self::Task(_) => task
                .take()
                .unwrap_or_else(|| Box::new(VerifierReward::default())),
            Self::Verifier(reward) => Box::new(*reward),
            Self::ExactText(reward) => Box::new(*reward),
            Self::MultipleChoice(reward) => Box::new(reward.clone()),
            Self::Format(reward) => Box::new(reward.clone()),
            Self::Overlong(reward) => Box::new(*reward),
            Self::Countdown(reward) => Box::new(*reward),
            Self::External(config) => Box::new(config.build()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::test_problem;
    use crate::{Response, Score};

    /// A part of each type, with each of its settings.
    const EVERY_PART: &str = r#"
        [[parts]]
        type = "verifier"
        undecided_is_missing = true
        rule = "boxed"
        truncated_is_wrong = true
        [[parts]]
        type = "exact_text"
        weight = 2
        ignore_case = true
        whole_response = true
        [[parts]]
        type = "multiple_choice"
        weight = -0.5
        letters = "ABCD"
        [[parts]]
        type = "format"
        think_tags = "required"
        boxes = "exactly_one"
        prefix = "<think>"
        suffix = "."
        [[parts]]
        type = "overlong"
        max_tokens = 10
        cache_tokens = 4
        [[parts]]
        type = "countdown"
        use_all = true
        [[parts]]
        type = "external"
        command = ["sh", "-c", "exit"]
        timeout_seconds = 1
        processes = 2
        max_restarts = 0
    "#;

    fn parse(text: &str) -> Result<RewardConfig, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn every_type_is_read_and_written() {
        let config = parse(EVERY_PART).unwrap();
        assert!(config.validate().is_ok());
        let weights: Vec<f64> = config.parts.iter().map(|part| part.weight).collect();
        assert_eq!(weights, [1.0, 2.0, -0.5, 1.0, 1.0, 1.0, 1.0]);
        for part in &config.parts {
            assert!(EVERY_PART.contains(&format!("type = \"{}\"", part.reward.name())));
        }
        let RewardKind::Overlong(overlong) = &config.parts[4].reward else {
            panic!("{config:?}")
        };
        assert_eq!((overlong.max_tokens, overlong.cache_tokens), (10, 4));
        let written = toml::to_string(&config).unwrap();
        assert_eq!(parse(&written).unwrap(), config);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RewardConfig>(&json).unwrap(), config);
    }

    #[test]
    fn unknown_keys_are_refused() {
        for wrong in [
            "part = []",
            "[[parts]]",
            "[[parts]]\nweight = 1.0",
            "[[parts]]\ntype = 'vibes'",
            "[[parts]]\ntype = 'verifier'\nwieght = 1.0",
            "[[parts]]\ntype = 'verifier'\nverifier = {}",
            "[[parts]]\ntype = 'exact_text'\nuse_all = true",
            "[[parts]]\ntype = 'multiple_choice'\nletter = 'AB'",
            "[[parts]]\ntype = 'format'\nboxed = true",
            "[[parts]]\ntype = 'overlong'\nmax = 10",
            "[[parts]]\ntype = 'countdown'\nnumbers = 4",
            "[[parts]]\ntype = 'external'\ntimeout = 4",
            "[[parts]]\ntype = 'verifier'\nweight = 'much'",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (text, named) in [
            (
                "type = 'verifier'\nweight = nan",
                "reward verifier: `weight`",
            ),
            (
                "type = 'countdown'\nweight = inf",
                "reward countdown: `weight`",
            ),
            ("type = 'format'", "reward format: `think_tags`"),
            ("type = 'multiple_choice'\nletters = ''", "`letters`"),
            ("type = 'overlong'\ncache_tokens = 0", "`cache_tokens`"),
            ("type = 'external'", "reward external: `command`"),
        ] {
            let config = parse(&format!("[[parts]]\n{text}")).unwrap();
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
            assert!(config.build(Box::new(VerifierReward::default())).is_err());
        }
    }

    #[test]
    fn without_parts_the_default_is_used() {
        let config = parse("").unwrap();
        assert_eq!(config, RewardConfig::default());
        let reward = config.build(Box::new(VerifierReward::default())).unwrap();
        let score = reward.score(&test_problem("7"), &"7".into());
        assert_eq!(score, Score::binary(true, Some("7".into()), "same_text"));
    }

    #[test]
    fn it_is_known_whether_the_verifier_reads_gold_answers() {
        for (text, of_a_task, of_a_file) in [
            ("", false, true),
            ("[[parts]]\ntype = 'task'", false, true),
            ("[[parts]]\ntype = 'exact_text'", false, false),
            (
                "[[parts]]\ntype = 'exact_text'\n[[parts]]\ntype = 'verifier'",
                true,
                true,
            ),
        ] {
            let config = parse(text).unwrap();
            assert_eq!(config.asks_verifier(false), of_a_task, "{text}");
            assert_eq!(config.asks_verifier(true), of_a_file, "{text}");
        }
    }

    #[test]
    fn parts_are_built_into_their_sum() {
        let text = "[[parts]]\ntype = 'exact_text'\nweight = 1.5\n\
                    [[parts]]\ntype = 'overlong'\nmax_tokens = 10\ncache_tokens = 4\n\
                    [[parts]]\ntype = 'exact_text'\nweight = 0.5";
        let reward = parse(text).unwrap();
        let reward = reward.build(Box::new(CountdownReward::default())).unwrap();
        let response = Response {
            text: "Paris",
            tokens: 7,
            truncated: false,
        };
        let score = reward.score(&test_problem("Paris"), &response);
        assert_eq!((score.reward, score.correct), (Some(1.75), true));
        let parts = [
            ("exact_text", 1.0),
            ("exact_text_2", 1.0),
            ("overlong", -0.25),
        ];
        let parts = parts.map(|(name, reward)| (name.to_owned(), reward));
        assert_eq!(score.parts, parts.into());
        assert_eq!(reward.external_stats(), None);
    }
}
