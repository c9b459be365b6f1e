//! Kubernetes' own session code, in front of the API server of the cluster: for sessions it acts like a
//! current API server.
//!
//! `relay.rs` does the same without a foreign compiler, but follows this project's reading of the protocol.
//! Only this program reveals an error that the relay and the backend share.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use runtime_conformance::BoxError;

use crate::subject::kubeconfig_of;

/// Running program. It ends when this handle is dropped or this process exits.
#[derive(Debug)]
pub(crate) struct Translator {
    child: Child,
    kubeconfig: tempfile::TempPath,
}

impl Translator {
    /// Builds the program if it is missing, and starts it with the rights of a kubeconfig.
    pub(crate) fn start(kubeconfig: &Path) -> Result<Self, BoxError> {
        let mut child = Command::new(test_engines::translator()?)
            .arg("-kubeconfig")
            .arg(kubeconfig)
            // The program exits at the end of its input, also if this process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        let printed = child.stdout.take().ok_or("the translator has no output")?;
        BufReader::new(printed).read_line(&mut address)?;
        if address.is_empty() {
            return Err(format!("the translator did not start: {}", child.wait()?).into());
        }
        let kubeconfig = kubeconfig_of(address.trim())?;
        Ok(Self { child, kubeconfig })
    }

    /// Returns a kubeconfig for the program.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        // The program may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
