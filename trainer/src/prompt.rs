//! From a problem to a prompt's tokens.

use policy::{ChatTemplate, Policy, PolicyError, Tokenizer};
use reward::Problem;
use serde_json::{Map, Value, json};

use crate::{DataSection, PromptStyle, TrainerError};

/// When chat templates are told that it is: noon of 26 July 2024 UTC, the day that Llama 3.1's template names by
/// itself. In seconds since 1970.
const PROMPT_CLOCK: i64 = 1_721_995_200;

/// Turns problems into token ids in the way that the model was made for.
#[derive(Debug, Clone)]
pub struct PromptFormat<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    arguments: Map<String, Value>,
    system: Option<String>,
    instruction: String,
}

impl<'a> PromptFormat<'a> {
    /// Chooses between chat and plain prompts; a task's problems are whole as they are and get no instruction.
    ///
    /// # Errors
    /// The model has no tokenizer, or no chat template where one is asked for.
    pub fn new(
        policy: &'a Policy,
        data: &DataSection,
        is_task: bool,
    ) -> Result<Self, TrainerError> {
        let tokenizer = policy.require_tokenizer()?;
        let available = tokenizer.chat_template();
        let template = match data.prompt {
            PromptStyle::Plain => None,
            PromptStyle::Auto => available,
            PromptStyle::Chat => Some(available.ok_or_else(|| TrainerError::Config {
                message: "data.prompt is 'chat', but the model has no chat template".into(),
            })?),
        };
        // Some templates tell the date: prompts must not change with the day that a run is repeated on.
        let template = template.cloned().map(|mut template| {
            template.set_clock(Some(PROMPT_CLOCK));
            template
        });
        let of_file = |text: Option<&String>| text.filter(|_| !is_task).cloned();
        let system = of_file(data.system.as_ref());
        if template.is_none() && !data.template_arguments.is_empty() {
            let message = "data.template_arguments is for a chat template, and prompts are plain here; leave it out".into();
            return Err(TrainerError::Config { message });
        }
        Ok(Self {
            tokenizer,
            template,
            arguments: data.template_arguments.clone(),
            system,
            instruction: of_file(Some(&data.instruction)).unwrap_or_default(),
        })
    }

    /// The prompt's tokens.
    ///
    /// # Errors
    /// A template that fails on the problem, or text that the tokenizer cannot encode.
    pub fn encode(&self, problem: &Problem) -> Result<Vec<u32>, TrainerError> {
        let encoded = self.encode_whole(problem);
        encoded.map_err(|source| {
            // Problems that could be encoded alone are not to blame.
            if !self.instruction.is_empty() && self.tokenizer.encode(&problem.prompt, true).is_ok() {
                let message = format!(
                    "data.instruction cannot be given to this model: {source}; set data.instruction='' or to what it can read"
                );
                return TrainerError::Config { message };
            }
            let id = problem.id.clone();
            TrainerError::Prompt { id, source }
        })
    }

    fn encode_whole(&self, problem: &Problem) -> Result<Vec<u32>, PolicyError> {
        let text = format!("{}{}", problem.prompt, self.instruction);
        self.encode_text(&text, problem.system.as_deref())
    }

