//! Session options.

use crate::Config;

/// Streams of a session. They must match the streams that the command was prepared with, because a
/// server waits for each of those and refuses others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Streams {
    /// stdin.
    pub stdin: bool,
    /// stdout, or the output of a terminal.
    pub stdout: bool,
    /// stderr; servers refuse it together with a terminal.
    pub stderr: bool,
    /// A terminal, which can be resized.
    pub tty: bool,
}

impl Streams {
    /// Returns no streams.
    #[must_use]
    pub const fn none() -> Self {
        Self { stdin: false, stdout: false, stderr: false, tty: false }
    }

    /// Returns stdout and stderr.
    #[must_use]
    pub const fn outputs() -> Self {
        Self { stdin: false, stdout: true, stderr: true, tty: false }
    }

    /// Returns a terminal with input and output.
    #[must_use]
    pub const fn terminal() -> Self {
        Self { stdin: true, stdout: true, stderr: false, tty: true }
    }

    /// Enables or disables stdin.
    #[must_use]
    pub const fn stdin(mut self, stdin: bool) -> Self {
        self.stdin = stdin;
        self
    }

    /// Enables or disables stdout.
    #[must_use]
    pub const fn stdout(mut self, stdout: bool) -> Self {
        self.stdout = stdout;
        self
    }

    /// Enables or disables stderr.
    #[must_use]
    pub const fn stderr(mut self, stderr: bool) -> Self {
        self.stderr = stderr;
        self
    }

    /// Enables or disables the terminal.
    #[must_use]
    pub const fn tty(mut self, tty: bool) -> Self {
        self.tty = tty;
        self
    }
}

/// Options for opening a session.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// The streams.
    pub streams: Streams,
    /// The configuration of the connection.
    pub connection: Config,
}

impl Options {
    /// Returns options for these streams with the default connection configuration.
    #[must_use]
    pub fn new(streams: Streams) -> Self {
        Self { streams, connection: Config::default() }
    }

    /// Sets the connection configuration.
    #[must_use]
    pub fn connection(mut self, connection: Config) -> Self {
        self.connection = connection;
        self
    }
}
