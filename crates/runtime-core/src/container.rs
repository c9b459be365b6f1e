//! A container of a connected engine.

use std::fmt;

use async_trait::async_trait;

use crate::{
    AttachOptions, ByteStream, ContainerId, ContainerInfo, ContainerStats, CopyInOptions,
    CopyOutOptions, ExecOptions, Exit, LogOptions, LogReader, RawLogs, Result, Session, Signal,
    StartOutcome, StatsOptions, StatsStream, StopOptions, StopOutcome,
};

/// A handle for one container. Dropping it lets go and changes nothing at the engine.
///
/// Unless said otherwise, every method of a container that the engine does not have any more is
/// [`NotFound`](crate::ErrorKind::NotFound), one that the engine cannot do is
/// [`Unsupported`](crate::ErrorKind::Unsupported), an engine that is away is
/// [`Unavailable`](crate::ErrorKind::Unavailable), and an answer that does not come in time is
/// [`Timeout`](crate::ErrorKind::Timeout).
#[async_trait]
pub trait Container: fmt::Debug + Send + Sync + 'static {
    /// The engine's id. It stays good after a restart of the caller, see
    /// [`Runtime::container`](crate::Runtime::container).
    fn id(&self) -> &ContainerId;

    /// The name.
    fn name(&self) -> &str;

    /// Starts the main process.
    ///
    /// When this returns an outcome the process runs, or has run. A container runs once: starting one
    /// that was started before, whether it runs or has ended, is the outcome
    /// [`AlreadyStarted`](StartOutcome::AlreadyStarted).
    ///
    /// With the capability `deferred_pull` a start includes the pull, and the search for a node. One
    /// that takes longer than a few seconds reports why, see [`PENDING_START`](crate::PENDING_START);
    /// [`ContainerInfo::message`] has the same words. After a `Timeout` the start goes on: another
    /// start waits for it again and then returns `AlreadyStarted`.
    ///
    /// # Errors
    /// `Timeout` with the reason so far when the process does not run at the deadline. With
    /// `deferred_pull` also the errors of a pull, see
    /// [`Runtime::pull_image`](crate::Runtime::pull_image); the container is then Exited with reason
    /// [`ImagePullFailed`](crate::ExitReason::ImagePullFailed).
    ///
    /// `InvalidArgument` when the command cannot be executed, when a mount source is not there,
    /// or when anything else of the spec fails only now. The container is then Exited with
    /// reason [`StartFailed`](crate::ExitReason::StartFailed) where the engine keeps it. So it is
    /// where the engine is out of something, as a port: `ResourceExhausted`, and not retryable
    /// once the container counts as ended.
    async fn start(&self) -> Result<StartOutcome>;

    /// What the engine knows of it now.
    ///
    /// # Errors
    /// `NotFound` and what holds for all methods.
    async fn info(&self) -> Result<ContainerInfo>;

    /// Waits until it has ended and says how. It can be called before the start, while it runs
    /// and after the end, any number of times and from any number of tasks: all get the same
    /// answer, and together they cost the engine one stream.
    ///
    /// A lost connection or a restarted engine is waited out. A container that goes away before
    /// its exit was known ends with reason [`Removed`](crate::ExitReason::Removed) and no code.
    /// There is no deadline: drop the future to stop waiting.
    ///
    /// # Errors
    /// `NotFound` when it was gone before the call. `PermissionDenied`, `Unauthenticated` and
    /// other failures that no patience mends.
    async fn wait(&self) -> Result<Exit>;

    /// Opens its log. The log of a container that was not started is empty; a follower of one
    /// waits for its start.
    ///
    /// # Errors
    /// Failures of the open come here, later ones as the last item of the reader.
    async fn logs(&self, options: LogOptions) -> Result<LogReader>;

    /// Reads its log as it is now, from the beginning to the end, without the times of the lines.
    /// It is for who wants the text alone, and fast: an engine need not write the times, which
    /// takes more of it than the text does. [`logs`](Self::logs) is for the rest.
    ///
    /// There is no place to go on from: a connection that is lost ends it with an error, and the
    /// caller begins again. Of a container that runs, the line that it is just writing may be
    /// missing. Where the engine's way to give a log without times is not sure, or it has none, the
    /// log is read with them.
    ///
    /// # Errors
    /// As of [`logs`](Self::logs). `Lost` when the engine has ended the log before its end.
    async fn raw_logs(&self) -> Result<RawLogs> {
        Ok(self.logs(LogOptions::default()).await?.into_raw())
    }

    /// Measures what it uses, once. CPU percent is there when this handle or its runtime has
    /// measured before.
    ///
    /// # Errors
    /// `NotStarted` before the start, `InvalidState` after the end.
    async fn stats_once(&self) -> Result<ContainerStats>;

    /// Measures again and again until it ends.
    ///
    /// # Errors
    /// As [`stats_once`](Self::stats_once) at the open; later ones as the last item.
    async fn stats(&self, options: StatsOptions) -> Result<StatsStream>;

    /// Stops it: sends the stop signal, waits for the grace, then kills. Its info, its exit and
    /// its logs stay readable: stopping is not removing.
    ///
    /// Stopping what is not running is an outcome. Of several stops at once each gets the same
    /// exit, and the shortest grace counts.
    ///
    /// # Errors
    /// `Timeout` when the engine has not answered after the grace and
    /// [`stop_margin`](crate::Deadlines); the stop itself may still go on.
    async fn stop(&self, options: StopOptions) -> Result<StopOutcome>;

    /// Sends a signal to the main process.
    ///
    /// # Errors
    /// `NotStarted` before the start, `InvalidState` after the end.
    async fn kill(&self, signal: Signal) -> Result<()>;

    /// Removes it and all that was made for it. A running one is killed without grace.
    ///
    /// # Errors
    /// `NotFound` when it is gone already.
    async fn remove(&self) -> Result<()>;

    /// Runs a command in the running container.
    ///
    /// The process counts against the container's memory. Where that has no room for it, the kernel
    /// kills it, as it is started or later, and its exit code is 137; the container goes on unless
    /// the kernel chooses another of its processes.
    ///
    /// # Errors
    /// `NotStarted` before the start, `InvalidState` after the end, `InvalidArgument` naming
    /// `command` when it cannot be executed.
    async fn exec(&self, options: ExecOptions) -> Result<Session>;

    /// Attaches to the main process. The container may be Created (capability `attach_created`):
    /// then the session has all of its output from the start on.
    ///
    /// # Errors
    /// `InvalidState` when the container was not made for this mode, or has ended.
    async fn attach(&self, options: AttachOptions) -> Result<Session>;

    /// Unpacks a tar stream into the folder `path` of the container, running or not (capability
    /// `copy_stopped`). An error of `content` is an error of the copy; what was unpacked before it
    /// stays. Where the engine has no call for it, the container's own `tar` does it, as the user
    /// that the container runs as.
    ///
    /// # Errors
    /// `NotFound` naming the field `path` when there is no such folder, `InvalidArgument` when
    /// `path` is not absolute or the stream is no tar, `Lost` when the container ended meanwhile and
    /// the engine does not hold its files for a copy (Podman): copied again, they are there.
    async fn copy_in(&self, path: &str, content: ByteStream, options: CopyInOptions) -> Result<()>;

    /// Packs the file or folder `path` of the container, running or not (capability
    /// `copy_stopped`), into a tar stream. The names in it begin with the last part of `path`.
    ///
    /// Docker locks the container while it packs: `info`, `kill` and `exec` wait for as long as the
    /// stream is open and not read. So it is read ahead, by some megabytes at most, and a stream of
    /// which nothing is taken for
    /// [`Deadlines::pull_inactivity`](crate::Deadlines::pull_inactivity) after that ends with
    /// `Timeout`.
    ///
    /// # Errors
    /// `NotFound` naming the field `path` when there is no such file, `InvalidArgument` when
    /// `path` is not absolute. Later ones as the last item.
    async fn copy_out(&self, path: &str, options: CopyOutOptions) -> Result<ByteStream>;
}

/// What can be said in terms of [`Container`] alone.
#[async_trait]
pub trait ContainerExt: Container {
    /// Starts it and waits for its end.
    ///
    /// # Errors
    /// Those of [`start`](Container::start) and [`wait`](Container::wait).
    async fn run(&self) -> Result<Exit> {
        self.start().await?;
        self.wait().await
    }

    /// Removes it; one that is gone already is no error.
    ///
    /// # Errors
    /// Those of [`remove`](Container::remove) but `NotFound`.
    async fn ensure_removed(&self) -> Result<()> {
        match self.remove().await {
            Err(error) if error.kind() == crate::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

impl<C: Container + ?Sized> ContainerExt for C {}