    /// The tokens of a text as the user's message, after `system` or, with none, what the configuration has; plain prompts are of the
    /// texts alone.
    ///
    /// # Errors
    /// As [`PromptFormat::encode`].
    pub fn encode_text(&self, text: &str, system: Option<&str>) -> Result<Vec<u32>, PolicyError> {
        let system = system.or(self.system.as_deref());
        let Some(template) = &self.template else {
            let before = system.map_or_else(String::new, |system| format!("{system}\n\n"));
            return self.tokenizer.encode(&format!("{before}{text}"), true);
        };
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let system = system.map(|system| message("system", system));
        let messages: Vec<Value> = system.into_iter().chain([message("user", text)]).collect();
        let rendered = template.render(&messages, true, &self.arguments)?;
        self.tokenizer.encode(&rendered, false)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use burn::tensor::{DType, Device};
    use policy::SaveDtype;

    use super::*;
    use crate::{TrainConfig, Trainer, tiny};

    /// The tiny policy with a template that is made of its tokenizer's characters.
    fn policy() -> Policy {
        let folder = tempfile::tempdir().unwrap();
        tiny::policy().save(folder.path(), SaveDtype::F32).unwrap();
        let template = "{% for m in messages %}{{ '#' if m.role == 'system' else '+' }}{{ m.content }}{% endfor %}\
                        {{ '=' if thinks }}";
        fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        Policy::load(folder.path(), DType::F32, &Device::flex()).unwrap()
    }

    fn problem(system: Option<&str>) -> Problem {
        Problem {
            id: "1".into(),
            prompt: "2".into(),
            system: system.map(str::to_owned),
            answer: "2".into(),
            source: "test".into(),
            numbers: None,
            solution: None,
        }
    }

    #[test]
    fn prompts_have_system_messages_and_what_templates_take() {
        let policy = policy();
        let data = |settings: &[&str]| {
            let settings = [&["data.instruction='3'"], settings].concat();
            tiny::config(&settings).data
        };
        let encoded = |settings: &[&str], system: Option<&str>| {
            let format = PromptFormat::new(&policy, &data(settings), false).unwrap();
            format.encode(&problem(system)).unwrap()
        };
        let tokens = |text: &str| {
            policy
                .require_tokenizer()
                .unwrap()
                .encode(text, false)
                .unwrap()
        };
        let (own, thinks) = ("data.system='45'", "data.template_arguments.thinks=true");
        assert_eq!(encoded(&[], None), tokens("+23"));
        assert_eq!(encoded(&[own], None), tokens("#45+23"));
        // What a row says comes before what the run says.
        assert_eq!(encoded(&[own], Some("6")), tokens("#6+23"));
        assert_eq!(encoded(&[thinks], None), tokens("+23="));
        assert_eq!(
            encoded(&["data.template_arguments={thinks=true}"], None),
            tokens("+23=")
        );
        let plain = ["data.prompt=plain", own];
        assert_eq!(encoded(&plain, None), tokens("45\n\n23"));
        let error = PromptFormat::new(&policy, &data(&["data.prompt=plain", thinks]), false);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("data.template_arguments")
        );
        // A task's problems are whole as they are.
        let format = PromptFormat::new(&policy, &data(&[own]), true).unwrap();
        assert_eq!(format.encode(&problem(None)).unwrap(), tokens("+2"));
    }

    #[test]
    fn problems_that_are_too_long_are_refused_or_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("problems.jsonl");
        let line = |prompt: &str| json!({"prompt": prompt, "answer": 2}).to_string() + "\n";
        let long = line(&"1+".repeat(70));
        fs::write(&file, line("1+1=") + &long).unwrap();
        let train = format!("data.train={}", file.display());
        let validation = format!("data.validation={}", file.display());
        let run = |more: &[&str]| {
            let settings = [&[train.as_str(), &validation, "data.instruction="], more].concat();
            Trainer::new(tiny::config(&settings), tiny::policy())
        };
        assert!(matches!(run(&[]), Err(TrainerError::PromptTooLong { .. })));
        let trainer = run(&["data.drop_overlong=true"]).unwrap();
        assert!(
            trainer
                .warnings()
                .iter()
                .any(|line| line.contains("2 problems"))
        );
        fs::write(&file, long).unwrap();
        let none = run(&["data.drop_overlong=true"]);
        assert!(matches!(none, Err(TrainerError::NoneFits)));
    }

    #[test]
    fn a_template_s_arguments_stand_in_a_run_s_folder() {
        let config = tiny::config(&["data.template_arguments.enable_thinking=false"]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        let read = TrainConfig::load(Some(&file), &[]).unwrap();
        assert_eq!(read.data, config.data);
        assert_eq!(read.data.template_arguments["enable_thinking"], false);
        assert!(TrainConfig::load(None, &["data.template_argument.a=1".into()]).is_err());
    }
}
