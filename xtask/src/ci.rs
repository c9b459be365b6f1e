//! `cargo xtask ci`: all that a change has to pass, which is `cargo xtask check` and then the command
//! that the README names.

use anyhow::{Result, ensure};

use crate::check;
use crate::guard::Stop;
use crate::workspace::{cargo, root};

/// The README tells its readers to run exactly this.
const TESTS: &str = "cargo xtask test";

pub fn run() -> Result<()> {
    let stop = Stop::new()?;
    let checked = check::run(&stop);
    stop.check()?;
    // The tests run after a failed check too: all faults are shown at once.
    println!("== {TESTS}");
    checked.and(tests(&stop))
}

fn tests(stop: &Stop) -> Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    ensure!(
        readme.lines().any(|line| line.trim() == TESTS),
        "README.md does not name the command `{TESTS}`"
    );
    stop.run_to_its_end(&mut cargo(&["xtask", "test"]))
}
