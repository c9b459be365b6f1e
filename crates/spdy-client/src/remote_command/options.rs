//! What a session is made of.

use crate::Config;

/// Which streams a session has. They have to be the ones that the command was prepared with: a
/// server waits for each of them, and refuses others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output, or the output of a terminal.
    pub stdout: bool,
    /// Standard error; servers refuse it together with a terminal.
    pub stderr: bool,
    /// A terminal, whose size can be changed.
    pub tty: bool,
}

impl Streams {
    /// None of them.
    #[must_use]
    pub const fn none() -> Self {
        Self { stdin: false, stdout: false, stderr: false, tty: false }
    }

    /// Standard output and standard error.
    #[must_use]
    pub const fn outputs() -> Self {
        Self { stdin: false, stdout: true, stderr: true, tty: false }
    }

    /// A terminal with its input and its output.
    #[must_use]
    pub const fn terminal() -> Self {
        Self { stdin: true, stdout: true, stderr: false, tty: true }
    }

    /// With standard input, or without.
    #[must_use]
    pub const fn stdin(mut self, stdin: bool) -> Self {
        self.stdin = stdin;
        self
    }

    /// With standard output, or without.
    #[must_use]
    pub const fn stdout(mut self, stdout: bool) -> Self {
        self.stdout = stdout;
        self
    }

    /// With standard error, or without.
    #[must_use]
    pub const fn stderr(mut self, stderr: bool) -> Self {
        self.stderr = stderr;
        self
    }

    /// With a terminal, or without.
    #[must_use]
    pub const fn tty(mut self, tty: bool) -> Self {
        self.tty = tty;
        self
    }
}

/// How to open a session.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// Its streams.
    pub streams: Streams,
    /// The settings of the connection.
    pub connection: Config,
}

impl Options {
    /// These streams, over a connection with the usual settings.
    #[must_use]
    pub fn new(streams: Streams) -> Self {
        Self { streams, connection: Config::default() }
    }

    /// Other settings for the connection.
    #[must_use]
    pub fn connection(mut self, connection: Config) -> Self {
        self.connection = connection;
        self
    }
}
