//! The project's own commands: `cargo xtask COMMAND`.

mod codegen;
mod env;

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
    /// Generates the CRI client from the vendored protocol file
    Codegen(codegen::Arguments),
    /// Starts and stops the engines that the tests need
    Env(env::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Codegen(arguments) => codegen::run(&arguments),
        Command::Env(arguments) => env::run(&arguments),
    }
}
