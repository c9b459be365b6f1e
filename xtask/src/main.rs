//! The project's own commands: `cargo xtask COMMAND`.

mod ci;
mod codegen;
mod env;
mod test;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks everything that a change has to pass
    Ci(ci::Arguments),
    /// Generates the CRI client from the vendored protocol file
    Codegen(codegen::Arguments),
    /// Starts and stops the engines that the tests need
    Env(env::Arguments),
    /// Runs all tests on real engines and prints a table
    Test(test::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Codegen(arguments) => codegen::run(&arguments),
        Command::Env(arguments) => env::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
    }
}
