//! `cargo xtask readme`: the generated parts of the documents.
//!
//! The first program of README.md is an example of `runtime-docker`, which is compiled. The table in
//! `docs/capabilities.md` contains the capabilities that real engines reported to the conformance
//! suite.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use runtime_core::{Capabilities, Capability};
use serde::{Deserialize, Serialize};

use crate::workspace;

/// Writes the generated parts of the documents.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Changes nothing, and fails if a document is not up to date
    #[arg(long)]
    check: bool,
}

/// The capabilities of each engine, as it reported them. The file is kept in the repository, so that
/// a run on some of the engines does not change the columns of the others.
const DATA: &str = "docs/capabilities.json";
const EXAMPLE: &str = "crates/runtime-docker/examples/first.rs";

/// The generated part of a document: its text replaces what stands between the two marks.
struct Part {
    document: &'static str,
    begin: &'static str,
    end: &'static str,
    text: String,
}

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

/// The part of a conformance report that is read.
#[derive(Debug, Deserialize)]
struct Report {
    engine: String,
    version: String,
    capabilities: Capabilities,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root();
    for part in parts(&root, &read_columns(&root)?)? {
        let path = root.join(part.document);
        let current = fs::read_to_string(&path)
            .with_context(|| format!("failed to read {}", part.document))?;
        let made = part.replace_in(&current)?;
        if current == made {
            continue;
        }
        if arguments.check {
            bail!("{} is not up to date: run `cargo xtask readme`", part.document);
        }
        fs::write(&path, made).with_context(|| format!("failed to write {}", part.document))?;
    }
    Ok(())
}

/// Stores the capabilities of these conformance reports. With `check` it changes nothing, and fails if
/// an engine reports other capabilities than the stored ones.
pub(crate) fn take_reports(reports: &[impl AsRef<Path>], check: bool) -> Result<()> {
    let root = workspace::root();
    let mut columns = read_columns(&root)?;
    for path in reports {
        let path = path.as_ref();
        let report: Report = serde_json::from_slice(&fs::read(path)?)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let Report { engine, version, capabilities } = report;
        if !ORDER.contains(&engine.as_str()) {
            continue;
        }
        let column = Column { version, capabilities };
        let known = columns.get(&engine).map(|known| &known.capabilities);
        if check && known != Some(&column.capabilities) {
            bail!(
                "{engine} reports other capabilities than {DATA}: run `cargo xtask test --write-readme`"
            );
        }
        columns.insert(engine, column);
    }
    if check {
        return run(&Arguments { check: true });
    }
    let path = root.join(DATA);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&path, serde_json::to_string_pretty(&columns)? + "\n")?;
    run(&Arguments { check: false })
}

fn read_columns(root: &Path) -> Result<Columns> {
    match fs::read(root.join(DATA)) {
        Ok(data) => serde_json::from_slice(&data).with_context(|| format!("failed to read {DATA}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Columns::new()),
        Err(error) => Err(error).with_context(|| format!("failed to read {DATA}")),
    }
}

fn parts(root: &Path, columns: &Columns) -> Result<Vec<Part>> {
    let example = fs::read_to_string(root.join(EXAMPLE))
        .with_context(|| format!("failed to read {EXAMPLE}"))?;
    Ok(vec![
        Part {
            document: "README.md",
            begin: "<!-- first-program:begin -->\n",
            end: "<!-- first-program:end -->",
            text: format!("```rust\n{example}```\n"),
        },
        Part {
            document: "docs/capabilities.md",
            begin: "<!-- capabilities:begin -->\n",
            end: "<!-- capabilities:end -->",
            text: table(columns),
        },
    ])
}

impl Part {
    /// Returns `text` with this part in it.
    fn replace_in(&self, text: &str) -> Result<String> {
        let Self { document, begin, end, text: part } = self;
        let missing = |mark: &str| format!("{document} has no {}", mark.trim_end());
        let (before, rest) = text.split_once(begin).with_context(|| missing(begin))?;
        let (_, after) = rest.split_once(end).with_context(|| missing(end))?;
        Ok(format!("{before}{begin}{part}{end}{after}"))
    }
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
