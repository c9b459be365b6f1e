//! `run`, `start` and `attach`: the main process with this command's stdin, stdout, stderr and
//! signals.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use runtime_core::{
    AttachOptions, Capabilities, Capability, Container, ContainerExt, ContainerStatus, ErrorKind,
    Exit, Follow, LogOptions, LogStream, Operation, Runtime, Session, SessionMode, Signal,
    StartOutcome, StopOptions,
};

use super::create::{self, Created};
use super::terminates;
use crate::cli::{Attach, Run, Start};
use crate::connect::with_shutdown_timeout;
use crate::exit_code::{FAILED, code_of_exit, coded, killed_by, not_run};
use crate::pipes::{self, Sink};
use crate::session::{self, Ended, Then};
use crate::signals::{SignalEvent, Signals};
use crate::terminal::{self, Raw};
use crate::{attach_replay, resolve, style};

/// Number of Ctrl-C presses that leave a process that ignores them.
const INTERRUPTS_TO_LEAVE: u32 = 3;

/// Interval at which a started container is polled until it runs.
const START_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Time for which a failed attach is retried if the error is temporary.
const ATTACH_RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// `runtime run`.
pub(crate) async fn run(runtime: Arc<dyn Runtime>, arguments: Run) -> Result<u8> {
    let mut signals = Signals::listen()?;
    let failed = |error| coded(FAILED, error);
    let mode = match arguments.detach {
        true => None,
        false => {
            let mode = session::mode(arguments.spec.interactive, arguments.spec.tty);
            Some(mode.map_err(failed)?)
        }
    };
    if let Some(mode) = mode {
        needs_attach(&*runtime, mode).map_err(failed)?;
    }
    let created = create::create_or_signal(&*runtime, &arguments.spec, &mut signals).await;
    let container = match created.map_err(failed)? {
        Created::Container(container) => container,
        Created::Interrupted(signal) => return Ok(killed_by(signal.number())),
    };
    let Some(mode) = mode else {
        let deferred = runtime.capabilities().deferred_pull;
        return run_detached(&*container, deferred, arguments.rm, &mut signals).await;
    };
    let how = AttachMode::Known { mode, stdin: arguments.spec.interactive };
    let done = follow(&*runtime, &container, how, &mut signals).await;
    if arguments.rm {
        remove_or_report(&*container).await;
    }
    done
}

/// Removes a container, and prints an error if that fails.
async fn remove_or_report(container: &dyn Container) {
    // No deadline here: the operation has its own, because a node can take long to release a
    // container.
    if let Err(error) = container.ensure_removed().await {
        style::print_error(&anyhow::Error::from(error).context("failed to remove the container"));
    }
}

/// Starts a container in the background.
async fn run_detached(
    container: &dyn Container,
    deferred: bool,
    remove: bool,
    signals: &mut Signals,
) -> Result<u8> {
    let started = tokio::select! {
        biased;
        // The caller has not received the id yet, and a stop could arrive before a start that the
        // engine still performs. The container is therefore removed, as after a cancelled create.
        signal = signals.end() => {
            remove_or_report(container).await;
            return Ok(killed_by(signal.number()));
        }
        started = start_until_running(container, deferred) => started,
    };
    if let Err(error) = started {
        if remove {
            let _ = with_shutdown_timeout(container.ensure_removed()).await;
        }
        return Err(not_run(error));
    }
    crate::format::print(&format!("{}\n", container.id()))?;
    if remove {
        style::note("--rm has no effect with --detach: the container stays; see `runtime reap`");
    }
    Ok(0)
}

