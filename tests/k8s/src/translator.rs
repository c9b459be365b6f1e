//! An API server of today where sessions are concerned: Kubernetes' own code for them, in front of
//! the API server of the cluster.
//!
//! `relay.rs` does the same without a compiler from elsewhere, and after our own reading of the
//! protocol: what is misread there and in the backend alike shows only here.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use runtime_conformance::BoxError;

use crate::subject::kubeconfig_of;

/// The running program. It ends with this, and with this process.
#[derive(Debug)]
pub(crate) struct Translator {
    child: Child,
    kubeconfig: tempfile::TempPath,
}

impl Translator {
    /// Builds the program where it is missing, and starts it with the rights of a kubeconfig.
    pub(crate) fn start(kubeconfig: &Path) -> Result<Self, BoxError> {
        let mut child = Command::new(test_engines::translator()?)
            .arg("-kubeconfig")
            .arg(kubeconfig)
            // The end of its input ends it: also when we are killed.
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

    /// A kubeconfig that leads to it.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
