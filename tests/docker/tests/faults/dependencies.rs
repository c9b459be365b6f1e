//! Who depends on this backend depends on no other.

use std::process::Command;

use super::support::Outcome;

#[test]
fn no_kube_and_no_tonic() -> Outcome {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "-p", "runtime-docker", "--edges", "normal,build", "--prefix", "none"])
        .args(["--all-features", "--offline", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let text = String::from_utf8(tree.stdout)?;
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    assert!(text.contains("bollard v"), "this is no tree: {text}");
    let foreign = ["kube", "k8s-openapi", "tonic", "prost"];
    for line in text.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let found = foreign.iter().any(|foreign| {
            name == *foreign || name.strip_prefix(foreign).is_some_and(|rest| rest.starts_with('-'))
        });
        assert!(!found, "runtime-docker depends on {line}");
    }
    Ok(())
}
