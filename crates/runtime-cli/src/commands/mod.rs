//! The commands, one file per command or per group of similar commands.

mod copy;
pub(crate) mod create;
mod events;
mod exec;
mod info;
mod lifecycle;
mod list;
mod logs;
mod pull;
mod run;
mod stats;

use anyhow::{Context, Result};
use clap::CommandFactory;
use runtime_core::{Runtime, Signal};

use crate::cli::{Cli, Command};
use crate::connect::{connect, with_shutdown_timeout};
use crate::exit_code::{FAILED, coded, is_broken_pipe};

/// Runs the command and returns its exit code.
pub(crate) async fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "runtime", &mut text);
            crate::format::print(&String::from_utf8_lossy(&text))?;
            return Ok(0);
        }
        Command::Man { directory: Some(directory) } => {
            std::fs::create_dir_all(&directory)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &directory))
                .with_context(|| format!("failed to write to {}", directory.display()))?;
            return Ok(0);
        }
        Command::Man { directory: None } => {
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
    let done = dispatch(cli.command, runtime).await;
    // Closing completes the cleanup of a failed or cancelled create.
    let closed = with_shutdown_timeout(opened.close()).await.and_then(|closed| Ok(closed?));
    if let Err(error) = closed {
        tracing::debug!(%error, "failed to close the connection");
    }
    done
}

async fn dispatch(command: Command, runtime: std::sync::Arc<dyn Runtime>) -> Result<u8> {
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
        Command::Stop(arguments) => lifecycle::stop(runtime, arguments).await,
        Command::Kill(arguments) => lifecycle::kill(runtime, arguments).await,
        Command::Rm(arguments) => lifecycle::rm(runtime, arguments).await,
        Command::Wait(arguments) => lifecycle::wait(runtime, arguments).await,
        Command::Pull(arguments) => pull::pull(runtime, arguments).await,
        Command::Cp(arguments) => copy::cp(runtime, arguments).await,
        Command::Events(arguments) => events::events(runtime, arguments).await,
        Command::Reap(arguments) => lifecycle::reap(runtime, arguments).await,
        Command::Info(arguments) => info::info(runtime, arguments).await,
        Command::Completions { .. } | Command::Man { .. } => Ok(0),
    }
}

/// Returns true if the signal requests termination.
fn terminates(signal: Signal) -> bool {
    ![Signal::USR1, Signal::USR2].contains(&signal)
}

/// Runs `work` for each container. A failure is printed and does not stop the others; the exit code
/// is then 1.
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

    /// Returns the names of the visible commands.
    fn names() -> Vec<String> {
        let command = Cli::command();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        shown.map(|command| command.get_name().to_owned()).collect()
    }

    #[test]
    fn completions_include_every_command() {
        let mut text = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "runtime", &mut text);
        let text = String::from_utf8(text).unwrap();
        for name in names() {
            assert!(text.split_whitespace().any(|word| word == name), "{name}");
        }
    }

    #[test]
    fn manual_includes_every_command() {
        let directory = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Cli::command(), directory.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(page("runtime.1").contains("runtime\\-run(1)"));
        for name in names() {
            let text = page(&format!("runtime-{name}.1"));
            assert!(text.contains(&format!(".TH runtime-{name} 1")), "{text}");
        }
    }

    #[test]
    fn usage_names_image_and_command() {
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
}
