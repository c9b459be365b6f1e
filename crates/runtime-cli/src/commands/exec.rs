//! `exec`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use runtime_core::{Capability, Error, ErrorKind, ExecOptions, Runtime, SessionMode, Signal};

use super::create::drop_unset;
use super::terminates;
use crate::cli::{Exec, variable};
use crate::connect::with_shutdown_timeout;
use crate::exit_code::{FAILED, coded, killed_by, not_run};
use crate::session::{self, Ended, Then};
use crate::signals::Signals;
use crate::terminal::Raw;
use crate::{resolve, style, terminal};

/// Time that a process has to exit by itself after the terminal hung up.
const HANGUP_TIMEOUT: Duration = Duration::from_secs(2);

/// `runtime exec`.
pub(crate) async fn exec(runtime: Arc<dyn Runtime>, arguments: Exec) -> Result<u8> {
    let failed = |error: anyhow::Error| coded(FAILED, error);
    let mut signals = Signals::listen()?;
    let mode = session::mode(arguments.interactive, arguments.tty).map_err(failed)?;
    let (container, command) = arguments.words.split_first().context("no container given")?;
    let mut options = ExecOptions::new(command).mode(mode);
    options.image_tools = arguments.image_tools;
    for text in &arguments.env {
        options = match variable(text) {
            (name, Some(value)) => options.env(name, value),
            (name, None) => options.unset_env(name),
        };
    }
    if !options.image_tools {
        drop_unset(&mut options.unset_env, runtime.capabilities());
    }
    options.user = arguments.user;
    options.working_dir = arguments.workdir;
    let container = resolve::container(&*runtime, container).await.map_err(failed)?;
    let session = tokio::select! {
        biased;
        signal = signals.end() => return Ok(killed_by(signal.number())),
        session = container.exec(options) => session.map_err(exec_error)?,
    };
    let control = session.control.clone();
    let raw =
        matches!(mode, SessionMode::Terminal(_)) && arguments.interactive && terminal::on_stdin();
    let raw = raw.then(Raw::enter).transpose().context("failed to make the terminal raw")?;
    let mut presses = 0;
    let mut on_signal = async |signal| {
        presses += u32::from(signal == Signal::INT || signal == Signal::TERM);
        let passed = with_shutdown_timeout(control.signal(signal)).await;
        let over = matches!(&passed, Ok(Err(error)) if error.kind() == ErrorKind::InvalidState);
        match passed {
            Ok(Ok(())) if signal != Signal::HUP && presses < 3 => Then::Continue,
            // The end of its output follows.
            _ if over => Then::Continue,
            Ok(Err(error)) if error.kind() == ErrorKind::Unsupported && terminates(signal) => {
                style::note(format_args!(
                    "this engine sends no signals to exec processes: left, it may run on in {}",
                    container.name()
                ));
                Then::End
            }
            _ if terminates(signal) => Then::End,
            _ => Then::Continue,
        }
    };
    let talked = session::relay(session, arguments.interactive, &mut signals, &mut on_signal).await;
    drop(raw);
    let code = match talked.map_err(failed)? {
        // A process can close its outputs and keep running.
        Ended::Output => {
            match session::or_signal(control.wait(), &mut signals, &mut on_signal).await {
                Ok(exit) => {
                    let exit = exit.map_err(not_run)?;
                    return Ok(u8::try_from(exit.code & 0xff).unwrap_or(FAILED));
                }
                Err(signal) => killed_by(signal.number()),
            }
        }
        Ended::NoReader => killed_by(13),
        Ended::Signal(signal) => killed_by(signal.number()),
    };
    // The process is killed, if the engine can do that, because its session is gone.
    if tokio::time::timeout(HANGUP_TIMEOUT, control.wait()).await.is_err() {
        let _ = with_shutdown_timeout(control.signal(Signal::KILL)).await;
    }
    Ok(code)
}

/// Returns the error of an exec. Suggests `--image-tools` if the engine lacks the capability.
fn exec_error(error: Error) -> anyhow::Error {
    if matches!(error.capability(), Some(Capability::ExecEnv | Capability::ExecWorkingDir)) {
        style::note("--image-tools sets -e and -w with the env and sh of the image");
    }
    not_run(error)
}
