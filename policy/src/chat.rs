//! A conversation as the text that a model was trained on, by the model's own chat template.
//!
//! Templates are written for Jinja2 as transformers sets it up. They come with downloaded models, so they run without file
//! access, on a budget of work, with a bounded output, and in a thread that is not waited for without end.

mod json;
mod limits;
mod methods;
mod sandbox;

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use chrono::DateTime;
use minijinja::{Environment, Error, ErrorKind, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::PolicyError;

/// The engine's budget: about one unit an instruction and one for 64 bytes, so 64 MB at most.
const FUEL: u64 = 1_000_000;
/// Longer prompts than any model reads.
pub(crate) const MAX_OUTPUT_BYTES: usize = 4 << 20;
/// The longest published template has 20 kB.
const MAX_SOURCE_BYTES: usize = 1 << 17;
/// A template may raise its own errors.
const MAX_ERROR_CHARACTERS: usize = 1000;
const NAME: &str = "chat_template";

/// One turn of a conversation. Richer turns, with tool calls say, are given as JSON objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A turn of the given role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A parsed chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    special_tokens: Map<String, Value>,
}

impl ChatTemplate {
    /// Parses a template; `special_tokens` are those by role (`bos_token`, `eos_token`, …) that it may name.
    ///
    /// # Errors
    /// A template that is not Jinja, or has over 128 KiB.
    pub fn new(source: &str, special_tokens: &Map<String, Value>) -> Result<Self, PolicyError> {
        if source.len() > MAX_SOURCE_BYTES {
            let message = format!("has {} bytes, more than any model's template", source.len());
            return Err(PolicyError::ChatTemplate { message });
        }
        let source = without_generation_tags(source);
        let parsed = sandbox::run(|| {
            let mut environment = environment()?;
            environment.add_template_owned(NAME, source)?;
            Ok(environment)
        });
        let mut template = Self {
            environment: Arc::new(flat(parsed)?),
            special_tokens: special_tokens.clone(),
        };
        template.set_clock(None);
        Ok(template)
    }

    /// Fixes the time that `strftime_now` tells, in seconds since 1970 UTC, so that a run's prompts do not change
    /// with the day; with none it is the time of rendering. Templates see UTC, whatever the machine's zone.
    pub fn set_clock(&mut self, unix_seconds: Option<i64>) {
        let now = move |format: &str| strftime(unix_seconds.unwrap_or_else(now_seconds), format);
        Arc::make_mut(&mut self.environment).add_function("strftime_now", now);
    }

    /// The text of a conversation, ready to be encoded without further special tokens.
    ///
    /// `add_generation_prompt` ends it where the assistant begins to speak. `template_arguments` are what the model's
    /// card names, such as `enable_thinking`; `tools` and `documents` are given there too.
    ///
    /// # Errors
    /// The template refuses the conversation (`raise_exception`), fails, works too long or writes too much.
    pub fn render<M: Serialize>(
        &self,
        messages: &[M],
        add_generation_prompt: bool,
        template_arguments: &Map<String, Value>,
    ) -> Result<String, PolicyError> {
        let mut context = self.special_tokens.clone();
        context.insert("tools".into(), Value::Null);
        context.insert("documents".into(), Value::Null);
        context.extend(template_arguments.clone());
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        let messages =
            serde_json::to_value(messages).map_err(|error| PolicyError::ChatTemplate {
                message: error.to_string(),
            })?;
        context.insert("messages".into(), messages);
        let environment = Arc::clone(&self.environment);
        let context = Value::Object(context);
        let text = flat(sandbox::run(move || {
            let template = environment.get_template(NAME)?;
            template.render(engine_value(&context))
        }))?;
        if text.len() > MAX_OUTPUT_BYTES {
            return Err(PolicyError::ChatTemplate {
                message: too_long(),
            });
        }
        Ok(text)
    }
}

pub(crate) fn too_long() -> String {
    format!("the output is longer than {MAX_OUTPUT_BYTES} bytes")
}

/// What the engine says, or why it was not heard.
fn flat<T>(result: Result<Result<T, Error>, String>) -> Result<T, PolicyError> {
    match result {
        Ok(result) => result.map_err(|error| failed(&error)),
        Err(message) => Err(PolicyError::ChatTemplate { message }),
    }
}

/// The engine's own line, which names the template's line, and the innermost cause.
fn failed(error: &Error) -> PolicyError {
    let message = match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let message = message.chars().take(MAX_ERROR_CHARACTERS).collect();
    PolicyError::ChatTemplate { message }
}

/// Jinja as transformers sets it up: trimmed blocks, no escaping, Python's string methods, its own `tojson`.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(limits::formatter);
    environment.add_filter("string", limits::string);
    environment.add_filter("pprint", limits::pprint);
    environment.remove_global("debug");
    environment.add_filter("tojson", json::tojson);
    environment.add_function(
        "raise_exception",
        |message: &minijinja::Value| -> Result<String, Error> {
            limits::require_bounded(message)?;
            Err(Error::new(ErrorKind::InvalidOperation, message.to_string()))
        },
    );
    Ok(environment)
}

/// transformers marks what the assistant said by `{% generation %}` tags, which leave no trace in the text.
fn without_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let end = start + length + 2;
        let tag = &rest[start..end];
        let name = tag.trim_matches(['{', '}', '%', '-', '+']).trim();
        output.push_str(&rest[..start]);
        match name {
            "generation" => output.push_str(&tag.replace(name, "if true")),
            "endgeneration" => output.push_str(&tag.replace(name, "endif")),
            _ => output.push_str(tag),
        }
        rest = &rest[end..];
    }
    output + rest
}

/// JSON as the engine's values, objects in their order.
fn engine_value(value: &Value) -> minijinja::Value {
    use minijinja::Value as Engine;
    match value {
        Value::Null => Engine::from(()),
        Value::Bool(flag) => Engine::from(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Engine::from(integer),
            (None, Some(integer)) => Engine::from(integer),
            (None, None) => Engine::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Engine::from(text.as_str()),
        Value::Array(items) => items.iter().map(engine_value).collect(),
        Value::Object(fields) => Engine::from_pairs(
            fields
                .iter()
                .map(|(key, item)| (key.as_str(), engine_value(item))),
        ),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "what strftime_now is, where no clock is set"
)]
fn now_seconds() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs() as i64)
}

fn strftime(unix_seconds: i64, format: &str) -> Result<String, Error> {
    let invalid = |what| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {what}"));
    let time =
        DateTime::from_timestamp(unix_seconds, 0).ok_or_else(|| invalid("time out of range"))?;
    let mut text = String::new();
    write!(text, "{}", time.format(format)).map_err(|_| invalid("unknown format"))?;
    Ok(text)
}

#[cfg(test)]
mod tests;
