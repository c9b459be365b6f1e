//! Sessions: a command in a container, or the streams of its main process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::{Result, Signal};

/// A stream of bytes. The stream ends after the first error.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Number of lines.
    pub rows: u16,
    /// Number of characters per line.
    pub columns: u16,
}

/// Streams that a session connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SessionMode {
    /// Output only: the process reads end of file from stdin.
    #[default]
    Output,
    /// Output and stdin.
    Stdin,
    /// A terminal of this initial size: one input, and one output that carries stdout and stderr.
    /// Engines that cannot create a terminal with a size set the size right after the start of the
    /// process, which then receives SIGWINCH.
    Terminal(TerminalSize),
}

/// Options for [`Container::exec`](crate::Container::exec).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExecOptions {
    /// The command and its arguments. No shell is involved.
    pub command: Vec<String>,
    /// Streams that the session connects.
    pub mode: SessionMode,
    /// Additional environment variables (capability `exec_env`).
    pub env: BTreeMap<String, String>,
    /// Variables of the container that the command does not get (capability `env_unset`).
    #[serde(default)]
    pub unset_env: BTreeSet<String>,
    /// The user, as in [`ContainerSpec::user`](crate::ContainerSpec) (capability `exec_user`).
    /// `None` means the user of the container.
    pub user: Option<String>,
    /// The working directory (capability `exec_working_dir`). `None` means that of the container.
    pub working_dir: Option<String>,
    /// Allows the image's own `env` and `sh` to set the environment and the working directory if
    /// the engine cannot. See [`image_tools`](Self::image_tools).
    #[serde(default)]
    pub image_tools: bool,
}

impl ExecOptions {
    /// Creates options for `command` with output only.
    #[must_use]
    pub fn new<I: IntoIterator<Item = S>, S: Into<String>>(command: I) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            mode: SessionMode::Output,
            env: BTreeMap::new(),
            unset_env: BTreeSet::new(),
            user: None,
            working_dir: None,
            image_tools: false,
        }
    }

    /// Sets the streams that the session connects.
    #[must_use]
    pub const fn mode(mut self, mode: SessionMode) -> Self {
        self.mode = mode;
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.unset_env.remove(&name);
        self.env.insert(name, value.into());
        self
    }

    /// Removes a variable that the container has or that was added before.
    #[must_use]
    pub fn unset_env(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.env.remove(&name);
        self.unset_env.insert(name);
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn working_dir(mut self, dir: impl Into<String>) -> Self {
        self.working_dir = Some(dir.into());
        self
    }

    /// Allows the image's own `env` and `sh` to set the environment and the working directory if
    /// the engine cannot. Without this option such a request fails with `Unsupported`. Engines that
    /// can set them do so directly, with or without this option.
    ///
    /// Failures are then reported by these tools and not by the engine: exit code 127 if the
    /// command is missing, 126 if the command cannot be executed, 125 if the directory is missing.
    /// An image without these tools cannot run commands this way. The user cannot be changed this
    /// way, because the tools run without the required rights.
    #[must_use]
    pub const fn image_tools(mut self, allow: bool) -> Self {
        self.image_tools = allow;
        self
    }
}

/// Options for [`Container::attach`](crate::Container::attach).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttachOptions {
    /// Streams that the session connects. The container must have been created for this mode, see
    /// [`Interactive`](crate::Interactive).
    pub mode: SessionMode,
}

impl AttachOptions {
    /// Sets the streams that the session connects.
    #[must_use]
    pub const fn mode(mut self, mode: SessionMode) -> Self {
        self.mode = mode;
        self
    }
}

/// Exit of a session's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    /// The exact exit code. A session that was cut off has no exit code and fails with
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost).
    pub code: i32,
}

/// An open session. A session has one owner; its parts may be used from different tasks.
///
/// The output streams apply backpressure: a process that writes to a full stream blocks, as on a
/// pipe. Drop a stream to discard its bytes. If the session is cut off, its streams end with
/// [`Lost`](crate::ErrorKind::Lost) after the bytes that were received.
///
/// Dropping the whole session closes the connection and, with the capability `exec_signal`, ends
/// the process; the process of a session that was cut off may run until its container ends. With
/// the capability `exec_descendants`, the descendants of the process end with it; otherwise they
/// keep running.
#[non_exhaustive]
pub struct Session {
    /// Standard input, or `None` if the mode has none. Dropping it closes the input.
    pub stdin: Option<Box<dyn SessionInput>>,
    /// Standard output, or all output of a terminal.
    pub stdout: ByteStream,
    /// Standard error, or `None` on a terminal.
    pub stderr: Option<ByteStream>,
    /// Terminal size, signals and exit.
    pub control: Arc<dyn SessionControl>,
}

impl Session {
    /// Creates a session from its parts.
    #[must_use]
    pub fn new(
        stdin: Option<Box<dyn SessionInput>>,
        stdout: ByteStream,
        stderr: Option<ByteStream>,
        control: Arc<dyn SessionControl>,
    ) -> Self {
        Self { stdin, stdout, stderr, control }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("stdin", &self.stdin.is_some())
            .field("stderr", &self.stderr.is_some())
            .finish_non_exhaustive()
    }
}

/// Standard input of a session.
#[async_trait]
pub trait SessionInput: Send {
    /// Writes all of `bytes`. Waits while the peer has no buffer space.
    ///
    /// # Errors
    /// `Lost` if the session was cut off, `InvalidState` after [`close`](Self::close).
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Closes the input: the process reads end of file. Closing twice is a no-op.
    ///
    /// # Errors
    /// `Unsupported` without the capability `exec_stdin_eof`; `Lost` if the session was cut off.
    async fn close(&mut self) -> Result<()>;
}

/// Terminal size, signals and exit of a session.
#[async_trait]
pub trait SessionControl: Send + Sync {
    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// `InvalidState` if the session has no terminal or its process has ended.
    async fn resize(&self, size: TerminalSize) -> Result<()>;

    /// Sends a signal to the process. If the signal ends the process within ten seconds, the
    /// descendants of the process are killed (capability `exec_descendants`).
    ///
    /// # Errors
    /// `Unsupported` without the capability `exec_signal`; `InvalidState` if the process has ended.
    async fn signal(&self, signal: Signal) -> Result<()>;

    /// Waits for the end of the process and returns its exit. All calls return the same result.
    ///
    /// The result is available after the last output, even if the session was cut off: a stream
    /// with more output than its buffer holds has to be read or dropped first.
    ///
    /// # Errors
    /// `Lost` if the session was cut off before the exit code was received.
    async fn wait(&self) -> Result<ExecExit>;
}