/// `runtime start`.
pub(crate) async fn start(runtime: Arc<dyn Runtime>, arguments: Start) -> Result<u8> {
    if !arguments.attach && !arguments.interactive {
        let start = async |name: &str| {
            let container = resolve::container(&*runtime, name).await?;
            start_until_running(&*container, runtime.capabilities().deferred_pull).await?;
            Ok(())
        };
        return super::each(&arguments.containers, start, |name, ()| {
            crate::format::print(&format!("{name}\n"))
        })
        .await;
    }
    let [name] = &arguments.containers[..] else {
        anyhow::bail!("failed to attach: only one container at a time can be attached to");
    };
    let mut signals = Signals::listen()?;
    let listed = resolve::listed(&*runtime, name).await.map_err(|error| coded(FAILED, error))?;
    let container = listed.container;
    if listed.info.status == ContainerStatus::Exited {
        let error =
            anyhow::anyhow!("{name} has ended, and a container runs once; see `runtime logs`");
        return Err(coded(FAILED, error));
    }
    follow(&*runtime, &container, AttachMode::Detect { stdin: arguments.interactive }, &mut signals)
        .await
}

/// `runtime attach`.
pub(crate) async fn attach(runtime: Arc<dyn Runtime>, arguments: Attach) -> Result<u8> {
    runtime.capabilities().require(Capability::Attach).map_err(|error| {
        error.during(Operation::Attach).on(runtime.backend()).about(&arguments.container)
    })?;
    let mut signals = Signals::listen()?;
    let listed = resolve::listed(&*runtime, &arguments.container).await?;
    let (container, info) = (listed.container, listed.info);
    if info.status != ContainerStatus::Running {
        anyhow::bail!(
            "{} is {}: only a running container can be attached to",
            info.name,
            info.status
        );
    }
    let stdin = !arguments.no_stdin;
    let Attached { session, stdin, .. } = open(&*container, AttachMode::Detect { stdin }).await?;
    let control = session.control.clone();
    let mut presses = 0;
    let mut on_signal = async |signal| {
        if !arguments.sig_proxy || signal == Signal::HUP {
            return if terminates(signal) { Then::End } else { Then::Continue };
        }
        forward_signal(&container, signal, &mut presses).await
    };
    let signal = match session::relay(session, stdin, &mut signals, &mut on_signal).await? {
        Ended::Output => {
            match session::or_signal(control.wait(), &mut signals, &mut on_signal).await {
                Ok(exit) => return Ok(u8::try_from(exit?.code & 0xff).unwrap_or(FAILED)),
                Err(signal) => signal,
            }
        }
        Ended::NoReader => return Ok(killed_by(13)),
        Ended::Signal(signal) => signal,
    };
    Ok(killed_by(signal.number()))
}

/// Attach mode.
#[derive(Debug, Clone, Copy)]
enum AttachMode {
    /// The container was created for this mode.
    Known {
        /// The mode.
        mode: SessionMode,
        /// Set if stdin is sent.
        stdin: bool,
    },
    /// The mode of the container, which is found by trying.
    Detect {
        /// Set if stdin is sent, provided that the container reads it.
        stdin: bool,
    },
}

impl AttachMode {
    /// Makes the local terminal raw for a container with a terminal, whose output has terminal line
    /// ends.
    fn raw(self) -> Result<Option<Raw>> {
        match self {
            Self::Known { mode: SessionMode::Terminal(_), stdin: true } => raw(),
            _ => Ok(None),
        }
    }
}

/// Makes the local terminal raw, if there is one.
fn raw() -> Result<Option<Raw>> {
    let raw = terminal::on_stdin().then(Raw::enter).transpose();
    raw.context("failed to make the terminal raw")
}

struct Attached {
    session: Session,
    stdin: bool,
    /// The local terminal while it is raw.
    _raw: Option<Raw>,
}

