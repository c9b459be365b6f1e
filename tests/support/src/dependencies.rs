//! Dependencies of a backend.

use std::process::Command;

use crate::Outcome;

/// Asserts that a dependency on `package` with all features includes `own`, and nothing of
/// `foreign`: neither a package of that name nor a part of it, such as `kube-core` of `kube`.
///
/// # Errors
/// If cargo fails to run.
///
/// # Panics
/// If a foreign package is included.
pub fn brings_along(package: &str, own: &str, foreign: &[&str]) -> Outcome {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "-p", package, "--edges", "normal,build", "--prefix", "none"])
        .args(["--all-features", "--offline", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let text = String::from_utf8(tree.stdout)?;
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    assert!(text.contains(&format!("{own} v")), "invalid dependency tree: {text}");
    for line in text.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let found = foreign.iter().any(|foreign| {
            name == *foreign || name.strip_prefix(foreign).is_some_and(|rest| rest.starts_with('-'))
        });
        assert!(!found, "{package} depends on {line}");
    }
    Ok(())
}
