//! The commands, one file for each or for a few that are alike.

mod copy;
pub(crate) mod create;
mod events;
mod exec;
mod info;
mod life;
mod list;
mod logs;
mod pull;
mod run;
mod stats;

use std::fmt;

use anyhow::{Context, Result};
use clap::CommandFactory;
use runtime_core::{Error, ErrorKind, Exit, Runtime, Signal};

use crate::cli::{Cli, Command};
use crate::connect::{connect, soon};

/// Does what the command line says and gives the exit code.
pub(crate) async fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "runtime", &mut text);
            crate::format::print(&String::from_utf8_lossy(&text))?;
            return Ok(0);
        }
        Command::Man { folder: Some(folder) } => {
            std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &folder))
                .with_context(|| format!("the folder {}", folder.display()))?;
            return Ok(0);
        }
        Command::Man { folder: None } => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            crate::format::print(&String::from_utf8_lossy(&text))?;
            return Ok(0);
        }
        _ => {}
    }
    let runtime = connect(&cli.global).await.map_err(|error| match &cli.command {
        Command::Run(_) | Command::Exec(_) => coded(FAILED, error),
        _ => error,
    })?;
    let opened = std::sync::Arc::clone(&runtime);
    let done = carry_out(cli.command, runtime).await;
    // What a create that failed or was interrupted has left is undone before the program ends.
    let closed = soon(opened.close()).await.and_then(|closed| Ok(closed?));
    if let Err(error) = closed {
        tracing::debug!(%error, "failed to close the connection");
    }
    done
}

async fn carry_out(command: Command, runtime: std::sync::Arc<dyn Runtime>) -> Result<u8> {
    match command {
        Command::Run(arguments) => run::run(runtime, arguments).await,
        Command::Create(arguments) => create::create(runtime, arguments).await,
        Command::Start(arguments) => run::start(runtime, arguments).await,
        Command::Ps(arguments) => list::ps(runtime, arguments).await,
        Command::Inspect(arguments) => list::inspect(runtime, arguments).await,
        Command::Logs(arguments) => logs::logs(runtime, arguments).await,
        Command::Exec(arguments) => exec::exec(runtime, arguments).await,
        Command::Attach(arguments) => run::attach(runtime, arguments).await,
        Command::Stats(arguments) => stats::stats(runtime, arguments).await,
        Command::Top(arguments) => stats::top(runtime, arguments).await,
        Command::Stop(arguments) => life::stop(runtime, arguments).await,
        Command::Kill(arguments) => life::kill(runtime, arguments).await,
        Command::Rm(arguments) => life::rm(runtime, arguments).await,
        Command::Wait(arguments) => life::wait(runtime, arguments).await,
        Command::Pull(arguments) => pull::pull(runtime, arguments).await,
        Command::Cp(arguments) => copy::cp(runtime, arguments).await,
        Command::Events(arguments) => events::events(runtime, arguments).await,
        Command::Reap(arguments) => life::reap(runtime, arguments).await,
        Command::Info(arguments) => info::info(runtime, arguments).await,
        Command::Completions { .. } | Command::Man { .. } => Ok(0),
    }
}

/// What `run` and `exec` exit with when they fail themselves, as Docker has it.
pub(crate) const FAILED: u8 = 125;

/// An error with an exit code of its own.
#[derive(Debug)]
struct Coded {
    code: u8,
    error: anyhow::Error,
}

fn coded(code: u8, error: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(Coded { code, error: error.into() })
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Coded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// The exit code of a failure.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    if is_broken_pipe(error) {
        return killed_by(13);
    }
    error.downcast_ref::<Coded>().map_or(1, |coded| coded.code)
}

/// Whether nobody reads the output any more.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What a shell says of one that a signal ended.
const fn killed_by(signal: u8) -> u8 {
    128_u8.saturating_add(signal)
}

/// What engines say of a command that is there and cannot be run.
const NOT_EXECUTABLE: [&str; 3] = ["ermission denied", "peration not permitted", "s a directory"];

/// The exit code of `run` and `exec` when the command could not be run: 126 when it is there and
/// 127 when it is not, as shells have it.
fn not_run(error: Error) -> anyhow::Error {
    let command = error.kind() == ErrorKind::InvalidArgument && error.field() == Some("command");
    let code = match error.message() {
        Some(words) if command && NOT_EXECUTABLE.iter().any(|why| words.contains(why)) => 126,
        _ if command => 127,
        _ => FAILED,
    };
    coded(code, error)
}

/// The exit code of a container that has ended.
fn code_of_exit(exit: &Exit) -> u8 {
    match exit.code {
        Some(code) => u8::try_from(code & 0xff).unwrap_or(FAILED),
        None => FAILED,
    }
}

/// Whether a signal wants the end.
fn ends(signal: Signal) -> bool {
    ![Signal::USR1, Signal::USR2].contains(&signal)
}

/// Does the same with each of several containers. The first failure is the command's, and the
/// others are done all the same.
async fn each<T>(
    names: &[String],
    mut work: impl AsyncFnMut(&str) -> Result<T>,
    mut done: impl FnMut(&str, T) -> Result<()>,
) -> Result<u8> {
    let mut failed = false;
    for name in names {
        match work(name).await {
            Ok(outcome) => done(name, outcome)?,
            Err(error) if is_broken_pipe(&error) => return Err(error),
            Err(error) => {
                crate::style::print_error(&error);
                failed = true;
            }
        }
    }
    Ok(u8::from(failed))
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    /// The commands that people are shown.
    fn names() -> Vec<String> {
        let command = Cli::command();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        shown.map(|command| command.get_name().to_owned()).collect()
    }

    #[test]
    fn completions_have_every_command() {
        let mut text = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "runtime", &mut text);
        let text = String::from_utf8(text).unwrap();
        for name in names() {
            assert!(text.split_whitespace().any(|word| word == name), "{name}");
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Cli::command(), folder.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(page("runtime.1").contains("runtime\\-run(1)"));
        for name in names() {
            let text = page(&format!("runtime-{name}.1"));
            assert!(text.contains(&format!(".TH runtime-{name} 1")), "{text}");
        }
    }

    #[test]
    fn the_usage_names_the_image_and_its_command() {
        for (name, usage) in [
            ("run", "runtime run [OPTIONS] IMAGE [COMMAND] [ARG...]"),
            ("create", "runtime create [OPTIONS] IMAGE [COMMAND] [ARG...]"),
            ("exec", "runtime exec [OPTIONS] CONTAINER COMMAND [ARG...]"),
            ("top", "runtime top [OPTIONS] [CONTAINER [PS OPTIONS]]"),
        ] {
            let mut command = Cli::command();
            let shown = command.find_subcommand_mut(name).unwrap().render_help().to_string();
            assert!(shown.contains(&format!("Usage: {usage}\n")), "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_run_has_the_code_of_a_shell() {
        for (error, code) in [
            (Error::invalid("command", "executable file not found in $PATH"), 127),
            (Error::invalid("command", "exec: /etc: Permission denied"), 126),
            (Error::invalid("command", "exec: \"/etc\": is a directory: unknown"), 126),
            (Error::invalid("command", "open executable: Is a directory"), 126),
            (Error::invalid("command", "crun: open executable: Operation not permitted"), 126),
            (Error::invalid("user", "no such user"), 125),
            (Error::new(ErrorKind::Lost), 125),
        ] {
            let text = error.to_string();
            assert_eq!(code_of(&not_run(error)), code, "{text}");
        }
    }
}
