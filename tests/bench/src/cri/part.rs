//! What is measured in a process of its own.

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
    /// Lists containers, and measures them
    Ask { containers: usize },
    /// Waits for all containers, or for none, while nothing happens
    Idle { waiters: usize, seconds: u64 },
    /// Waits for so many containers, and says when each wait returned after its exit
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
