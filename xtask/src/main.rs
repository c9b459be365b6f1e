//! The project's commands: `cargo xtask COMMAND`.

mod bench;
mod check;
mod ci;
mod codegen;
mod demo;
mod env;
mod fuzz;
mod guard;
mod readme;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures the cost of this library
    Bench(bench::Arguments),
    /// Checks format, lints, documentation, dependencies and unit tests; needs no engine and no
    /// root
    Check,
    /// Runs everything that a change has to pass: the check, then all tests
    Ci,
    /// Generates the CRI client from the vendored protocol file
    Codegen(codegen::Arguments),
    /// Runs a real container and shows each step
    Demo(demo::Arguments),
    /// Starts and stops the engines of the tests
    Env(env::Arguments),
    /// Feeds random inputs to the parsers
    Fuzz(fuzz::Arguments),
    /// Writes the generated parts of README.md and docs/
    Readme(readme::Arguments),
    /// Runs all tests on real engines and prints a table
    Test(test::Arguments),
}

fn main() -> ExitCode {
    // Errors are not returned from `main`, which would print a backtrace if backtraces are enabled.
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Check => check::run(&guard::Stop::new()?),
        Command::Ci => ci::run(),
        Command::Codegen(arguments) => codegen::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Env(arguments) => env::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Readme(arguments) => readme::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
    }
}
