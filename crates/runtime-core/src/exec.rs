//! Sessions: running a command in a container, and talking to its main process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::{Result, Signal};

/// Bytes as they come. It ends after the first error.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// How a session is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SessionMode {
    /// Output only: the process reads end of file from its standard input.
    #[default]
    Output,
    /// Standard input as well.
    Stdin,
    /// A terminal of this first size: input and one output that carries both streams. Engines that
    /// cannot make a terminal with its size set it right after the start of the process, which
    /// then gets the signal of a resize.
    Terminal(TerminalSize),
}

/// What to run in a container, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExecOptions {
    /// The command and its arguments. It is not given to a shell.
    pub command: Vec<String>,
    /// How the session is connected.
    pub mode: SessionMode,
    /// More environment (capability `exec_env`).
    pub env: BTreeMap<String, String>,
    /// Names of variables of the container that the command does not get (capability `env_unset`).
    #[serde(default)]
    pub unset_env: BTreeSet<String>,
    /// Another user, as in [`ContainerSpec::user`](crate::ContainerSpec) (capability
    /// `exec_user`).
    pub user: Option<String>,
    /// Another folder (capability `exec_working_dir`).
    pub working_dir: Option<String>,
    /// Whether the image's own `env` and `sh` may set the environment and the folder where the
    /// engine cannot. See [`image_tools`](Self::image_tools).
    #[serde(default)]
    pub image_tools: bool,
}

impl ExecOptions {
    /// Runs `command` with its output only.
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

    /// Connects the session this way.
    #[must_use]
    pub const fn mode(mut self, mode: SessionMode) -> Self {
        self.mode = mode;
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.unset_env.remove(&name);
        self.env.insert(name, value.into());
        self
    }

    /// Removes a variable, of the container or added before.
    #[must_use]
    pub fn unset_env(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.env.remove(&name);
        self.unset_env.insert(name);
        self
    }

    /// Runs as this user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn working_dir(mut self, dir: impl Into<String>) -> Self {
        self.working_dir = Some(dir.into());
        self
    }

    /// Lets the image's own `env` and `sh` set the environment and the folder, where the engine has
    /// no way to. Otherwise that is `Unsupported`. An engine that can does it itself all the same.
    ///
    /// What fails is then told by them and not by the engine: a command that is not there ends with
    /// 127, one that cannot be run with 126, and a folder that is not there with 125. An image
    /// without them cannot run anything this way. Another user takes rights that they do not have.
    #[must_use]
    pub const fn image_tools(mut self, may: bool) -> Self {
        self.image_tools = may;
        self
    }
}

/// How to attach to the main process. The mode must be one that the container was made for, see
/// [`Interactive`](crate::Interactive).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttachOptions {
    /// How the session is connected.
    pub mode: SessionMode,
}

impl AttachOptions {
    /// Connects the session this way.
    #[must_use]
    pub const fn mode(mut self, mode: SessionMode) -> Self {
        self.mode = mode;
        self
    }
}

/// How a session's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    /// Its exit code, exact: a session that was cut off has none and is
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost).
    pub code: i32,
}

/// An open session. It belongs to one caller; its parts may be used from different tasks.
///
/// The output streams have bounded room: a process that writes to a stream that nobody reads
/// waits, as it would at a pipe. Drop a stream to throw its bytes away. In a session that was cut a
/// stream ends with [`Lost`](crate::ErrorKind::Lost), after the bytes that came. Dropping the whole
/// session closes the connection and, with the capability `exec_signal`, ends the process; that of a
/// session that was cut may go on until its container ends. With the capability `exec_descendants`,
/// the processes that it has started end with it; without it, they go on.
#[non_exhaustive]
pub struct Session {
    /// Standard input; `None` when the mode has none. Dropping it closes the input.
    pub stdin: Option<Box<dyn SessionInput>>,
    /// Standard output, or all output of a terminal.
    pub stdout: ByteStream,
    /// Standard error; `None` on a terminal.
    pub stderr: Option<ByteStream>,
    /// The rest: size, signals, exit.
    pub control: Arc<dyn SessionControl>,
}

impl Session {
    /// Puts a session together.
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

/// The standard input of a session.
#[async_trait]
pub trait SessionInput: Send {
    /// Writes all of `bytes`, waiting while the other side has no room.
    ///
    /// # Errors
    /// `Lost` when the session was cut, `InvalidState` after [`close`](Self::close).
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Ends the input: the process reads end of file. Closing twice is no error.
    ///
    /// # Errors
    /// `Unsupported` without the capability `exec_stdin_eof`; `Lost` when the session was cut.
    async fn close(&mut self) -> Result<()>;
}

/// The controls of a session.
#[async_trait]
pub trait SessionControl: Send + Sync {
    /// Tells the terminal its new size.
    ///
    /// # Errors
    /// `InvalidState` when the session has no terminal or its process has ended.
    async fn resize(&self, size: TerminalSize) -> Result<()>;

    /// Sends a signal to the process. If the process ends of it, within ten seconds, the processes
    /// that it has started are killed (capability `exec_descendants`).
    ///
    /// # Errors
    /// `Unsupported` without the capability `exec_signal`; `InvalidState` when the process has
    /// ended.
    async fn signal(&self, signal: Signal) -> Result<()>;

    /// Waits for the end of the process. Any number of calls get the same answer.
    ///
    /// The end, that of a session that was cut as well, comes after the last output: a stream with
    /// more output than it has room for has to be read, or dropped, for it to be seen.
    ///
    /// # Errors
    /// `Lost` when the session was cut before the exit code was known.
    async fn wait(&self) -> Result<ExecExit>;
}
