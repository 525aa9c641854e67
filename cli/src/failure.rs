//! How a failure is told: one `error:` line, a `hint:` where there is one, exit code 1.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use trainer::TrainerError;

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
    let line = one_line(error);
    // Nothing is left to tell a person whose stderr is closed.
    let _ = writeln!(stderr, "error: {line}");
    if let Some(hint) = hint(error) {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    ExitCode::FAILURE
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

fn hint(error: &anyhow::Error) -> Option<&'static str> {
    match error.downcast_ref::<TrainerError>()? {
        TrainerError::UnknownKey { .. } => {
            Some("every key with its default is in the config.toml of any run folder")
        }
        TrainerError::PromptTooLong { .. } => {
            Some("lower rollout.max_new_tokens, or take the long problems out of the data")
        }
        _ => None,
    }
}
