//! What cargo knows about the workspace, and running cargo itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cargo_metadata::{CargoOpt, Metadata, MetadataCommand};

/// The folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// The packages and how they depend on each other, with all features, for these targets.
pub fn metadata(targets: &[String]) -> Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.current_dir(root()).features(CargoOpt::AllFeatures).other_options(
        targets.iter().map(|target| format!("--filter-platform={target}")).collect::<Vec<_>>(),
    );
    command.exec().context("cargo metadata")
}

/// A cargo command in the workspace, by the cargo that runs us.
///
/// That cargo has told us of our own package in the environment. The build of a dependency looks at
/// such variables (ring's does), and all that depends on it would be built again each time that a
/// build comes from here after one from a shell.
pub fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let is_ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if is_ours {
            command.env_remove(name);
        }
    }
    command
}
