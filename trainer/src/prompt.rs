//! From a problem to a prompt's tokens.

use policy::{ChatTemplate, Policy, PolicyError, Tokenizer};
use reward::Problem;
use serde_json::{Map, json};

use crate::{DataSection, PromptStyle, TrainerError};

/// When chat templates are told that it is: noon of 26 July 2024 UTC, the day that Llama 3.1's template names by
/// itself. In seconds since 1970.
const PROMPT_CLOCK: i64 = 1_721_995_200;

/// Turns problems into token ids in the way that the model was made for.
#[derive(Debug, Clone)]
pub struct PromptFormat<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
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
        let instruction = if is_task {
            String::new()
        } else {
            data.instruction.clone()
        };
        Ok(Self {
            tokenizer,
            template,
            instruction,
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
        let Some(template) = &self.template else {
            return self.tokenizer.encode(&text, true);
        };
        let messages = [json!({"role": "user", "content": text})];
        let rendered = template.render(&messages, true, &Map::new())?;
        self.tokenizer.encode(&rendered, false)
    }
}
