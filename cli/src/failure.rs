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

/// Whether a device failed at its work, which no input is to blame for.
fn is_ours(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| matches!(cause.downcast_ref(), Some(RolloutError::Device { .. })))
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
        TrainerError::UnknownKey { .. } => Some(
            "a run's config.toml has every key that it used; PAPERS.md names the optional tables, such as [entropy.budget], and METRICS.md that one's keys",
        ),
        TrainerError::PromptTooLong { .. } => Some(
            "lower max_new_tokens (train: rollout.max_new_tokens=N, eval: --max-new-tokens N), or take the long problems out of the data",
        ),
        TrainerError::LessonTooLong { .. } => {
            Some("take the long solutions out of the data, or choose a model with a larger context")
        }
        _ => None,
    }
}
