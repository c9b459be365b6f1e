//! The parts of `deny.toml` that this program checks.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::workspace::root;

#[derive(Debug, Deserialize)]
pub struct Policy {
    pub graph: Graph,
    pub licenses: Licenses,
    pub bans: Bans,
}

#[derive(Debug, Deserialize)]
pub struct Graph {
    pub targets: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Licenses {
    pub allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Bans {
    pub skip: Vec<Skip>,
}

/// An accepted second version of a crate.
#[derive(Debug, Deserialize)]
pub struct Skip {
    #[serde(rename = "crate")]
    pub package: String,
    pub reason: String,
}

impl Policy {
    pub fn read() -> Result<Self> {
        let text = std::fs::read_to_string(root().join("deny.toml"))?;
        toml::from_str(&text).context("deny.toml")
    }
}
