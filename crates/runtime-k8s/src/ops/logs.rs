//! Opens the logs of a container.
//!
//! The kubelet returns its log file line by line with times and with both streams merged. Of a
//! rotated log it returns only the newest file. A kubelet before 1.29 continues to read the old
//! file after a rotation: this is detected here, and the log is reopened. A part of a log that was
//! rotated before it was read is reported as `Lost`.

pub(super) mod closing;
mod last_line;
mod raw;
mod request;
mod rotation;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use runtime_core::{LogOptions, LogReader, Operation, RawLogs, Result};
use runtime_support::follow::read_log;

use self::closing::{context, until_closed};
use crate::model::container::KubernetesContainer;
use crate::state::KubernetesBackend;

/// Opens the log of a container.
pub(crate) async fn open(
    backend: &Arc<KubernetesBackend>,
    container: &KubernetesContainer,
    options: LogOptions,
) -> Result<LogReader> {
    #[cfg(feature = "cri")]
    if let Some(engine) = super::node_engine::with_logs(backend) {
        return super::node_engine::logs(backend, container, engine, options).await;
    }
    let source = source::PodLog::new(backend, container);
    let after = options.after;
    let reader = backend.query(Operation::Logs, read_log(source, options)).await?;
    let closed = backend.closed(Operation::Logs);
    Ok(LogReader::new(until_closed(reader, closed, context(container)), after))
}

/// Opens the log of a container without times.
pub(crate) async fn open_raw(
    backend: &Arc<KubernetesBackend>,
    container: &KubernetesContainer,
) -> Result<RawLogs> {
    // Lines of a terminal need their carriage returns back.
    let with_times = container.has_terminal();
    // The log files of the engine have times.
    #[cfg(feature = "cri")]
    let with_times = with_times || super::node_engine::with_logs(backend).is_some();
    let raw = if with_times { None } else { raw::open(backend, container).await? };
    let Some(raw) = raw else {
        return Ok(open(backend, container, LogOptions::default()).await?.into_raw());
    };
    let closed = backend.closed(Operation::Logs);
    Ok(Box::pin(until_closed(raw, closed, context(container))))
}