async fn open(container: &dyn Container, how: AttachMode) -> Result<Attached> {
    let attach = async |mode| container.attach(AttachOptions::default().mode(mode)).await;
    let (session, mode, stdin) = match how {
        AttachMode::Known { mode, stdin } => {
            // The window may have been resized during the pull.
            let mode = session::with_current_size(mode);
            (attach(mode).await?, mode, stdin)
        }
        AttachMode::Detect { stdin } => {
            let mut modes = vec![session::mode(false, true)?, SessionMode::Output];
            if stdin {
                modes.insert(1, SessionMode::Stdin);
            }
            let mut modes = modes.into_iter().peekable();
            loop {
                let Some(mode) = modes.next() else { anyhow::bail!("no mode left to attach with") };
                match attach(mode).await {
                    Ok(session) => break (session, mode, stdin && mode != SessionMode::Output),
                    Err(error)
                        if error.kind() == ErrorKind::InvalidState && modes.peek().is_some() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    };
    let raw = match matches!(mode, SessionMode::Terminal(_)) && stdin {
        true => raw()?,
        false => None,
    };
    Ok(Attached { session, stdin, _raw: raw })
}

/// Checks that the engine supports the attach that `mode` requires.
fn needs_attach(runtime: &dyn Runtime, mode: SessionMode) -> Result<()> {
    if mode == SessionMode::Output && runtime.capabilities().logs_follow {
        return Ok(());
    }
    runtime.capabilities().require(Capability::Attach).map_err(|error| {
        let error = error.during(Operation::Attach).on(runtime.backend());
        anyhow::Error::from(error).context("this engine runs containers only without -i and -t")
    })
}

/// Starts a container and shows its output until it exits.
async fn follow(
    runtime: &dyn Runtime,
    container: &Arc<dyn Container>,
    how: AttachMode,
    signals: &mut Signals,
) -> Result<u8> {
    let failed = |error| coded(FAILED, error);
    let mut presses = 0;
    let mut on_signal = async |signal| {
        if signal == Signal::HUP {
            // The terminal is gone, so the container is ended.
            hang_up(&**container).await;
            return Then::End;
        }
        forward_signal(container, signal, &mut presses).await
    };
    let can = runtime.capabilities();
    let output_only = matches!(how, AttachMode::Known { mode: SessionMode::Output, .. });
    let ended = if can.attach && can.attach_created {
        let Attached { session, stdin, _raw } = open(&**container, how).await.map_err(failed)?;
        container.start().await.map_err(not_run)?;
        session::relay(session, stdin, signals, &mut on_signal).await.map_err(failed)?
    } else {
        if let Some(signal) = start_or_signal(&**container, can.deferred_pull, signals).await? {
            return Ok(killed_by(signal.number()));
        }
        let late = match can.attach && !(output_only && can.logs_follow) {
            true => open_late(container, how, can, signals).await.map_err(failed)?,
            false => LateAttach::Ended,
        };
        match late {
            LateAttach::Attached(Attached { session, stdin, _raw }) => {
                session::relay(session, stdin, signals, &mut on_signal).await.map_err(failed)?
            }
            // The log has all output of before the attach.
            LateAttach::Ended => {
                let _raw = how.raw().map_err(failed)?;
                show_log(&**container, signals, &mut on_signal).await.map_err(failed)?
            }
            LateAttach::Signal(signal) => Ended::Signal(signal),
        }
    };
    match ended {
        Ended::Output => {}
        Ended::NoReader => return Ok(killed_by(13)),
        Ended::Signal(signal) => return Ok(killed_by(signal.number())),
    }
    // A process can close its outputs and keep running.
    match session::or_signal(container.wait(), signals, &mut on_signal).await {
        Ok(exit) => exit_code(&exit.map_err(|error| failed(error.into()))?),
        Err(signal) => Ok(killed_by(signal.number())),
    }
}

/// Starts a container and waits until it runs. If the start includes the pull (`deferred`), the
/// wait exceeds the deadline of a start: a large image is not an error, and the backend limits
/// other waits.
async fn start_until_running(
    container: &dyn Container,
    deferred: bool,
) -> runtime_core::Result<StartOutcome> {
    loop {
        match container.start().await {
            Err(error) if deferred && error.kind() == ErrorKind::Timeout => {
                if container.info().await?.status != ContainerStatus::Created {
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

/// Starts a container. A signal that arrives first ends the container, because a start can take as
/// long as the node's pull.
async fn start_or_signal(
    container: &dyn Container,
    deferred: bool,
    signals: &mut Signals,
) -> Result<Option<Signal>> {
    tokio::select! {
        started = start_until_running(container, deferred) => started.map(|_| None).map_err(not_run),
        signal = signals.end() => {
            hang_up(container).await;
            Ok(Some(signal))
        }
    }
}

/// Result of an attach after the start.
enum LateAttach {
    Attached(Attached),
    /// The container has exited, or an attach is not needed.
    Ended,
    Signal(Signal),
}

/// Attaches to a started container as soon as it runs. If there is a log, the session includes the
/// output of before the attach.
async fn open_late(
    container: &Arc<dyn Container>,
    how: AttachMode,
    can: &Capabilities,
    signals: &mut Signals,
) -> Result<LateAttach> {
    let retry_until = tokio::time::Instant::now() + ATTACH_RETRY_TIMEOUT;
    loop {
        let error = match open(&**container, how).await {
            Ok(mut attached) => {
                if can.logs_follow {
                    attached.session =
                        attach_replay::with_earlier_output(Arc::clone(container), attached.session);
                }
                return Ok(LateAttach::Attached(attached));
            }
            Err(error) => error,
        };
        match container.info().await?.status {
            ContainerStatus::Exited if can.logs_follow => return Ok(LateAttach::Ended),
            // The engine has accepted the start, but the container does not run yet.
            ContainerStatus::Created if lacks(&error, Capability::AttachCreated) => {}
            // A node can report a running container before all of its parts do.
            _ if can_be_retried(&error) && tokio::time::Instant::now() < retry_until => {}
            _ => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(START_POLL_INTERVAL) => {}
            signal = signals.end() => {
                hang_up(&**container).await;
                return Ok(LateAttach::Signal(signal));
            }
        }
    }
}

fn can_be_retried(error: &anyhow::Error) -> bool {
    error.downcast_ref::<runtime_core::Error>().is_some_and(runtime_core::Error::is_retryable)
}

fn lacks(error: &anyhow::Error, capability: Capability) -> bool {
    let error = error.downcast_ref::<runtime_core::Error>();
    error.is_some_and(|error| error.capability() == Some(capability))
}

/// Ends a container whose terminal is gone.
async fn hang_up(container: &dyn Container) {
    let unsupported = |error: &runtime_core::Error| error.kind() == ErrorKind::Unsupported;
    if let Ok(Err(error)) = with_shutdown_timeout(container.kill(Signal::HUP)).await
        && unsupported(&error)
    {
        let _ = with_shutdown_timeout(container.stop(StopOptions::default())).await;
    }
}

/// Returns the exit code of a container, and prints a note if the container has none.
fn exit_code(exit: &Exit) -> Result<u8> {
    use runtime_core::ExitReason as Reason;
    match exit.reason {
        Reason::Exited | Reason::Signaled | Reason::StoppedByUs => {}
        _ => style::note(format_args!("the container ended: {exit}")),
    }
    Ok(code_of_exit(exit))
}

/// Forwards a signal to the container.
async fn forward_signal(container: &Arc<dyn Container>, signal: Signal, presses: &mut u32) -> Then {
    if signal == Signal::INT || signal == Signal::TERM {
        *presses += 1;
        if *presses >= INTERRUPTS_TO_LEAVE {
            style::note(format_args!("left: {} may run on", container.name()));
            return Then::End;
        }
    }
    match with_shutdown_timeout(container.kill(signal)).await {
        Ok(Ok(())) => Then::Continue,
        // The container has exited; the end of its output follows.
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidState => Then::Continue,
        Ok(Err(error)) if error.kind() == ErrorKind::Unsupported && terminates(signal) => {
            if *presses <= 1 {
                style::note("this engine sends no signals: the container is stopped");
                stop_beside(Arc::clone(container));
            }
            Then::Continue
        }
        Ok(Err(error)) => {
            style::print_error(&error.into());
            if terminates(signal) { Then::End } else { Then::Continue }
        }
        Err(_) => Then::End,
    }
}

/// Stops a container while its remaining output is shown.
fn stop_beside(container: Arc<dyn Container>) {
    tokio::spawn(async move {
        if let Err(error) = container.stop(StopOptions::default()).await {
            style::print_error(&error.into());
        }
    });
}

/// Shows the log instead of a session.
async fn show_log(
    container: &dyn Container,
    signals: &mut Signals,
    mut on_signal: impl AsyncFnMut(Signal) -> Then,
) -> Result<Ended> {
    let options = LogOptions::default().follow(Follow::Yes);
    let mut log = container.logs(options).await?;
    let (stdout, stderr) = Sink::outputs();
    let ended = loop {
        tokio::select! {
            biased;
            record = log.next() => {
                let Some(record) = record.transpose()? else { break Ended::Output };
                let sink = if record.stream == LogStream::Stderr { &stderr } else { &stdout };
                if !sink.write(record.bytes).await {
                    break Ended::NoReader;
                }
            }
            came = signals.next() => {
                if let SignalEvent::Signal(signal) = came && on_signal(signal).await == Then::End {
                    break Ended::Signal(signal);
                }
            }
        }
    };
    match pipes::finish((stdout, stderr)).await {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Ended::NoReader),
        done => Ok(done.map(|()| ended)?),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use runtime_core::{
        ByteStream, ContainerId, ContainerInfo, ContainerStats, CopyInOptions, CopyOutOptions,
        Error, ExecOptions, LogReader, StatsOptions, StatsStream, StopOutcome, async_trait,
    };
    use tokio::sync::Notify;

    use super::*;

    type Answer<T> = runtime_core::Result<T>;

    /// A container whose start never completes.
    #[derive(Debug)]
    struct Slow {
        id: ContainerId,
        starting: Notify,
        removed: AtomicBool,
    }

    fn unexpected_call<T>() -> Answer<T> {
        Err(Error::internal("unexpected call"))
    }

    #[async_trait]
    impl Container for Slow {
        fn id(&self) -> &ContainerId {
            &self.id
        }

        fn name(&self) -> &str {
            "slow"
        }

        async fn start(&self) -> Answer<StartOutcome> {
            self.starting.notify_one();
            std::future::pending().await
        }

        async fn info(&self) -> Answer<ContainerInfo> {
            unexpected_call()
        }

        async fn wait(&self) -> Answer<Exit> {
            unexpected_call()
        }

        async fn logs(&self, _: LogOptions) -> Answer<LogReader> {
            unexpected_call()
        }

        async fn stats_once(&self) -> Answer<ContainerStats> {
            unexpected_call()
        }

        async fn stats(&self, _: StatsOptions) -> Answer<StatsStream> {
            unexpected_call()
        }

        async fn stop(&self, _: StopOptions) -> Answer<StopOutcome> {
            unexpected_call()
        }

        async fn kill(&self, _: Signal) -> Answer<()> {
            unexpected_call()
        }

        async fn remove(&self) -> Answer<()> {
            self.removed.store(true, Ordering::Relaxed);
            Ok(())
        }

        async fn exec(&self, _: ExecOptions) -> Answer<Session> {
            unexpected_call()
        }

        async fn attach(&self, _: AttachOptions) -> Answer<Session> {
            unexpected_call()
        }

        async fn copy_in(&self, _: &str, _: ByteStream, _: CopyInOptions) -> Answer<()> {
            unexpected_call()
        }

        async fn copy_out(&self, _: &str, _: CopyOutOptions) -> Answer<ByteStream> {
            unexpected_call()
        }
    }

    #[tokio::test]
    async fn detached_start_interrupted_by_signal_removes_container() {
        use rustix::process::{Signal, getpid, kill_process};
        let slow = Slow {
            id: ContainerId::new("1"),
            starting: Notify::new(),
            removed: AtomicBool::new(false),
        };
        let mut signals = Signals::listen().unwrap();
        let tell = async {
            slow.starting.notified().await;
            kill_process(getpid(), Signal::TERM).unwrap();
        };
        let (code, ()) = tokio::join!(run_detached(&slow, false, false, &mut signals), tell);
        assert_eq!(code.unwrap(), 143);
        assert!(slow.removed.load(Ordering::Relaxed), "nothing is left of it");
    }
}
