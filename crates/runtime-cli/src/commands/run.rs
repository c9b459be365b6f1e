//! `run`, `start` and `attach`: the main process, with our input, outputs and signals.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use runtime_core::{
    AttachOptions, Capabilities, Capability, Container, ContainerExt, ContainerStatus, ErrorKind,
    Exit, Follow, LogOptions, LogStream, Operation, Runtime, Session, SessionMode, Signal,
    StartOutcome, StopOptions,
};

use super::create::{self, Made};
use super::ends;
use crate::cli::{Attach, Run, Start};
use crate::connect::soon;
use crate::exit_code::{FAILED, code_of_exit, coded, killed_by, not_run};
use crate::pipes::{self, Sink};
use crate::session::{self, Ended, Then};
use crate::signals::{Came, Signals};
use crate::terminal::{self, Raw};
use crate::{find, splice, style};

/// How many times one has to press Ctrl-C to leave a process that does not mind it.
const INSISTING: u32 = 3;

/// How often one looks whether a container that was started runs.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long an attach is tried again that failed for a reason that passes.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let made = create::make_unless_told(&*runtime, &arguments.spec, &mut signals).await;
    let made = match made.map_err(failed)? {
        Made::Container(container) => container,
        Made::Told(signal) => return Ok(killed_by(signal.number())),
    };
    let Some(mode) = mode else {
        let deferred = runtime.capabilities().deferred_pull;
        return run_detached(&*made, deferred, arguments.rm, &mut signals).await;
    };
    let how = How::Known { mode, stdin: arguments.spec.interactive };
    let done = follow(&*runtime, &made, how, &mut signals).await;
    if arguments.rm {
        remove_or_say(&*made).await;
    }
    done
}

/// Removes a container, and says so when it is still there.
async fn remove_or_say(container: &dyn Container) {
    // It has a deadline of its own: a node can take its time to let a container go.
    if let Err(error) = container.ensure_removed().await {
        style::print_error(&anyhow::Error::from(error).context("the container was not removed"));
    }
}

/// Starts a container for nobody to wait for.
async fn run_detached(
    container: &dyn Container,
    deferred: bool,
    remove: bool,
    signals: &mut Signals,
) -> Result<u8> {
    let started = tokio::select! {
        biased;
        // Nobody has its id yet. The engine may start it all the same, so that telling it to end
        // could come too early: it is undone as a create is.
        signal = signals.end() => {
            remove_or_say(container).await;
            return Ok(killed_by(signal.number()));
        }
        started = start_to_end(container, deferred) => started,
    };
    if let Err(error) = started {
        if remove {
            let _ = soon(container.ensure_removed()).await;
        }
        return Err(not_run(error));
    }
    crate::format::print(&format!("{}\n", container.id()))?;
    if remove {
        style::note(
            "--rm has no effect with --detach: nobody waits for the end; see `runtime reap`",
        );
    }
    Ok(0)
}

/// `runtime start`.
pub(crate) async fn start(runtime: Arc<dyn Runtime>, arguments: Start) -> Result<u8> {
    if !arguments.attach && !arguments.interactive {
        let start = async |name: &str| {
            let container = find::container(&*runtime, name).await?;
            start_to_end(&*container, runtime.capabilities().deferred_pull).await?;
            Ok(())
        };
        return super::each(&arguments.containers, start, |name, ()| {
            crate::format::print(&format!("{name}\n"))
        })
        .await;
    }
    let [name] = &arguments.containers[..] else {
        anyhow::bail!("one container at a time can be attached to");
    };
    let mut signals = Signals::listen()?;
    let listed = find::listed(&*runtime, name).await.map_err(|error| coded(FAILED, error))?;
    let container = listed.container;
    if listed.info.status == ContainerStatus::Exited {
        let error =
            anyhow::anyhow!("{name} has ended, and a container runs once; see `runtime logs`");
        return Err(coded(FAILED, error));
    }
    follow(&*runtime, &container, How::Find { stdin: arguments.interactive }, &mut signals).await
}

