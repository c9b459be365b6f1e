//! Kubernetes' own command line, for what is done once: it is there, and it knows the API.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::binaries;
use super::layout::Layout;

/// One call.
#[derive(Debug)]
pub(crate) struct Call {
    command: Command,
    input: Vec<u8>,
}

/// A call by the administrator.
pub(crate) fn admin(layout: &Layout) -> Result<Call> {
    Call::of(layout, &layout.admin())
}

impl Call {
    /// A call by whoever this file is of.
    pub(crate) fn of(layout: &Layout, kubeconfig: &Path) -> Result<Self> {
        let mut command = Command::new(binaries::find()?.path("kubectl"));
        // Nothing of the user's own settings and caches.
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

    /// Runs it and gives what it printed.
    pub(crate) fn run(mut self) -> Result<String> {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        let mut input = child.stdin.take().context("no standard input")?;
        // It may end without having read everything; its own words say more than our error.
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
