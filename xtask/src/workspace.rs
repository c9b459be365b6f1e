//! The workspace's metadata and cargo commands.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cargo_metadata::{CargoOpt, Metadata, MetadataCommand};

/// Returns the workspace directory.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// Returns the packages and their dependencies with all features, for these targets.
pub fn metadata(targets: &[String]) -> Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.current_dir(root()).features(CargoOpt::AllFeatures).other_options(
        targets.iter().map(|target| format!("--filter-platform={target}")).collect::<Vec<_>>(),
    );
    command.exec().context("cargo metadata")
}

/// Returns a command that runs cargo in the workspace, with the cargo that runs this program.
///
/// cargo has set variables with the metadata of this package. Build scripts of dependencies read
/// such variables (ring's does), so passing them on would rebuild all dependent packages whenever
/// builds from here and from a shell alternate.
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
