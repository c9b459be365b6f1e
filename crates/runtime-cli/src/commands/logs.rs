//! `logs`.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use runtime_core::{Follow, LogOptions, LogRecord, LogStream, RawLogs, Runtime};
use serde_json::json;

use crate::cli::Logs;
use crate::exit_code::killed_by;
use crate::format::Format;
use crate::pipes::{self, Sink};
use crate::signals::Signals;
use crate::{resolve, units};

/// `runtime logs`.
pub(crate) async fn logs(runtime: Arc<dyn Runtime>, arguments: Logs) -> Result<u8> {
    let format = Format::without_table(arguments.format.as_deref())?;
    let mut options = LogOptions::default();
    if arguments.follow {
        options = options.follow(Follow::Yes);
    }
    if let Some(since) = &arguments.since {
        options = options.since(units::time(since)?);
    }
    match arguments.tail.as_deref() {
        None | Some("all") => {}
        Some(lines) => {
            let lines =
                lines.parse().with_context(|| format!("--tail {lines:?} is not a number"))?;
            options = options.tail(lines);
        }
    }
    let mut signals = Signals::listen()?;
    let container = resolve::container(&*runtime, &arguments.container).await?;
    if options == LogOptions::default() && format.is_none() && !arguments.timestamps {
        return print(container.raw_logs().await?, &mut signals).await;
    }
    let mut log = container.logs(options).await?;
    let (stdout, stderr) = Sink::outputs();
    // Records that are ready are written together.
    let mut both = log.by_ref().ready_chunks(256);
    let code = 'read: loop {
        let records = tokio::select! {
            biased;
            signal = signals.end() => break 'read killed_by(signal.number()),
            records = both.next() => records,
        };
        let Some(records) = records else { break 'read 0 };
        let mut failure = None;
        let mut open: Option<(bool, BytesMut)> = None;
        for record in records {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            let to_stderr = record.stream == LogStream::Stderr && format.is_none();
            let text = line(&record, &format, arguments.timestamps)?;
            match &mut open {
                Some((same, bytes)) if *same == to_stderr => bytes.extend_from_slice(&text),
                _ => {
                    if let Some((err, bytes)) = open.replace((to_stderr, text.into()))
                        && !(if err { &stderr } else { &stdout }).write(bytes.freeze()).await
                    {
                        break 'read killed_by(13);
                    }
                }
            }
        }
        if let Some((err, bytes)) = open
            && !(if err { &stderr } else { &stdout }).write(bytes.freeze()).await
        {
            break 'read killed_by(13);
        }
        if let Some(error) = failure {
            pipes::finish((stdout, stderr)).await?;
            return Err(error.into());
        }
    };
    drop(both);
    pipes::finish((stdout, stderr)).await?;
    Ok(code)
}

/// Prints the whole log without processing.
async fn print(mut log: RawLogs, signals: &mut Signals) -> Result<u8> {
    let (stdout, stderr) = Sink::outputs();
    let outcome = loop {
        let piece = tokio::select! {
            biased;
            signal = signals.end() => break Ok(killed_by(signal.number())),
            piece = log.next() => piece,
        };
        match piece {
            None => break Ok(0),
            Some(Err(error)) => break Err(error.into()),
            Some(Ok(piece)) => {
                let sink = if piece.stream == LogStream::Stderr { &stderr } else { &stdout };
                if !sink.write(piece.bytes).await {
                    break Ok(killed_by(13));
                }
            }
        }
    };
    drop(log);
    pipes::finish((stdout, stderr)).await?;
    outcome
}

fn line(record: &LogRecord, format: &Option<Format>, timestamps: bool) -> Result<Bytes> {
    if let Some(format) = format {
        let value = json!({
            "time": units::rfc3339(record.time),
            "stream": record.stream,
            "text": String::from_utf8_lossy(&record.bytes),
            "continues": record.continues,
        });
        return Ok(format.render(&[], [(value, Vec::new())])?.into());
    }
    if !timestamps {
        return Ok(record.bytes.clone());
    }
    let mut text = BytesMut::from(format!("{} ", units::rfc3339(record.time)).as_bytes());
    text.extend_from_slice(&record.bytes);
    Ok(text.freeze())
}
