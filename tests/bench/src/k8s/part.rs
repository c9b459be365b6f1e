//! What is measured in a process of its own.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

use super::{fleet, logs, scale};

/// How pods are followed through their lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// This library.
    Ours,
    /// A GET each second for each pod, with bare kube.
    Naive,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Reads the log of a container
    ReadLog {
        container: String,
        #[arg(long)]
        raw: bool,
    },
    /// Follows many pods through their lives
    Fleet { way: Way, pods: usize },
    /// Lists, watches and waits for all containers of the scope
    Scale { containers: usize },
}

impl Part {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            Self::ReadLog { container, raw } => logs::read_log(container, raw).await,
            Self::Fleet { way, pods } => fleet::live(way, pods).await,
            Self::Scale { containers } => scale::watch(containers).await,
        }
    }
}
