//! The project's own commands: `cargo xtask COMMAND`.

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
    /// Starts and stops the engines that the tests need
    Env(env::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Env(arguments) => env::run(&arguments),
    }
}