/// `runtime attach`.
pub(crate) async fn attach(runtime: Arc<dyn Runtime>, arguments: Attach) -> Result<u8> {
    runtime.capabilities().require(Capability::Attach).map_err(|error| {
        error.during(Operation::Attach).on(runtime.backend()).about(&arguments.container)
    })?;
    let mut signals = Signals::listen()?;
    let listed = find::listed(&*runtime, &arguments.container).await?;
    let (container, info) = (listed.container, listed.info);
    if info.status != ContainerStatus::Running {
        anyhow::bail!("{} is {}: only what runs can be attached to", info.name, info.status);
    }
    let stdin = !arguments.no_stdin;
    let Attached { session, stdin, .. } = open(&*container, How::Find { stdin }).await?;
    let control = session.control.clone();
    let mut presses = 0;
    let mut on_signal = async |signal| {
        if !arguments.sig_proxy || signal == Signal::HUP {
            return if ends(signal) { Then::End } else { Then::GoOn };
        }
        pass_on(&container, signal, &mut presses).await
    };
    let signal = match session::talk(session, stdin, &mut signals, &mut on_signal).await? {
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

/// How to attach.
#[derive(Debug, Clone, Copy)]
enum How {
    /// The container was made for this mode.
    Known {
        /// The mode.
        mode: SessionMode,
        /// Whether our input is sent.
        stdin: bool,
    },
    /// As the container was made, which only a try tells.
    Find {
        /// Whether our input is sent, if it takes any.
        stdin: bool,
    },
}

impl How {
    /// Our terminal made raw for a container on a terminal: its lines end as those of one.
    fn raw(self) -> Result<Option<Raw>> {
        match self {
            Self::Known { mode: SessionMode::Terminal(_), stdin: true } => raw(),
            _ => Ok(None),
        }
    }
}

/// Makes our terminal raw, where there is one.
fn raw() -> Result<Option<Raw>> {
    let raw = terminal::on_stdin().then(Raw::enter).transpose();
    raw.context("the terminal cannot be made raw")
}

struct Attached {
    session: Session,
    stdin: bool,
    /// Our terminal, while it is raw.
    _raw: Option<Raw>,
}

async fn open(container: &dyn Container, how: How) -> Result<Attached> {
    let attach = async |mode| container.attach(AttachOptions::default().mode(mode)).await;
    let (session, mode, stdin) = match how {
        How::Known { mode, stdin } => {
            // The window may have another size than before the pull.
            let mode = session::of_this_size(mode);
            (attach(mode).await?, mode, stdin)
        }
        How::Find { stdin } => {
            let mut modes = vec![session::mode(false, true)?, SessionMode::Output];
            if stdin {
                modes.insert(1, SessionMode::Stdin);
            }
            let mut modes = modes.into_iter().peekable();
            loop {
                let Some(mode) = modes.next() else { anyhow::bail!("there is no way to attach") };
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

/// What cannot be done with an engine that has no attach.
fn needs_attach(runtime: &dyn Runtime, mode: SessionMode) -> Result<()> {
    if mode == SessionMode::Output && runtime.capabilities().logs_follow {
        return Ok(());
    }
    runtime.capabilities().require(Capability::Attach).map_err(|error| {
        let error = error.during(Operation::Attach).on(runtime.backend());
        anyhow::Error::from(error).context("this engine runs containers only without -i and -t")
    })
}

/// Starts a container and shows it to its end.
async fn follow(
    runtime: &dyn Runtime,
    container: &Arc<dyn Container>,
    how: How,
    signals: &mut Signals,
) -> Result<u8> {
    let failed = |error| coded(FAILED, error);
    let mut presses = 0;
    let mut on_signal = async |signal| {
        if signal == Signal::HUP {
            // Our terminal is gone, and with it whoever it was for.
            hang_up(&**container).await;
            return Then::End;
        }
        pass_on(container, signal, &mut presses).await
    };
    let can = runtime.capabilities();
    let output_only = matches!(how, How::Known { mode: SessionMode::Output, .. });
    let ended = if can.attach && can.attach_created {
        let Attached { session, stdin, _raw } = open(&**container, how).await.map_err(failed)?;
        container.start().await.map_err(not_run)?;
        session::talk(session, stdin, signals, &mut on_signal).await.map_err(failed)?
    } else {
        if let Some(signal) = start_or_signal(&**container, can.deferred_pull, signals).await? {
            return Ok(killed_by(signal.number()));
        }
        let late = match can.attach && !(output_only && can.logs_follow) {
            true => open_late(container, how, can, signals).await.map_err(failed)?,
            false => Late::Ended,
        };
        match late {
            Late::Attached(Attached { session, stdin, _raw }) => {
                session::talk(session, stdin, signals, &mut on_signal).await.map_err(failed)?
            }
            // The log misses nothing of what was said before an attach.
            Late::Ended => {
                let _raw = how.raw().map_err(failed)?;
                show_log(&**container, signals, &mut on_signal).await.map_err(failed)?
            }
            Late::Signal(signal) => Ended::Signal(signal),
        }
    };
    match ended {
        Ended::Output => {}
        Ended::NoReader => return Ok(killed_by(13)),
        Ended::Signal(signal) => return Ok(killed_by(signal.number())),
    }
    // A process can close its outputs and go on.
    match session::or_signal(container.wait(), signals, &mut on_signal).await {
        Ok(exit) => exit_code(&exit.map_err(|error| failed(error.into()))?),
        Err(signal) => Ok(killed_by(signal.number())),
    }
}

/// Starts a container and waits until it runs, where the start includes the pull (`deferred`) also
/// beyond the deadline of a start: a large image is no error, and what never runs has a budget.
async fn start_to_end(
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

/// Starts a container. A signal that comes first ends it: a start can take as long as a node takes
/// to get the image.
async fn start_or_signal(
    container: &dyn Container,
    deferred: bool,
    signals: &mut Signals,
) -> Result<Option<Signal>> {
    tokio::select! {
        started = start_to_end(container, deferred) => started.map(|_| None).map_err(not_run),
        signal = signals.end() => {
            hang_up(container).await;
            Ok(Some(signal))
        }
    }
}

/// What came of an attach after the start.
enum Late {
    Attached(Attached),
    /// The container was quicker, or there is no need to attach.
    Ended,
    Signal(Signal),
}

/// Attaches to a container that was started, as soon as it runs. Where there is a log, the
/// session has what was said before.
async fn open_late(
    container: &Arc<dyn Container>,
    how: How,
    can: &Capabilities,
    signals: &mut Signals,
) -> Result<Late> {
    let patience = tokio::time::Instant::now() + PATIENCE;
    loop {
        let error = match open(&**container, how).await {
            Ok(mut attached) => {
                if can.logs_follow {
                    attached.session = splice::whole(Arc::clone(container), attached.session);
                }
                return Ok(Late::Attached(attached));
            }
            Err(error) => error,
        };
        match container.info().await?.status {
            ContainerStatus::Exited if can.logs_follow => return Ok(Late::Ended),
            // It was taken by the engine and does not run yet.
            ContainerStatus::Created if lacks(&error, Capability::AttachCreated) => {}
            // A node can say that a container runs before all of it knows that.
            _ if can_be_retried(&error) && tokio::time::Instant::now() < patience => {}
            _ => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            signal = signals.end() => {
                hang_up(&**container).await;
                return Ok(Late::Signal(signal));
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

/// Ends a container that nobody is there for any more.
async fn hang_up(container: &dyn Container) {
    let unsupported = |error: &runtime_core::Error| error.kind() == ErrorKind::Unsupported;
    if let Ok(Err(error)) = soon(container.kill(Signal::HUP)).await
        && unsupported(&error)
    {
        let _ = soon(container.stop(StopOptions::default())).await;
    }
}

/// The exit code of a container, and a word where it has none of its own.
fn exit_code(exit: &Exit) -> Result<u8> {
    use runtime_core::ExitReason as Reason;
    match exit.reason {
        Reason::Exited | Reason::Signaled | Reason::StoppedByUs => {}
        _ => style::note(format_args!("the container ended: {exit}")),
    }
    Ok(code_of_exit(exit))
}

/// Passes a signal on to the container.
async fn pass_on(container: &Arc<dyn Container>, signal: Signal, presses: &mut u32) -> Then {
    if signal == Signal::INT || signal == Signal::TERM {
        *presses += 1;
        if *presses >= INSISTING {
            style::note(format_args!("left: {} may run on", container.name()));
            return Then::End;
        }
    }
    match soon(container.kill(signal)).await {
        Ok(Ok(())) => Then::GoOn,
        // It has ended already: its output says the rest.
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidState => Then::GoOn,
        Ok(Err(error)) if error.kind() == ErrorKind::Unsupported && ends(signal) => {
            if *presses <= 1 {
                style::note("this engine sends no signals: the container is stopped");
                stop_beside(Arc::clone(container));
            }
            Then::GoOn
        }
        Ok(Err(error)) => {
            style::print_error(&error.into());
            if ends(signal) { Then::End } else { Then::GoOn }
        }
        Err(_) => Then::End,
    }
}

/// Stops a container while its last words are shown.
fn stop_beside(container: Arc<dyn Container>) {
    tokio::spawn(async move {
        if let Err(error) = container.stop(StopOptions::default()).await {
            style::print_error(&error.into());
        }
    });
}

/// Shows the log in place of a session.
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
                if let Came::Signal(signal) = came && on_signal(signal).await == Then::End {
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

    /// A container whose start takes for ever, and which can be removed.
    #[derive(Debug)]
    struct Slow {
        id: ContainerId,
        starting: Notify,
        removed: AtomicBool,
    }

    fn not_asked_for<T>() -> Answer<T> {
        Err(Error::internal("nobody should ask for this"))
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
            not_asked_for()
        }

        async fn wait(&self) -> Answer<Exit> {
            not_asked_for()
        }

        async fn logs(&self, _: LogOptions) -> Answer<LogReader> {
            not_asked_for()
        }

        async fn stats_once(&self) -> Answer<ContainerStats> {
            not_asked_for()
        }

        async fn stats(&self, _: StatsOptions) -> Answer<StatsStream> {
            not_asked_for()
        }

        async fn stop(&self, _: StopOptions) -> Answer<StopOutcome> {
            not_asked_for()
        }

        async fn kill(&self, _: Signal) -> Answer<()> {
            not_asked_for()
        }

        async fn remove(&self) -> Answer<()> {
            self.removed.store(true, Ordering::Relaxed);
            Ok(())
        }

        async fn exec(&self, _: ExecOptions) -> Answer<Session> {
            not_asked_for()
        }

        async fn attach(&self, _: AttachOptions) -> Answer<Session> {
            not_asked_for()
        }

        async fn copy_in(&self, _: &str, _: ByteStream, _: CopyInOptions) -> Answer<()> {
            not_asked_for()
        }

        async fn copy_out(&self, _: &str, _: CopyOutOptions) -> Answer<ByteStream> {
            not_asked_for()
        }
    }

    #[tokio::test]
    async fn a_signal_during_a_detached_start_undoes_it() {
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
