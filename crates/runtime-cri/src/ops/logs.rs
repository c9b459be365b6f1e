//! See [`Container::logs`](runtime_core::Container::logs). The engine writes log files, which this
//! library reads.

mod lines;
mod next;
mod source;
mod start;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use runtime_core::{
    Capability, ContainerStatus, Error, ErrorKind, ExitReason, Follow, LogOptions, LogReader,
    LogRecord, Operation, Result,
};
use runtime_support::follow::UntilRemoved;

use self::lines::{Lines, Terminal};
use self::source::{Fetched, Source, settle_all};
use self::start::{Filter, plan_start};
use crate::BACKEND;
use crate::generated as cri;
use crate::host::blocking::run_blocking;
use crate::model::container::CriContainer;
use crate::model::info;
use crate::state::CriBackend;
use crate::state::inspect;

/// Maximum time for which lines wait for the end of a line of the other stream.
const HOLD_MAX: Duration = Duration::from_millis(500);

/// Opens the log of a container.
pub(crate) async fn open(
    backend: &Arc<CriBackend>,
    container: &CriContainer,
    options: LogOptions,
) -> Result<LogReader> {
    let connection = &backend.connection;
    let Some(directory) = container.annotations.log_directory() else {
        return Err(Error::unsupported(Capability::Logs));
    };
    let status = inspect::status(connection, Operation::Logs, &container.id).await?;
    let ended = info::status(status.state()) == ContainerStatus::Exited;
    let after = options.after;
    let follow = options.follow == Follow::Yes;
    let ended_at = if ended { info::time(status.finished_at) } else { None };
    if ended {
        settle_all(connection, &directory, ended_at).await?;
    }
    let terminal = Terminal::of(connection, container);
    let (max_line, plan) = (options.max_line, directory.clone());
    let start = run_blocking(move || plan_start(&plan, &options, terminal, ended)).await?;
    if start.open.is_none() && directory.keeps_all() && has_written(&status) {
        // The files were removed, or the engine has another directory at this path.
        return Err(Error::new(ErrorKind::Lost)
            .with_message(format!("there are no log files in {}", directory.path.display())));
    }
    let source = Source {
        backend: Arc::clone(backend),
        container: container.clone(),
        directory,
        open: start.open,
        last: start.last,
        follow,
        ended,
        ended_at,
        has_written: has_written(&status),
        exit: None,
        watch: None,
        was_truncated: false,
    };
    let records = Records {
        lines: Lines::new(terminal, max_line, start.unfinished),
        filter: start.filter,
        source: Some(source),
        fetching: None,
        is_at_end: false,
        ended,
        follow,
        hold: None,
    };
    if !follow {
        return Ok(LogReader::new(records, after));
    }
    let (backend, container) = (Arc::clone(backend), container.clone());
    let was_removed = Box::pin(async move { was_removed(&backend, &container).await });
    Ok(LogReader::new(UntilRemoved::new(records, was_removed), after))
}

/// Returns whether the container of an ended log was removed, or is being removed by this process.
async fn was_removed(backend: &CriBackend, container: &CriContainer) -> bool {
    match inspect::status(&backend.connection, Operation::Logs, &container.id).await {
        Ok(status) if info::status(status.state()) == ContainerStatus::Exited => {
            let exit = backend.exits.wait(&container.id).await;
            exit.map_or_else(is_not_found, |exit| exit.reason == ExitReason::Removed)
        }
        Ok(_) => false,
        Err(error) => is_not_found(error),
    }
}

fn is_not_found(error: Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// Returns whether the engine has opened a log for the container, which it does at the start.
fn has_written(status: &cri::ContainerStatus) -> bool {
    status.started_at > 0
}

/// Stream of records.
struct Records {
    lines: Lines,
    filter: Filter,
    source: Option<Source>,
    fetching: Option<BoxFuture<'static, (Source, Result<Fetched>)>>,
    is_at_end: bool,
    ended: bool,
    follow: bool,
    /// Timer while lines wait for the end of a line of the other stream.
    hold: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Records {
    /// Releases lines that wait for an unfinished line of the other stream, after [`HOLD_MAX`].
    /// Ready if there may be records.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.follow || self.filter.needs_order() || !self.lines.holds_back() {
            self.hold = None;
            return Poll::Pending;
        }
        let hold = self.hold.get_or_insert_with(|| Box::pin(tokio::time::sleep(HOLD_MAX)));
        ready!(hold.as_mut().poll(cx));
        self.hold = None;
        self.lines.let_pass();
        Poll::Ready(())
    }
}

impl Stream for Records {
    type Item = Result<LogRecord>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            while let Some(mut record) = this.lines.next() {
                if this.filter.accepts(&mut record) {
                    return Poll::Ready(Some(Ok(record)));
                }
            }
            if this.is_at_end {
                return Poll::Ready(None);
            }
            let fetching = match &mut this.fetching {
                Some(fetching) => fetching,
                None => {
                    let Some(source) = this.source.take() else { return Poll::Ready(None) };
                    let rest = this.lines.parser.take_rest();
                    this.fetching.insert(Box::pin(source.fetch(rest)))
                }
            };
            let Poll::Ready((mut source, fetched)) = fetching.as_mut().poll(cx) else {
                ready!(this.poll_hold(cx));
                continue;
            };
            this.fetching = None;
            if std::mem::take(&mut source.was_truncated) {
                this.lines.restart();
            }
            match fetched {
                Ok(Fetched::Block(block)) => {
                    this.lines.parser.feed(block);
                    this.source = Some(source);
                }
                Ok(Fetched::End { rest, ended }) => {
                    this.is_at_end = true;
                    this.ended |= ended;
                    this.lines.parser.feed(rest);
                    // An unfinished line of a running container is not a record yet.
                    if this.ended {
                        this.lines.finish();
                    } else {
                        this.lines.let_pass();
                    }
                }
                Err(error) => {
                    this.is_at_end = true;
                    let error = error.during(Operation::Logs).on(BACKEND);
                    return Poll::Ready(Some(Err(error.about(&source.container.id))));
                }
            }
        }
    }
}
