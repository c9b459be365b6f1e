//! Raw access to an engine without the code under test, through containerd's own tool.

use std::path::PathBuf;
use std::process::Command;

use runtime_conformance::BoxError;

/// Raw client of an engine.
#[derive(Debug, Clone)]
pub struct Raw {
    socket: PathBuf,
}

impl Raw {
    /// Creates a client for the engine at `endpoint`, in the form of `CONTAINER_RUNTIME_ENDPOINT`.
    #[must_use]
    pub fn new(endpoint: &str) -> Self {
        Self { socket: endpoint.trim_start_matches("unix://").into() }
    }

    /// Runs `ctr` with these arguments and returns its output.
    ///
    /// # Errors
    /// If `ctr` cannot be run, or fails.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String, BoxError> {
        let done = Command::new("ctr")
            .args(["--connect-timeout", "10s", "--namespace", "k8s.io", "--address"])
            .arg(&self.socket)
            .args(arguments)
            .output()?;
        if !done.status.success() {
            let words = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(format!("ctr {}: {words}", arguments.join(" ")).into());
        }
        Ok(String::from_utf8(done.stdout)?)
    }

    /// Returns the containers and sandboxes with these labels, in any state.
    ///
    /// # Errors
    /// If the engine cannot be reached or refuses the request.
    pub fn containers(&self, labels: &[(&str, &str)]) -> Result<Vec<String>, BoxError> {
        let filters: Vec<_> =
            labels.iter().map(|(key, value)| format!("labels.\"{key}\"=={value}")).collect();
        let listed = self.ctr(&["containers", "list", "--quiet", &filters.join(",")])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// Removes an image under all of its names; an absent image is ignored.
    ///
    /// # Errors
    /// If the engine cannot be reached.
    pub fn remove_image(&self, reference: &str) -> Result<(), BoxError> {
        let listed = self.ctr(&["images", "list"])?;
        let images: Vec<Vec<&str>> =
            listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        let Some(image) = images.iter().find(|image| image.first() == Some(&reference)) else {
            return Ok(());
        };
        let digest = image.get(2).copied();
        for image in images.iter().filter(|image| image.get(2).copied() == digest) {
            if let Some(name) = image.first() {
                self.ctr(&["images", "remove", "--sync", name])?;
            }
        }
        Ok(())
    }
}
