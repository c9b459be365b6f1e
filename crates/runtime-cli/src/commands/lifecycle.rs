//! `stop`, `kill`, `rm`, `wait` and `reap`.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use runtime_core::{
    ContainerExt, ContainerStatus, ErrorKind, ReapOptions, Runtime, Signal, StopOptions,
};
use serde_json::json;

use super::each;
use crate::cli::{Kill, Reap, Rm, Stop, Wait};
use crate::exit_code::code_of_exit;
use crate::format::{Format, print};
use crate::resolve::{self, Filters};
use crate::{style, units};

/// `runtime stop`.
pub(crate) async fn stop(runtime: Arc<dyn Runtime>, arguments: Stop) -> Result<u8> {
    let mut options = StopOptions::default();
    if let Some(seconds) = arguments.time {
        options = options.grace(Duration::try_from_secs_f64(seconds).context("--time")?);
    }
    // Concurrently, because several graces would add up.
    let stops = arguments.containers.iter().map(async |name| {
        let stopped = async {
            resolve::container(&*runtime, name).await?.stop(options.clone()).await?;
            Ok::<_, anyhow::Error>(())
        };
        (name, stopped.await)
    });
    let mut failed = false;
    for (name, stopped) in futures_util::future::join_all(stops).await {
        match stopped {
            Ok(()) => print(&format!("{name}\n"))?,
            Err(error) => {
                style::print_error(&error);
                failed = true;
            }
        }
    }
    Ok(u8::from(failed))
}

/// `runtime kill`.
pub(crate) async fn kill(runtime: Arc<dyn Runtime>, arguments: Kill) -> Result<u8> {
    let signal: Signal = arguments.signal.parse()?;
    let kill =
        async |name: &str| Ok(resolve::container(&*runtime, name).await?.kill(signal).await?);
    each(&arguments.containers, kill, |name, ()| print(&format!("{name}\n"))).await
}

/// `runtime rm`.
pub(crate) async fn rm(runtime: Arc<dyn Runtime>, arguments: Rm) -> Result<u8> {
    let remove = async |name: &str| {
        let listed = match resolve::listed(&*runtime, name).await {
            Err(error) if arguments.force && is_not_found(&error) => return Ok(()),
            listed => listed?,
        };
        if !arguments.force && listed.info.status == ContainerStatus::Running {
            bail!("{name} is running: stop it first, or kill and remove it with -f");
        }
        Ok(listed.container.ensure_removed().await?)
    };
    each(&arguments.containers, remove, |name, ()| print(&format!("{name}\n"))).await
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<runtime_core::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// `runtime wait`.
pub(crate) async fn wait(runtime: Arc<dyn Runtime>, arguments: Wait) -> Result<u8> {
    let format = Format::without_table(arguments.format.as_deref())?;
    let wait = async |name: &str| {
        let exit = resolve::container(&*runtime, name).await?.wait().await?;
        // A code of ours would pass for its own.
        if format.is_none() && exit.code.is_none() {
            bail!("{name} has no exit code: {exit}");
        }
        Ok(exit)
    };
    each(&arguments.containers, wait, |name, exit| match &format {
        None => print(&format!("{}\n", code_of_exit(&exit))),
        Some(format) => {
            let mut value = serde_json::to_value(&exit)?;
            value["container"] = json!(name);
            value["ended_at"] = json!(exit.ended_at.map(units::rfc3339));
            print(&format.render(&[], [(value, Vec::new())])?)
        }
    })
    .await
}

/// `runtime reap`.
pub(crate) async fn reap(runtime: Arc<dyn Runtime>, arguments: Reap) -> Result<u8> {
    let mut options = ReapOptions::default();
    options.older_than = units::duration(&arguments.older_than)?;
    options.labels = Filters::parse(&arguments.filter, &[])?.labels;
    if !arguments.force && !confirmed(runtime.scope().as_str(), &arguments.older_than).await? {
        return Ok(1);
    }
    let report = runtime.reap(options).await?;
    let mut text = String::new();
    for id in &report.removed {
        text.push_str(&format!("{id}\n"));
    }
    for other in &report.others {
        text.push_str(&format!("{other}\n"));
    }
    print(&text)?;
    for (id, why) in &report.failed {
        style::note(format_args!("{id} was not removed: {why}"));
    }
    Ok(u8::from(!report.failed.is_empty()))
}

/// Prompts for confirmation on the terminal. Scripts pass -f.
async fn confirmed(scope: &str, age: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("this removes containers, running ones too: use -f without a terminal");
    }
    let mut stderr = std::io::stderr();
    write!(
        stderr,
        "Remove all containers of the scope {scope:?} that are older than {age}? [y/N] "
    )?;
    stderr.flush()?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    Ok(matches!(answer.await??.trim(), "y" | "Y" | "yes"))
}
