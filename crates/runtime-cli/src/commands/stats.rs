//! `stats` and `top`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::join_all;
use runtime_core::{
    ContainerId, ContainerStats, ContainerStatus, ErrorKind, ExecOptions, ListOptions, Listed,
    Runtime, TerminalSize,
};
use serde_json::{Value, json};

use crate::cli::{Stats, Top};
use crate::exit_code::killed_by;
use crate::format::{Format, print};
use crate::resolve;
use crate::session::{self, Ended, Then};
use crate::signals::Signals;
use crate::{style, terminal, units};

/// Refresh interval of a live table.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

const COLUMN_NAMES: [&str; 7] =
    ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE", "MEM %", "NET I/O", "BLOCK I/O"];

/// `runtime stats`.
pub(crate) async fn stats(runtime: Arc<dyn Runtime>, arguments: Stats) -> Result<u8> {
    let format = Format::parse(arguments.format.as_deref())?;
    let table = Table { runtime, names: arguments.containers, format, busiest_first: false };
    table.show(arguments.no_stream).await
}

/// `runtime top`.
pub(crate) async fn top(runtime: Arc<dyn Runtime>, arguments: Top) -> Result<u8> {
    if let Some((name, options)) = arguments.words.split_first() {
        return processes(&*runtime, name, options).await;
    }
    let table = Table { runtime, names: Vec::new(), format: Format::Table, busiest_first: true };
    table.show(arguments.no_stream).await
}

/// Lists the processes of a container with the `ps` of its image.
async fn processes(runtime: &dyn Runtime, name: &str, options: &[String]) -> Result<u8> {
    let mut signals = Signals::listen()?;
    let container = resolve::container(runtime, name).await?;
    let command = std::iter::once("ps".to_owned()).chain(options.iter().cloned());
    let session = match container.exec(ExecOptions::new(command)).await {
        Err(error)
            if error.kind() == ErrorKind::InvalidArgument && error.field() == Some("command") =>
        {
            bail!("the image of {name} has no `ps`: {error}");
        }
        session => session?,
    };
    let control = session.control.clone();
    let ended = session::relay(session, false, &mut signals, async |_| Then::End).await?;
    match ended {
        Ended::Output => Ok(u8::try_from(control.wait().await?.code & 0xff).unwrap_or(1)),
        Ended::NoReader => Ok(killed_by(13)),
        Ended::Signal(signal) => Ok(killed_by(signal.number())),
    }
}

struct Table {
    runtime: Arc<dyn Runtime>,
    names: Vec<String>,
    format: Format,
    busiest_first: bool,
}

impl Table {
    async fn show(&self, once: bool) -> Result<u8> {
        let mut signals = Signals::listen()?;
        let work = async {
            // The first sample has no CPU percentage.
            self.sample().await?;
            let mut ticks = tokio::time::interval(REFRESH_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            ticks.tick().await;
            let live = terminal::on_stdout() && matches!(self.format, Format::Table);
            loop {
                ticks.tick().await;
                let text = self.text(self.sample().await?)?;
                if live && !once {
                    // Moves the cursor home, clears each line to its end, and clears everything
                    // below.
                    let text = terminal::size().map_or(&*text, |size| fitting(&text, size));
                    print(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))?;
                } else {
                    print(&text)?;
                }
                if once {
                    return Ok::<_, anyhow::Error>(0);
                }
            }
        };
        let live = terminal::on_stdout() && !once;
        if live && matches!(self.format, Format::Table) {
            print("\x1b[2J\x1b[H")?;
        }
        tokio::select! {
            done = work => done,
            signal = signals.end() => Ok(killed_by(signal.number())),
        }
    }

