//! Test programs of the workspace, built once and run for every engine.

use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use cargo_metadata::{Message, Target, TargetKind};

use crate::guard::Stop;
use crate::workspace::{cargo, metadata};

/// A test program.
#[derive(Debug)]
pub struct Binary {
    pub package: String,
    /// The target's name.
    pub name: String,
    /// Set if the program is in `tests/` of its package.
    pub is_integration: bool,
    path: PathBuf,
    directory: PathBuf,
}

impl Binary {
    /// Returns a command that runs the program like `cargo test` does.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory);
        command
    }
}

/// Built programs, and whether all were built.
#[derive(Debug)]
pub struct Build {
    pub binaries: Vec<Binary>,
    pub complete: bool,
}

/// Selects all test programs.
pub const ALL: fn(&Target, &str) -> bool = |_, _| true;

/// Builds test programs with one cargo command, because separate commands per package would select
/// other features of the dependencies and rebuild them. `wanted` selects integration tests by
/// target and package.
pub fn build(stop: &Stop, wanted: fn(&Target, &str) -> bool) -> Result<Build> {
    let metadata = metadata(&[])?;
    let mut command = cargo(&[
        "test",
        "--workspace",
        "--all-features",
        "--no-run",
        // A package that fails to build does not prevent the tests of others.
        "--no-fail-fast",
        "--message-format=json-render-diagnostics",
    ]);
    let integration = metadata.workspace_packages().into_iter().flat_map(|package| {
        let tests = package.targets.iter().filter(|target| target.kind.contains(&TargetKind::Test));
        tests.map(|target| (target, wanted(target, &package.name)))
    });
    let (chosen, others): (Vec<_>, Vec<_>) = integration.partition(|(_, is_wanted)| *is_wanted);
    if !others.is_empty() {
        command.args(["--lib", "--bins"]);
        command.args(chosen.iter().flat_map(|(target, _)| ["--test", target.name.as_str()]));
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut binaries = Vec::new();
    for message in Message::parse_stream(BufReader::new(output)) {
        let Message::CompilerArtifact(artifact) = message? else {
            continue;
        };
        let package = metadata.packages.iter().find(|package| package.id == artifact.package_id);
        if let (true, Some(path), Some(package)) =
            (artifact.profile.test, artifact.executable, package)
        {
            let directory =
                package.manifest_path.parent().context("the manifest has no directory")?;
            binaries.push(Binary {
                package: package.name.to_string(),
                name: artifact.target.name,
                is_integration: artifact.target.kind.contains(&TargetKind::Test),
                path: path.into_std_path_buf(),
                directory: directory.as_std_path().to_owned(),
            });
        }
    }
    let mut complete = stop.wait(child)?;
    // The CLI tests would build the CLI while their engine waits.
    if complete && others.is_empty() {
        let mut command = cargo(&["build", "--workspace", "--all-features", "--bin", "runtime"]);
        complete = stop.wait(command.spawn()?)?;
    }
    binaries.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    Ok(Build { binaries, complete })
}
