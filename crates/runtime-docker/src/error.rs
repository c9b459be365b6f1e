//! What the engine's refusals and the connection's failures mean.

mod refusal;
#[cfg(feature = "tls")]
mod tls;

use std::error::Error as StdError;
use std::io;

use http::StatusCode;
use hyper_util::client::legacy;
use runtime_core::{Error, ErrorKind, Operation};
use runtime_support::find_source;
use serde::Deserialize;

use crate::options::Endpoint;

pub(crate) use refusal::{hides_the_image, met_the_end, refusal};

/// The name of this backend in errors and spans.
pub(crate) const BACKEND: &str = "docker";

/// A connection that could not be opened, or that failed before the answer.
pub(crate) fn from_transport(endpoint: &Endpoint, source: legacy::Error) -> Error {
    #[cfg(feature = "tls")]
    if let Some(what) = find_source::<io::Error>(&source).and_then(tls::refusal) {
        return Error::new(ErrorKind::Unauthenticated)
            .with_message(format!("{what}: {endpoint}"))
            .with_source(source);
    }
    let io = find_source::<io::Error>(&source).map(io::Error::kind);
    let hyper = find_source::<hyper::Error>(&source);
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

/// Whether a request never left: there was no connection to send it over.
pub(crate) fn was_not_sent(error: &Error) -> bool {
    find_source::<legacy::Error>(error).is_some_and(legacy::Error::is_connect)
}

/// Whether the engine, or what stands before it, refused a request instead of working on it.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::Unauthenticated
            | ErrorKind::InvalidArgument
            | ErrorKind::Unsupported
    )
}

/// A connection that failed in the middle of an answer.
pub(crate) fn cut_off(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable)
        .with_message("the connection was lost in the middle of the answer")
        .with_source(source)
}

/// An answer of 400 or above.
pub(crate) fn from_answer(operation: Operation, status: StatusCode, body: &[u8]) -> Error {
    refusal(operation, status.as_u16(), &message(body))
}

/// The engine's words in an answer of 400 or above.
pub(crate) fn message(body: &[u8]) -> String {
    match serde_json::from_slice::<Message>(body) {
        Ok(Message { message }) => message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

/// What a call of bollard's failed with.
pub(crate) fn from_bollard(operation: Operation, source: bollard::errors::Error) -> Error {
    use bollard::errors::Error as Bollard;
    match source {
        Bollard::DockerResponseServerError { status_code, message } => {
            refusal(operation, status_code, &message)
        }
        // Our own errors come back as they went in.
        Bollard::IOError { err } => match err.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(error) => Error::clone(error).during(operation),
            None => cut_off(err).during(operation),
        },
        Bollard::HyperResponseError { err } => cut_off(err).during(operation),
        source @ (Bollard::JsonDataError { .. } | Bollard::JsonSerdeError { .. }) => {
            Error::internal("the engine's answer is not what its API says")
                .with_source(source)
                .during(operation)
        }
        source => Error::new(ErrorKind::Internal).with_source(source).during(operation),
    }
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

#[cfg(test)]
mod tests {
    use ErrorKind as K;
    use Operation as O;

    use super::*;

    #[test]
    fn answers_are_read_whatever_their_form() {
        let said = |body: &str| {
            let error = from_answer(O::Info, StatusCode::NOT_FOUND, body.as_bytes());
            error.message().unwrap_or_default().to_owned()
        };
        assert_eq!(said(r#"{"message":"no"}"#), "no");
        assert_eq!(said(r#"{"cause":"c","message":"no","response":404}"#), "no");
        assert_eq!(said("404 page not found\n"), "404 page not found");
        assert_eq!(said(""), "");
    }

    #[test]
    fn bollards_errors_keep_ours_inside() {
        let ours = Error::new(K::PermissionDenied).with_message("no");
        let back = from_bollard(O::Create, io::Error::other(ours).into());
        assert_eq!((back.kind(), back.operation()), (K::PermissionDenied, Some(O::Create)));
        let answer = bollard::errors::Error::DockerResponseServerError {
            status_code: 404,
            message: "No such image: x".to_owned(),
        };
        assert_eq!(from_bollard(O::Create, answer).kind(), K::ImageNotFound);
        let io = io::Error::from(io::ErrorKind::BrokenPipe).into();
        assert_eq!(from_bollard(O::Create, io).kind(), K::Unavailable);
    }
}
