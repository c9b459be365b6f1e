//! `cargo xtask ci`: everything that a change has to pass, which is `cargo xtask check` and the
//! test command of the README.

use anyhow::{Result, ensure};

use crate::check;
use crate::guard::Stop;
use crate::workspace::{cargo, root};

/// The README has exactly this command.
const TESTS: &str = "cargo xtask test";

pub fn run() -> Result<()> {
    let stop = Stop::new()?;
    let checked = check::run(&stop);
    stop.check()?;
    // The tests run even if the check fails, so that all failures are reported at once.
    println!("== {TESTS}");
    checked.and(tests(&stop))
}

fn tests(stop: &Stop) -> Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    ensure!(
        readme.lines().any(|line| line.trim() == TESTS),
        "README.md does not name the command `{TESTS}`"
    );
    stop.run_until_cleaned_up(&mut cargo(&["xtask", "test"]))
}
