//! `runtime`: containers the same way on Docker, containerd or CRI-O, and Kubernetes.

mod attach_replay;
mod cli;
mod commands;
mod config;
mod connect;
mod exit_code;
mod format;
mod pipes;
mod resolve;
mod session;
mod signals;
mod style;
mod template;
mod terminal;
mod units;
mod warnings;

use std::process::ExitCode;

use crate::cli::Cli;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = match Cli::parse_arguments(&arguments) {
        Ok(cli) => cli,
        Err((error, code)) => {
            // stdout and stderr may be closed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    warnings::show();
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match built {
        Ok(executor) => {
            let done = executor.block_on(commands::run(cli));
            // A thread may be blocked in a read of stdin.
            executor.shutdown_background();
            done
        }
        Err(error) => Err(error.into()),
    };
    terminal::restore();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // If the reader is gone, no message is printed.
            if !exit_code::is_broken_pipe(&error) {
                style::print_error(&error);
            }
            ExitCode::from(exit_code::code_of(&error))
        }
    }
}
