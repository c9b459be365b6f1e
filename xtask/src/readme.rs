//! `cargo xtask readme`: the parts of README.md that are made and not typed.
//!
//! The table of capabilities comes from what real engines answered when the conformance suite
//! ran on them, the first program from the example that is compiled, the Role from the manifest that
//! the tests are bound to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use runtime_core::{Capabilities, Capability};
use serde::{Deserialize, Serialize};

use crate::workspace;

/// Writes the generated parts of README.md anew.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only say whether they are in step
    #[arg(long)]
    check: bool,
}

/// What the engines answered, one column of the table each. It is kept in the repository, so that
/// a run on some of the engines leaves the columns of the others as they are.
const DATA: &str = "docs/capabilities.json";
const README: &str = "README.md";
const EXAMPLE: &str = "crates/runtime-docker/examples/first.rs";
const ROLE: &str = "crates/runtime-k8s/role.yaml";
const TABLE: (&str, &str) = ("<!-- capabilities:begin -->\n", "<!-- capabilities:end -->");
const PROGRAM: (&str, &str) = ("<!-- first-program:begin -->\n", "<!-- first-program:end -->");
const RIGHTS: (&str, &str) = ("<!-- role:begin -->\n", "<!-- role:end -->");

/// The engines of the table, in its order.
const ORDER: &[&str] = &[
    "docker",
    "docker-26",
    "docker-28",
    "podman",
    "podman-54",
    "podman-58",
    "containerd",
    "containerd-17",
    "containerd-21",
    "kubernetes",
    "kubernetes-node",
];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Column {
    version: String,
    capabilities: Capabilities,
}

type Columns = BTreeMap<String, Column>;

/// The part of a conformance report that is read here.
#[derive(Debug, Deserialize)]
struct Report {
    engine: String,
    version: String,
    capabilities: Capabilities,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root();
    let columns = read_columns(&root)?;
    let made = render(&root, &columns)?;
    let path = root.join(README);
    if fs::read_to_string(&path)? == made {
        return Ok(());
    }
    if arguments.check {
        bail!("{README} is not in step: run `cargo xtask readme`");
    }
    fs::write(&path, made).with_context(|| format!("writing {README}"))
}

/// Takes what the engines of these reports answered. With `check` it changes nothing and fails
/// where an engine answers otherwise than the table says.
pub(crate) fn take_reports(reports: &[impl AsRef<Path>], check: bool) -> Result<()> {
    let root = workspace::root();
    let mut columns = read_columns(&root)?;
    for path in reports {
        let path = path.as_ref();
        let report: Report = serde_json::from_slice(&fs::read(path)?)
            .with_context(|| format!("reading {}", path.display()))?;
        let Report { engine, version, capabilities } = report;
        if !ORDER.contains(&engine.as_str()) {
            continue;
        }
        let column = Column { version, capabilities };
        let known = columns.get(&engine).map(|known| &known.capabilities);
        if check && known != Some(&column.capabilities) {
            bail!(
                "{engine} answers other capabilities than {DATA} says: run `cargo xtask test --write-readme`"
            );
        }
        columns.insert(engine, column);
    }
    if check {
        return run(&Arguments { check: true });
    }
    let path = root.join(DATA);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, serde_json::to_string_pretty(&columns)? + "\n")?;
    run(&Arguments { check: false })
}

fn read_columns(root: &Path) -> Result<Columns> {
    match fs::read(root.join(DATA)) {
        Ok(data) => serde_json::from_slice(&data).with_context(|| format!("reading {DATA}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Columns::new()),
        Err(error) => Err(error).with_context(|| format!("reading {DATA}")),
    }
}

fn render(root: &Path, columns: &Columns) -> Result<String> {
    let readme = fs::read_to_string(root.join(README))?;
    let example = fs::read_to_string(root.join(EXAMPLE))?;
    let role = fs::read_to_string(root.join(ROLE))?;
    let readme = replace(&readme, TABLE, &table(columns))?;
    let readme = replace(&readme, RIGHTS, &format!("```yaml\n{role}```\n"))?;
    replace(&readme, PROGRAM, &format!("```rust\n{example}```\n"))
}

fn replace(text: &str, (begin, end): (&str, &str), with: &str) -> Result<String> {
    let (before, rest) =
        text.split_once(begin).with_context(|| format!("{README} has no {begin:?}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("{README} has no {end:?}"))?;
    Ok(format!("{before}{begin}{with}{end}{after}"))
}

fn table(columns: &Columns) -> String {
    let shown: Vec<(&str, &Column)> =
        ORDER.iter().filter_map(|name| columns.get(*name).map(|column| (*name, column))).collect();
    let mut table = String::from("| capability | what it means |");
    for (name, column) in &shown {
        let _ = write!(table, " {name} {} |", column.version);
    }
    table.push_str("\n|---|---|");
    table.push_str(&"---|".repeat(shown.len()));
    table.push('\n');
    for capability in Capability::ALL {
        let _ = write!(table, "| `{}` | {} |", capability.name(), capability.description());
        for (_, column) in &shown {
            let word = if column.capabilities.has(*capability) { "yes" } else { "no" };
            let _ = write!(table, " {word} |");
        }
        table.push('\n');
    }
    table
}
