//! What the engine's refusals mean.

use std::error::Error as StdError;
use std::io;

use runtime_core::{Error, ErrorKind};
use tonic::{Code, Status};

use crate::connect::Endpoint;

/// A call that failed.
pub(crate) fn from_status(call: &str, endpoint: &Endpoint, status: Status) -> Error {
    if let Some(io) = find::<io::Error>(&status) {
        let (kind, what) = match io.kind() {
            io::ErrorKind::NotFound => (ErrorKind::Unavailable, "there is no socket"),
            io::ErrorKind::ConnectionRefused => (ErrorKind::Unavailable, "nobody listens"),
            io::ErrorKind::PermissionDenied => {
                (ErrorKind::PermissionDenied, "this user may not open the socket")
            }
            io::ErrorKind::TimedOut => (ErrorKind::Timeout, "the connection does not open"),
            _ => (ErrorKind::Unavailable, "the connection was lost"),
        };
        return Error::new(kind).with_message(format!("{what}: {endpoint}")).with_source(status);
    }
    if find::<tonic::transport::Error>(&status).is_some() {
        return Error::new(ErrorKind::Unavailable)
            .with_message(format!("the connection was lost: {endpoint}"))
            .with_source(status);
    }
    refusal(call, status.code(), status.message())
}

/// An answer of the engine that is an error. Most of what containerd says has no code: then it is
/// the words that decide, which have been the same since its version 1.6.
pub(crate) fn refusal(call: &str, code: Code, message: &str) -> Error {
    let text = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let kind = match code {
        _ if call == "pull_image" => return pull_refusal(code, message, &text),
        Code::NotFound if says(&["failed to resolve image"]) => ErrorKind::ImageNotFound,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::Unavailable => ErrorKind::Unavailable,
        // containerd 2.1 has a code for it, that of a wrong state.
        _ if says(&["is reserved for", "failed to reserve"]) => ErrorKind::AlreadyExists,
        Code::FailedPrecondition => ErrorKind::InvalidState,
        _ if says(&["no space left on device", "disk quota exceeded", "too many open files"]) => {
            ErrorKind::ResourceExhausted
        }
        _ if says(&["cni plugin not initialized", "network is not ready"]) => {
            ErrorKind::Unavailable
        }
        _ if says(&["context deadline exceeded"]) => ErrorKind::Timeout,
        // The engine was stopped in the middle of the call.
        _ if says(&["context canceled", "server is not initialized"]) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    Error::new(kind).with_message(message)
}

fn pull_refusal(code: Code, message: &str, text: &str) -> Error {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let kind = match code {
        _ if says(&["invalid reference format", "failed to parse image reference"]) => {
            return Error::invalid("image", message);
        }
        _ if says(&["401 unauthorized", "authorization failed", "authorization required"]) => {
            ErrorKind::Unauthenticated
        }
        _ if says(&["403 forbidden", "access denied", "denied:"]) => ErrorKind::PermissionDenied,
        Code::NotFound => ErrorKind::ImageNotFound,
        _ if says(&["no match for platform", "manifest unknown", "name unknown"]) => {
            ErrorKind::ImageNotFound
        }
        _ if says(&["no space left on device", "disk quota exceeded"]) => {
            ErrorKind::ResourceExhausted
        }
        _ if says(&["429 too many requests", "toomanyrequests"]) => ErrorKind::ResourceExhausted,
        _ if says(&[
            "dial tcp",
            "no such host",
            "connection refused",
            "connection reset",
            "i/o timeout",
            "network is unreachable",
            "tls:",
            "x509:",
            "unexpected eof",
            "failed to do request",
            "500 internal server error",
            "502 bad gateway",
            "503 service unavailable",
            "504 gateway timeout",
        ]) =>
        {
            ErrorKind::Unavailable
        }
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::Unimplemented => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    };
    let error = Error::new(kind).with_message(message);
    // A certificate that is not trusted stays so.
    if says(&["x509:"]) { error.with_retryable(false) } else { error }
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
