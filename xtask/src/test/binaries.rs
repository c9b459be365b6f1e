//! The test programs of a package, built once and run for every engine.

use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Message;

use super::guard::Guard;
use crate::workspace::{cargo, metadata};

/// One test program.
#[derive(Debug)]
pub struct Binary {
    /// The name of its target.
    pub name: String,
    path: PathBuf,
    folder: PathBuf,
}

impl Binary {
    /// A command that runs it as `cargo test` would.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }
}

/// Builds the test programs of a package.
pub fn build(guard: &Guard, package: &str) -> Result<Vec<Binary>> {
    let metadata = metadata(&[])?;
    let folder = metadata
        .workspace_packages()
        .iter()
        .find(|candidate| candidate.name == package)
        .and_then(|found| found.manifest_path.parent())
        .map(|folder| folder.as_std_path().to_owned())
        .with_context(|| format!("there is no package {package}"))?;
    let mut child = cargo(&[
        "test",
        "-p",
        package,
        "--tests",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ])
    .stdout(Stdio::piped())
    .spawn()?;
    let output = child.stdout.take().context("no output")?;
    let mut binaries = Vec::new();
    for message in Message::parse_stream(BufReader::new(output)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.profile.test
            && let Some(path) = artifact.executable
        {
            binaries.push(Binary {
                name: artifact.target.name,
                path: path.into_std_path_buf(),
                folder: folder.clone(),
            });
        }
    }
    ensure!(guard.wait(child)?, "{package} does not build");
    ensure!(!binaries.is_empty(), "{package} has no tests");
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(binaries)
}
