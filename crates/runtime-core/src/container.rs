//! The [`Container`] trait: a handle for one container.

use std::fmt;

use async_trait::async_trait;

use crate::{
    AttachOptions, ByteStream, ContainerId, ContainerInfo, ContainerStats, CopyInOptions,
    CopyOutOptions, ExecOptions, Exit, LogOptions, LogReader, RawLogs, Result, Session, Signal,
    StartOutcome, StatsOptions, StatsStream, StopOptions, StopOutcome,
};

/// A handle for one container. Dropping the handle does not affect the container.
///
/// Unless documented otherwise, every method fails with [`NotFound`](crate::ErrorKind::NotFound) if
/// the engine no longer has the container, with [`Unsupported`](crate::ErrorKind::Unsupported) if
/// the engine lacks the operation, with [`Unavailable`](crate::ErrorKind::Unavailable) if the
/// engine is unreachable, and with [`Timeout`](crate::ErrorKind::Timeout) if the response does not
/// arrive before the deadline.
#[async_trait]
pub trait Container: fmt::Debug + Send + Sync + 'static {
    /// Returns the engine's id. The id remains valid after a restart of the caller, see
    /// [`Runtime::container`](crate::Runtime::container).
    fn id(&self) -> &ContainerId;

    /// Returns the name.
    fn name(&self) -> &str;

    /// Starts the main process.
    ///
    /// When this method returns an outcome, the process is running or has already ended. A
    /// container runs once: starting a container a second time, while it runs or after it has
    /// ended, returns [`AlreadyStarted`](StartOutcome::AlreadyStarted).
    ///
    /// With the capability `deferred_pull`, the start includes the pull and the scheduling to a
    /// node. A start that takes longer than a few seconds reports the reason, see
    /// [`PENDING_START`](crate::PENDING_START); [`ContainerInfo::message`] has the same text. After
    /// a `Timeout` the start continues: the next call waits for the same start and returns
    /// `AlreadyStarted`.
    ///
    /// # Errors
    /// `Timeout` with the latest reason if the process does not run before the deadline. With
    /// `deferred_pull` also the errors of a pull, see
    /// [`Runtime::pull_image`](crate::Runtime::pull_image); the container is then Exited with
    /// reason [`ImagePullFailed`](crate::ExitReason::ImagePullFailed).
    ///
    /// `InvalidArgument` if the command cannot be executed, if a mount source is missing, or if
    /// another field of the spec fails only at the start. `ResourceExhausted` if the engine has run
    /// out of a resource such as a port. If the engine keeps the container after such a failure,
    /// the container is Exited with reason [`StartFailed`](crate::ExitReason::StartFailed), and the
    /// error is not retryable.
    async fn start(&self) -> Result<StartOutcome>;

    /// Returns the current state, as reported by the engine.
    ///
    /// # Errors
    /// `NotFound` and the errors common to all methods.
    async fn info(&self) -> Result<ContainerInfo>;

    /// Waits until the container has ended and returns its exit.
    ///
    /// The method may be called before the start, while the container runs and after its end, any
    /// number of times and from any number of tasks. All calls return the same exit and share one
    /// stream of the engine.
    ///
    /// Lost connections and restarts of the engine are retried. If the container is removed before
    /// its exit was observed, the exit has reason [`Removed`](crate::ExitReason::Removed) and no
    /// code. There is no deadline: drop the future to stop waiting.
    ///
    /// # Errors
    /// `NotFound` if the container was removed before the call. `PermissionDenied`,
    /// `Unauthenticated` and other failures that a retry cannot resolve.
    async fn wait(&self) -> Result<Exit>;

    /// Opens the log. The log of a container that was not started is empty; a follower waits for
    /// the start.
    ///
    /// # Errors
    /// A failure to open the log is returned here; a later failure is the last item of the reader.
    async fn logs(&self, options: LogOptions) -> Result<LogReader>;

    /// Reads the whole current log without timestamps.
    ///
    /// This is faster than [`logs`](Self::logs), because writing the timestamps costs an engine
    /// more than reading the text.
    ///
    /// There is no cursor: a lost connection ends the stream with an error, and the caller has to
    /// read from the beginning. While the container runs, the line that is being written may be
    /// missing. If the engine cannot return a log without timestamps, or cannot do so reliably, the
    /// log is read with them and the timestamps are dropped.
    ///
    /// # Errors
    /// The errors of [`logs`](Self::logs). `Lost` if the engine ended the stream before the end of
    /// the log.
    async fn raw_logs(&self) -> Result<RawLogs> {
        Ok(self.logs(LogOptions::default()).await?.into_raw())
    }

    /// Takes one sample of the container's resource use. The CPU percentage is present if this
    /// handle or its runtime has an earlier sample.
    ///
    /// # Errors
    /// `NotStarted` before the start, `InvalidState` after the end.
    async fn stats_once(&self) -> Result<ContainerStats>;

    /// Streams samples until the container ends.
    ///
    /// # Errors
    /// The errors of [`stats_once`](Self::stats_once) on open; a later failure is the last item.
    async fn stats(&self, options: StatsOptions) -> Result<StatsStream>;

    /// Stops the container: sends the stop signal, waits for the grace period, then kills the main
    /// process. The container is not removed; its info, exit and logs remain readable.
    ///
    /// Stopping a container that is not running is an outcome, not an error. Concurrent stops all
    /// return the same exit, and the shortest grace period applies.
    ///
    /// # Errors
    /// `Timeout` if the engine has not responded after the grace period plus
    /// [`stop_margin`](crate::Deadlines); the stop may still complete later.
    async fn stop(&self, options: StopOptions) -> Result<StopOutcome>;

    /// Sends a signal to the main process.
    ///
    /// # Errors
    /// `NotStarted` before the start, `InvalidState` after the end.
    async fn kill(&self, signal: Signal) -> Result<()>;

    /// Removes the container and everything that was created for it. A running container is killed
    /// without a grace period.
    ///
    /// # Errors
    /// `NotFound` if the container is already removed.
    async fn remove(&self) -> Result<()>;

    /// Runs a command in the running container.
    ///
    /// The process counts against the container's memory limit. If the limit has no room for the
    /// process, the kernel kills it, at its start or later, and the exit code is 137. The container
    /// keeps running unless the kernel kills another of its processes.
    ///
    /// # Errors
    /// `NotStarted` before the start, `InvalidState` after the end, `InvalidArgument` naming
    /// `command` if the command cannot be executed.
    async fn exec(&self, options: ExecOptions) -> Result<Session>;

    /// Attaches to the main process. With the capability `attach_created` the container may be
    /// Created: the session then receives all output from the start.
    ///
    /// # Errors
    /// `InvalidState` if the container was not created for this mode, or has ended.
    async fn attach(&self, options: AttachOptions) -> Result<Session>;

    /// Unpacks a tar stream into the directory `path` of the container, which has to run unless the
    /// engine has the capability `copy_stopped`.
    ///
    /// An error of `content` is returned as the error of the copy; entries that were already
    /// unpacked stay. If the engine has no request for copies, the container's own `tar` unpacks
    /// the stream as the user of the container.
    ///
    /// # Errors
    /// `NotFound` naming the field `path` if the directory does not exist, `InvalidArgument` if
    /// `path` is not absolute or the stream is not a tar archive, `Lost` if the container ended
    /// during the copy and the engine (Podman) did not keep the files of that copy; a second copy
    /// then succeeds.
    async fn copy_in(&self, path: &str, content: ByteStream, options: CopyInOptions) -> Result<()>;

    /// Packs the file or directory `path` of the container into a tar stream. The container has to
    /// run unless the engine has the capability `copy_stopped`. The names in the archive begin with
    /// the last component of `path`.
    ///
    /// Docker locks the container while it packs: `info`, `kill` and `exec` wait as long as the
    /// stream is open and not read. Therefore a few megabytes are read ahead, and a stream that is
    /// not read for [`Deadlines::pull_inactivity`](crate::Deadlines::pull_inactivity) after that
    /// ends with `Timeout`.
    ///
    /// # Errors
    /// `NotFound` naming the field `path` if the path does not exist, `InvalidArgument` if `path`
    /// is not absolute. A later failure is the last item of the stream.
    async fn copy_out(&self, path: &str, options: CopyOutOptions) -> Result<ByteStream>;
}

/// Convenience methods for every [`Container`].
#[async_trait]
pub trait ContainerExt: Container {
    /// Starts the container and waits for its exit.
    ///
    /// # Errors
    /// The errors of [`start`](Container::start) and [`wait`](Container::wait).
    async fn run(&self) -> Result<Exit> {
        self.start().await?;
        self.wait().await
    }

    /// Removes the container. A container that is already removed is not an error.
    ///
    /// # Errors
    /// The errors of [`remove`](Container::remove) except `NotFound`.
    async fn ensure_removed(&self) -> Result<()> {
        match self.remove().await {
            Err(error) if error.kind() == crate::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

impl<C: Container + ?Sized> ContainerExt for C {}
