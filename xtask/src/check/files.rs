//! Rules for the files of the repository.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::root;

/// Checks that no tracked file contains a path or host of this machine.
pub fn check() -> Result<()> {
    let root = root();
    let mut private = vec![root.to_string_lossy().into_owned()];
    if let Some(home) = std::env::home_dir() {
        // `/root` is the same on all machines and is part of every container image.
        private.push(home.to_string_lossy().into_owned());
    }
    private.retain(|path| path.len() > 1 && path != "/root");
    if let Ok(mirror) = test_engines::debian_mirror() {
        let host = mirror.split("//").nth(1).unwrap_or(&mirror);
        private.push(host.split('/').next().unwrap_or(host).to_owned());
    }
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(&root)
        .output()
        .context("git ls-files")?;
    ensure!(listed.status.success(), "git ls-files failed");
    let mut faults = 0;
    for name in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
        let Ok(bytes) = std::fs::read(root.join(name)) else {
            // Deleted from the tree, but not yet from the index.
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        for (number, line) in text.lines().enumerate() {
            for found in private.iter().filter(|text| line.contains(text.as_str())) {
                println!("{name}:{}: contains {found}", number + 1);
                faults += 1;
            }
        }
    }
    ensure!(faults == 0, "{faults} faults");
    Ok(())
}
