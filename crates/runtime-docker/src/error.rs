//! Maps refusals of the engine and failures of the connection to errors.

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

pub(crate) use refusal::{is_hidden_image, is_process_gone, refusal};

/// The name of this backend in errors and spans.
pub(crate) const BACKEND: &str = "docker";

/// Returns the error of a connection that failed to open, or was lost before the response.
pub(crate) fn from_transport(endpoint: &Endpoint, source: legacy::Error) -> Error {
    #[cfg(feature = "tls")]
    if let Some(cause) = find_source::<io::Error>(&source).and_then(tls::refusal) {
        return Error::new(ErrorKind::Unauthenticated)
            .with_message(format!("failed to connect to {endpoint}: {cause}"))
            .with_source(source);
    }
    let io = find_source::<io::Error>(&source).map(io::Error::kind);
    let hyper = find_source::<hyper::Error>(&source);
    if !source.is_connect() {
        let message = if hyper.is_some_and(hyper::Error::is_parse) {
            format!("the server at {endpoint} is not a Docker engine")
        } else {
            format!("the connection to {endpoint} was lost")
        };
        return Error::new(ErrorKind::Unavailable).with_message(message).with_source(source);
    }
    let (kind, cause) = match io {
        Some(io::ErrorKind::NotFound) => (ErrorKind::Unavailable, "no such socket"),
        Some(io::ErrorKind::ConnectionRefused) => (ErrorKind::Unavailable, "connection refused"),
        Some(io::ErrorKind::PermissionDenied) => (ErrorKind::PermissionDenied, "permission denied"),
        Some(io::ErrorKind::TimedOut) => (ErrorKind::Timeout, "timed out"),
        _ => (ErrorKind::Unavailable, "the connection failed"),
    };
    let message = format!("failed to connect to {endpoint}: {cause}");
    Error::new(kind).with_message(message).with_source(source)
}

/// Returns `true` if nothing of a request was sent, because no connection was open.
pub(crate) fn was_not_sent(error: &Error) -> bool {
    find_source::<legacy::Error>(error).is_some_and(legacy::Error::is_connect)
}

/// Returns `true` if the engine, or a proxy of it, refused a request without an effect.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::Unauthenticated
            | ErrorKind::InvalidArgument
            | ErrorKind::Unsupported
    )
}

/// Returns the error of a connection that was lost within a response.
pub(crate) fn connection_lost(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable)
        .with_message("the connection was lost within the response")
        .with_source(source)
}

/// Returns the error of a response that does not match the engine's API.
pub(crate) fn invalid_response(source: serde_json::Error) -> Error {
    Error::internal("failed to parse the engine's response").with_source(source)
}

/// Returns the error of a response with a status of 400 or above.
pub(crate) fn from_response(operation: Operation, status: StatusCode, body: &[u8]) -> Error {
    refusal(operation, status.as_u16(), &message(body))
}

/// Returns the engine's message in a response with a status of 400 or above.
pub(crate) fn message(body: &[u8]) -> String {
    match serde_json::from_slice::<Message>(body) {
        Ok(Message { message }) => message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

/// Maps an error of bollard.
pub(crate) fn from_bollard(operation: Operation, source: bollard::errors::Error) -> Error {
    use bollard::errors::Error as Bollard;
    match source {
        Bollard::DockerResponseServerError { status_code, message } => {
            refusal(operation, status_code, &message)
        }
        // An error of this library that bollard has passed through.
        Bollard::IOError { err } => match err.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(error) => Error::clone(error).during(operation),
            None => connection_lost(err).during(operation),
        },
        Bollard::HyperResponseError { err } => connection_lost(err).during(operation),
        source @ (Bollard::JsonDataError { .. } | Bollard::JsonSerdeError { .. }) => {
            Error::internal("failed to parse the engine's response")
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
    fn message_of_any_response_is_found() {
        let parsed = |body: &str| {
            let error = from_response(O::Info, StatusCode::NOT_FOUND, body.as_bytes());
            error.message().unwrap_or_default().to_owned()
        };
        assert_eq!(parsed(r#"{"message":"no"}"#), "no");
        assert_eq!(parsed(r#"{"cause":"c","message":"no","response":404}"#), "no");
        assert_eq!(parsed("404 page not found\n"), "404 page not found");
        assert_eq!(parsed(""), "");
    }

    #[test]
    fn error_through_bollard_is_unchanged() {
        let error = Error::new(K::PermissionDenied).with_message("no");
        let back = from_bollard(O::Create, io::Error::other(error).into());
        assert_eq!((back.kind(), back.operation()), (K::PermissionDenied, Some(O::Create)));
        let refused = bollard::errors::Error::DockerResponseServerError {
            status_code: 404,
            message: "No such image: x".to_owned(),
        };
        assert_eq!(from_bollard(O::Create, refused).kind(), K::ImageNotFound);
        let io = io::Error::from(io::ErrorKind::BrokenPipe).into();
        assert_eq!(from_bollard(O::Create, io).kind(), K::Unavailable);
    }
}
