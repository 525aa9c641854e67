//! How a failure is told: one `error:` line, a `hint:` where there is one, exit code 1.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use rollout::RolloutError;
use trainer::TrainerError;

use crate::{advice::Advised, signals::Stopped};

/// Prints what is wrong with the command line, or the help that it asks for.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to tell a person whose terminal is closed.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Prints the error with its causes in one line.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let mut stderr = io::stderr();
    if let Some(stopped) = error.downcast_ref::<Stopped>() {
        // As with a failure, nothing is left to tell where this cannot be told.
        let _ = writeln!(stderr, "{stopped}");
        return ExitCode::from(stopped.exit_code());
    }
    if let Some(words) = error
        .chain()
        .filter(|cause| is_of_device(*cause))
        .find_map(|cause| no_room(&cause.to_string()))
    {
        return report_no_room(&words);
    }
    let line = one_line(error);
    // Nothing is left to tell a person whose stderr is closed.
    let _ = writeln!(stderr, "error: {line}");
    if let Some(hint) = hint(error) {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    if is_ours(error) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// What a device's runtime says when it has no room, in small letters.
const NO_ROOM: [&str; 5] = [
    "out of device memory",
    "can't allocate buffer of size",
    "out of memory",
    "outofmemory",
    "buffertoobig",
];

const ROOM_HINT: &str = "lower update.max_tokens or rollout.batch_rows, or set update.memory=\"small\"; adapters alone (lora={}) take less; `anneal train --dry-run` says what a run would take";

/// The words of a runtime that has no room, out of all that it says.
fn no_room(text: &str) -> Option<String> {
    const MOST: usize = 80;
    let small = text.to_lowercase();
    let start = NO_ROOM.iter().filter_map(|words| small.find(words)).min()?;
    // Small letters of some scripts have another length: then the words are somewhere else.
    let words = text.get(start..).unwrap_or(text);
    let line = words.lines().next().unwrap_or_default();
    Some(line.chars().take(MOST).collect())
}

fn is_no_room(text: &str) -> bool {
    no_room(text).is_some()
}

/// Has a panic over a device's memory told as an error, and every other one as a fault of ours.
pub(crate) fn keep_panics_over_memory_quiet() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !words(info.payload()).is_some_and(is_no_room) {
            default(info);
        }
    }));
}

fn words(panic: &(dyn std::any::Any + Send)) -> Option<&str> {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied())
}

/// A panic: over a device's memory the input's fault, else ours, and told by the hook already.
pub(crate) fn report_panic(panic: &(dyn std::any::Any + Send)) -> ExitCode {
    match words(panic).and_then(no_room) {
        Some(words) => report_no_room(&words),
        None => ExitCode::from(2),
    }
}

fn report_no_room(words: &str) -> ExitCode {
    let mut stderr = io::stderr();
    // Nothing is left to tell a person whose stderr is closed.
    let _ = writeln!(
        stderr,
        "error: the device's memory does not hold this: {words}"
    );
    let _ = writeln!(stderr, "hint: {ROOM_HINT}");
    ExitCode::FAILURE
}

/// Whether a device failed at its work, which no input is to blame for.
fn is_ours(error: &anyhow::Error) -> bool {
    error.chain().any(is_of_device)
}

fn is_of_device(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(RolloutError::Device { .. }))
}

/// The error and those causes whose words it does not repeat, joined by colons.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !line.contains(&text) {
            let separator = if line.is_empty() { "" } else { ": " };
            line = format!("{line}{separator}{text}");
        }
    }
    line.replace('\n', " ")
}

fn hint(error: &anyhow::Error) -> Option<&str> {
    if let Some(advised) = error.downcast_ref::<Advised>() {
        return Some(advised.hint());
    }
    match error.downcast_ref::<TrainerError>()? {
        TrainerError::UnknownKey { .. } => {
            Some("SETTINGS.md has every key; a run's config.toml those that it used")
        }
        TrainerError::PromptTooLong { .. } => Some(
            "lower max_new_tokens (train: rollout.max_new_tokens=N, eval: --max-new-tokens N), or take the long problems out of the data",
        ),
        TrainerError::Prompt { source, .. } if source.to_string().contains("has no token for") => {
            Some(
                "the bundled base reads the characters of its own arithmetic alone; give other problems a model by --model",
            )
        }
        TrainerError::LessonTooLong { .. } => {
            Some("take the long solutions out of the data, or choose a model with a larger context")
        }
        _ => None,
    }
}
