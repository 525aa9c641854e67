//! `anneal`: reinforcement learning for reasoning language models, with their entropy under control.

mod allocator;
mod args;
mod commands;
mod device;
mod failure;
mod progress;
mod summary;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_env("ANNEAL_LOG"))
        .with_writer(std::io::stderr)
        .init();
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => commands::train::run(args),
        Command::Sft(args) => commands::sft::run(args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Score(args) => commands::score::run(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Devices(args) => commands::devices::run(&args),
    }
}