    async fn sample(&self) -> Result<Vec<(Listed, Option<ContainerStats>)>> {
        let mut listed = match self.names.is_empty() {
            true => self.runtime.list_containers(ListOptions::default()).await?,
            false => {
                let found = self.names.iter().map(|name| resolve::listed(&*self.runtime, name));
                join_all(found).await.into_iter().collect::<Result<_>>()?
            }
        };
        // A container that was given by name is listed without values.
        let runs = |listed: &Listed| listed.info.status == ContainerStatus::Running;
        listed.retain(|listed| !self.names.is_empty() || runs(listed));
        let mut known: HashMap<ContainerId, ContainerStats> = HashMap::new();
        if self.runtime.capabilities().bulk_stats {
            let running = listed.iter().filter(|listed| runs(listed));
            let ids: Vec<_> = running.map(|listed| listed.info.id.clone()).collect();
            known.extend(self.runtime.stats(&ids).await?);
        } else {
            let each = listed.iter().filter(|listed| runs(listed)).map(async |listed| {
                let stats = listed.container.stats_once().await;
                (listed.info.id.clone(), stats)
            });
            for (id, stats) in join_all(each).await {
                match stats {
                    Ok(stats) => drop(known.insert(id, stats)),
                    // The container has just exited.
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::NotFound | ErrorKind::InvalidState | ErrorKind::NotStarted
                        ) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(listed
            .into_iter()
            .map(|listed| {
                let stats = known.remove(&listed.info.id);
                (listed, stats)
            })
            .collect())
    }

    fn text(&self, mut rows: Vec<(Listed, Option<ContainerStats>)>) -> Result<String> {
        if self.busiest_first {
            let cpu = |stats: &Option<ContainerStats>| {
                stats.as_ref().and_then(|stats| stats.cpu_percent).unwrap_or(-1.0)
            };
            rows.sort_by(|(_, a), (_, b)| cpu(b).total_cmp(&cpu(a)));
        } else {
            rows.sort_by(|(a, _), (b, _)| a.info.name.cmp(&b.info.name));
        }
        self.format
            .render(&COLUMN_NAMES, rows.iter().map(|(listed, stats)| row(listed, stats.as_ref())))
    }
}

/// Returns as many lines as the window shows, with room for the cursor below. A line that is wider
/// than the window takes several rows.
fn fitting(text: &str, window: TerminalSize) -> &str {
    let columns = usize::from(window.columns).max(1);
    let mut room = usize::from(window.rows).saturating_sub(1);
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        let rows = style::width(line.trim_end()).div_ceil(columns).max(1);
        if rows > room {
            break;
        }
        room -= rows;
        end += line.len();
    }
    &text[..end]
}

fn row(listed: &Listed, stats: Option<&ContainerStats>) -> (Value, Vec<String>) {
    let none = || "--".to_owned();
    let percent = |value: Option<f64>| value.map_or_else(none, |value| format!("{value:.2}%"));
    let bytes = |value: Option<u64>| value.map_or_else(none, units::bytes);
    let pair = |one, other| format!("{} / {}", bytes(one), bytes(other));
    let id = listed.info.id.as_str();
    let columns = vec![
        id.get(..12).filter(|_| id.len() == 64).unwrap_or(id).to_owned(),
        listed.info.name.clone(),
        percent(stats.and_then(|stats| stats.cpu_percent)),
        bytes(stats.and_then(|stats| stats.memory_bytes)),
        percent(stats.and_then(|stats| stats.memory_percent)),
        stats.map_or_else(none, |stats| pair(stats.network_rx_bytes, stats.network_tx_bytes)),
        stats.map_or_else(none, |stats| pair(stats.block_read_bytes, stats.block_write_bytes)),
    ];
    let value = json!({
        "id": id,
        "name": columns[1],
        "cpu_perc": columns[2],
        "mem_usage": columns[3],
        "mem_perc": columns[4],
        "net_io": columns[5],
        "block_io": columns[6],
        "stats": stats.map(|stats| {
            let mut value = serde_json::to_value(stats).unwrap_or_default();
            value["time"] = json!(units::rfc3339(stats.time));
            value
        }),
    });
    (value, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_cut_to_window() {
        let table = "\x1b[1mHEAD\x1b[0m\none\ntwo\nthree is long\nfour\n";
        for (rows, columns, lines) in
            [(24, 80, 5), (6, 80, 5), (5, 80, 4), (3, 80, 2), (1, 80, 0), (6, 8, 4), (5, 8, 3)]
        {
            let shown = fitting(table, TerminalSize { rows, columns });
            assert_eq!(shown.lines().count(), lines, "{rows} x {columns}: {shown:?}");
            assert!(table.starts_with(shown) && (shown.is_empty() || shown.ends_with('\n')));
        }
    }
}
