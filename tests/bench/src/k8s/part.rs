//! Measurements that run in a separate process.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

use super::{fleet, logs, scale};

/// Client of the lifecycle test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// This library.
    Ours,
    /// Bare kube with one GET per second and pod.
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
    /// Follows the lifecycle of many pods
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
