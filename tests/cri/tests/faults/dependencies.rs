//! Who depends on this backend depends on no other.

use std::process::Command;

use super::support::Outcome;

#[test]
fn no_kube_and_no_bollard() -> Outcome {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "-p", "runtime-cri", "--edges", "normal,build", "--prefix", "none"])
        .args(["--all-features", "--offline", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let text = String::from_utf8(tree.stdout)?;
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    assert!(text.contains("tonic v"), "this is no tree: {text}");
    // Nor what takes a compiler of protocol files, or TLS that a Unix socket has no use for.
    let foreign = ["kube", "k8s-openapi", "bollard", "prost-build", "protox", "rustls", "axum"];
    for line in text.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let found = foreign.iter().any(|foreign| {
            name == *foreign || name.strip_prefix(foreign).is_some_and(|rest| rest.starts_with('-'))
        });
        assert!(!found, "runtime-cri depends on {line}");
    }
    Ok(())
}
