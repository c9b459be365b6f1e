//! Calls of kubectl, for one-time administration.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::binaries;
use super::layout::Layout;

/// A kubectl call.
#[derive(Debug)]
pub(crate) struct Call {
    command: Command,
    input: Vec<u8>,
}

/// Returns a call as administrator.
pub(crate) fn admin(layout: &Layout) -> Result<Call> {
    Call::of(layout, &layout.admin())
}

impl Call {
    /// Returns a call with this kubeconfig.
    pub(crate) fn of(layout: &Layout, kubeconfig: &Path) -> Result<Self> {
        let mut command = Command::new(binaries::find()?.path("kubectl"));
        // The user's settings and caches are not used.
        command
            .env_clear()
            .env("HOME", layout.file("home"))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--request-timeout=20s", "--cache-dir"])
            .arg(layout.file("home/cache"));
        Ok(Self { command, input: Vec::new() })
    }

    pub(crate) fn arguments<S: AsRef<OsStr>>(
        mut self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn input(mut self, input: Vec<u8>) -> Self {
        self.input = input;
        self
    }

    /// Runs the call; returns its output.
    pub(crate) fn run(mut self) -> Result<String> {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to run kubectl")?;
        let mut input = child.stdin.take().context("kubectl has no stdin")?;
        // kubectl may exit before it has read the input; its stderr is then the better error.
        let sent = input.write_all(&self.input);
        drop(input);
        let done = child.wait_with_output()?;
        anyhow::ensure!(
            done.status.success(),
            "kubectl {:?} failed ({}): {}",
            self.command.get_args().skip(5).collect::<Vec<_>>(),
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
        sent?;
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}
