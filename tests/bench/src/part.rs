//! Measurements in separate processes, which return their results as lines of JSON.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::{cri, fleet, k8s, logs};

/// Measured client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientKind {
    /// This library.
    Ours,
    /// Bare bollard.
    Bare,
}

impl ClientKind {
    pub(crate) const BOTH: [Self; 2] = [Self::Ours, Self::Bare];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Bare => "bare bollard",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Reads the log of a container
    ReadLog { way: logs::Way, host: String, container: String },
    /// Follows the logs of containers
    Follow { who: ClientKind, host: String, followers: usize, containers: Vec<String> },
    /// Lists containers with their info
    List { who: ClientKind, host: String },
    /// Reads the stats of containers
    Stats { who: ClientKind, host: String, containers: Vec<String> },
    /// Waits for containers
    Wait { who: ClientKind, host: String, containers: Vec<String> },
    /// The parts of the CRI bench
    #[command(subcommand)]
    Cri(cri::Part),
    /// The parts of the Kubernetes bench
    #[command(subcommand)]
    K8s(k8s::Part),
}

impl Part {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            Self::ReadLog { way, host, container } => logs::read(way, &host, &container).await,
            Self::Follow { who, host, followers, containers } => {
                fleet::follow(who, &host, followers, &containers).await
            }
            Self::List { who, host } => fleet::list(who, &host).await,
            Self::Stats { who, host, containers } => fleet::stats(who, &host, &containers).await,
            Self::Wait { who, host, containers } => fleet::wait(who, &host, &containers).await,
            Self::Cri(part) => part.run().await,
            Self::K8s(part) => part.run().await,
        }
    }
}

/// Prints a result for the parent process.
pub(crate) fn report(figure: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(figure)?);
    Ok(())
}

/// A running part.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("part").kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped());
        for argument in arguments {
            command.arg(argument.as_ref());
        }
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("the part has no stdout")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    /// Returns the next result.
    pub(crate) async fn figure<T: DeserializeOwned>(&mut self) -> Result<T> {
        match self.lines.next_line().await? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => bail!("the part ended without a result: {}", self.child.wait().await?),
        }
    }
}
