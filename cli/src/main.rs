//! `anneal`: reinforcement learning for reasoning language models, with their entropy under control.

mod advice;
mod allocator;
mod args;
mod commands;
mod device;
mod failure;
mod progress;
mod records;
mod report;
mod signals;
mod summary;

use std::{panic::AssertUnwindSafe, process::ExitCode};

use args::{Args, BenchCommand, Command};
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return failure::report_usage(&error),
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_env("ANNEAL_LOG"))
        .with_writer(std::io::stderr)
        .init();
    failure::keep_panics_over_memory_quiet();
    match std::panic::catch_unwind(AssertUnwindSafe(|| run(args.command))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => failure::report(&error),
        Err(panic) => failure::report_panic(panic.as_ref()),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => commands::train::run(args),
        Command::Sft(args) => commands::sft::run(args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Score(args) => commands::score::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Fit(args) => commands::fit::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Bench(BenchCommand::Step(args)) => commands::bench::step::run(args),
        Command::Bench(BenchCommand::Ops(args)) => commands::bench::ops::run(&args),
        Command::Bench(BenchCommand::Parts(args)) => commands::bench::parts::run(&args),
        Command::Devices(args) => commands::devices::run(&args),
    }
}
