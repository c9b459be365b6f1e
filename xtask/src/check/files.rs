//! Rules for the files of the repository.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::root;

/// No tracked file names a place of the machine that it was written on.
pub fn check() -> Result<()> {
    let root = root();
    let mut private = vec![root.to_string_lossy().into_owned()];
    if let Some(home) = std::env::home_dir() {
        // The home of root is the same everywhere and stands in every container image.
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
            // Removed from the tree and not yet from the index.
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        for (number, line) in text.lines().enumerate() {
            for found in private.iter().filter(|text| line.contains(text.as_str())) {
                println!("{name}:{}: names {found}", number + 1);
                faults += 1;
            }
        }
    }
    ensure!(faults == 0, "{faults} faults");
    Ok(())
}
