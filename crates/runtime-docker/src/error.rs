//! What the engine's refusals and the connection's failures mean.

use std::error::Error as StdError;
use std::io;

use http::StatusCode;
use hyper_util::client::legacy;
use runtime_core::{Error, ErrorKind, Operation};
use serde::Deserialize;

use crate::connect::Endpoint;

/// A connection that could not be opened, or that failed before the answer.
pub(crate) fn from_transport(endpoint: &Endpoint, source: legacy::Error) -> Error {
    let io = find::<io::Error>(&source).map(io::Error::kind);
    let hyper = find::<hyper::Error>(&source);
    if !source.is_connect() {
        let what = if hyper.is_some_and(hyper::Error::is_parse) {
            format!("what answers at {endpoint} is no Docker engine")
        } else {
            format!("the connection to {endpoint} was lost")
        };
        return Error::new(ErrorKind::Unavailable).with_message(what).with_source(source);
    }
    let (kind, what) = match io {
        Some(io::ErrorKind::NotFound) => (ErrorKind::Unavailable, "there is no socket"),
        Some(io::ErrorKind::ConnectionRefused) => (ErrorKind::Unavailable, "nobody listens"),
        Some(io::ErrorKind::PermissionDenied) => {
            (ErrorKind::PermissionDenied, "this user may not open the socket")
        }
        Some(io::ErrorKind::TimedOut) => (ErrorKind::Timeout, "the connection does not open"),
        _ => (ErrorKind::Unavailable, "the connection cannot be opened"),
    };
    Error::new(kind).with_message(format!("{what}: {endpoint}")).with_source(source)
}

/// A connection that failed in the middle of an answer.
pub(crate) fn cut_off(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable)
        .with_message("the connection was lost in the middle of the answer")
        .with_source(source)
}

/// An answer of 400 or above.
pub(crate) fn from_answer(operation: Operation, status: StatusCode, body: &[u8]) -> Error {
    let message = match serde_json::from_slice::<Message>(body) {
        Ok(Message { message }) => message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    refusal(operation, status, &message)
}

/// The engine's refusal.
pub(crate) fn refusal(operation: Operation, status: StatusCode, message: &str) -> Error {
    let kind = match status.as_u16() {
        404 => ErrorKind::NotFound,
        _ => ErrorKind::Internal,
    };
    Error::new(kind).with_message(message).during(operation)
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
