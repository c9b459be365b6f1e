//! Measurements that run in a separate process.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::{exits, fleet, logs};

#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Reads the log of a container
    ReadLog { container: String },
    /// Reads a file
    ReadFile { path: PathBuf },
    /// Lists containers and reads their stats
    Ask { containers: usize },
    /// Waits for all containers, or for none, while idle
    Idle { waiters: usize, seconds: u64 },
    /// Waits for containers, and prints the latency of each exit
    Exits {
        containers: usize,
        #[arg(long)]
        without_events: bool,
    },
}

impl Part {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            Self::ReadLog { container } => logs::read_log(&container).await,
            Self::ReadFile { path } => logs::read_file(&path),
            Self::Ask { containers } => fleet::ask(containers).await,
            Self::Idle { waiters, seconds } => fleet::idle(waiters, seconds).await,
            Self::Exits { containers, without_events } => {
                exits::measure(containers, !without_events).await
            }
        }
    }
}
