//! Conversion of errors of the API server and the client.

mod admission;
mod policy;
mod status;
#[cfg(test)]
mod tests;

use std::fmt;

use http::StatusCode;
use hyper_util::client::legacy;
use runtime_core::{Error, ErrorKind};
use runtime_support::find_source;

pub(crate) use self::admission::is_missing_right;
pub(crate) use self::policy::is_policy;
use self::status::Cause;
pub(crate) use self::status::Status;

/// The name of the backend in errors and spans.
pub(crate) const BACKEND: &str = "kubernetes";

/// Returns the error for a failure of the client: the server was not reached, or its response is
/// malformed.
pub(crate) fn from_client(error: kube::Error) -> Error {
    use kube::Error as K;
    if let K::Service(source) = &error {
        if let Some(error) = credentials_failure(&**source) {
            return error.clone();
        }
        if let Some(refused) = refused(&**source) {
            return of_proxy(refused).with_source(error);
        }
    }
    let kind = match &error {
        K::Api(status) => {
            let status = Status {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
                details: None,
            };
            return from_status(&status);
        }
        K::HyperError(_) | K::Service(_) | K::ReadEvents(_) => ErrorKind::Unavailable,
        K::Auth(_) => ErrorKind::Unauthenticated,
        K::ProxyProtocolUnsupported { .. }
        | K::ProxyProtocolDisabled { .. }
        | K::InferConfig(_)
        | K::InferKubeconfig(_)
        | K::RustlsTls(_)
        | K::TlsRequired => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    let new = Error::new(kind);
    let new = match kind {
        ErrorKind::InvalidArgument => new.with_field("kubeconfig"),
        ErrorKind::Unavailable => new.with_message("failed to connect to the API server"),
        _ => new,
    };
    new.with_source(error)
}

/// Returns the error of a failed request if it is one of the credentials.
fn credentials_failure<'a>(source: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    source.downcast_ref::<Error>().filter(|error| {
        matches!(error.kind(), ErrorKind::Unauthenticated | ErrorKind::InvalidArgument)
    })
}

/// Error of a proxy that refuses or fails to connect.
#[derive(Debug)]
pub(crate) struct ProxyRefused {
    pub(crate) proxy: String,
    pub(crate) status: Option<StatusCode>,
    pub(crate) cause: String,
}

impl fmt::Display for ProxyRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to connect through the proxy {}: {}", self.proxy, self.cause)
    }
}

impl std::error::Error for ProxyRefused {}

fn refused<'a>(source: &'a (dyn std::error::Error + 'static)) -> Option<&'a ProxyRefused> {
    let mut next = Some(source);
    while let Some(error) = next {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        next = error.source();
    }
    None
}

/// Returns the error for a failure of a proxy.
fn of_proxy(refused: &ProxyRefused) -> Error {
    let kind = match refused.status {
        Some(StatusCode::PROXY_AUTHENTICATION_REQUIRED) => ErrorKind::Unauthenticated,
        Some(StatusCode::FORBIDDEN) => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind).with_message(refused.to_string())
}

/// Returns whether a request was certainly not sent, because there was no connection.
pub(crate) fn was_not_sent(error: &Error) -> bool {
    find_source::<legacy::Error>(error).is_some_and(legacy::Error::is_connect)
}

/// Returns the error for a `Status` of the server.
///
/// It has the message of the server and no source, because the source would repeat the message.
pub(crate) fn from_status(status: &Status) -> Error {
    if is_terminating(status) {
        // The namespace is being deleted: a retry does not help.
        return Error::new(ErrorKind::InvalidState)
            .with_message(status.message.clone())
            .with_field("namespace");
    }
    if let Some(error) = admission::read(status) {
        return error;
    }
    let kind = kind(status);
    if kind == ErrorKind::InvalidArgument
        && let Some((field, message)) = cause_of(status)
    {
        return Error::invalid(field, message);
    }
    Error::new(kind).with_message(message_of(status))
}

/// Returns the message of a status, with the delay that the server requires.
fn message_of(status: &Status) -> String {
    let message = match status.message.as_str() {
        "" if status.reason.is_empty() => format!("the server returned status {}", status.code),
        "" => format!("the server returned {}", status.reason),
        message => message.to_owned(),
    };
    let after = status.details.as_ref().and_then(|details| details.retry_after_seconds);
    match after {
        Some(seconds @ 1..) => format!("{message} (retry after {seconds} s)"),
        _ => message,
    }
}

/// Returns the field of the spec that a refusal is about, and the message of the server.
fn cause_of(status: &Status) -> Option<(String, String)> {
    let causes =
        status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    if let Some(cause) = causes.iter().find(|cause| !cause.field.is_empty()) {
        let text = [&cause.message, &status.message].into_iter().find(|text| !text.is_empty());
        return Some((field_of(cause), text.cloned().unwrap_or_default()));
    }
    // `Pod "x" is invalid: spec.containers[0].image: Invalid value: ...`
    let (_, text) = status.message.split_once(" is invalid: ")?;
    let (field, _) = text.trim_start_matches('[').split_once(": ")?;
    let is_path = !field.is_empty() && !field.contains(char::is_whitespace);
    let cause = Cause { field: field.to_owned(), message: text.to_owned(), ..Cause::default() };
    is_path.then(|| (field_of(&cause), text.to_owned()))
}

fn is_terminating(status: &Status) -> bool {
    status
        .details
        .as_ref()
        .is_some_and(|d| d.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
        || status.message.contains("because it is being terminated")
}

/// Returns the kind of a failure: by its reason if that is known, else by its code.
pub(crate) fn kind(status: &Status) -> ErrorKind {
    match status.reason.as_str() {
        "NotFound" => ErrorKind::NotFound,
        "AlreadyExists" => ErrorKind::AlreadyExists,
        "Unauthorized" => ErrorKind::Unauthenticated,
        "Forbidden" => ErrorKind::PermissionDenied,
        "Invalid" | "BadRequest" => ErrorKind::InvalidArgument,
        "Conflict" => ErrorKind::InvalidState,
        "Gone" | "Expired" => ErrorKind::Lost,
        "Timeout" => ErrorKind::Timeout,
        "ServerTimeout" | "TooManyRequests" | "ServiceUnavailable" => ErrorKind::Unavailable,
        // Old servers report a failure to reach a node without a reason.
        _ if status.code == 500 && passes(&status.message) => ErrorKind::Unavailable,
        _ => match status.code {
            400 | 413 | 422 => ErrorKind::InvalidArgument,
            401 => ErrorKind::Unauthenticated,
            403 => ErrorKind::PermissionDenied,
            404 => ErrorKind::NotFound,
            409 => ErrorKind::InvalidState,
            410 => ErrorKind::Lost,
            429 | 502 | 503 => ErrorKind::Unavailable,
            408 | 504 => ErrorKind::Timeout,
            507 => ErrorKind::ResourceExhausted,
            _ => ErrorKind::Internal,
        },
    }
}

/// Returns whether an internal error is transient: a failure of a connection of the server to etcd
/// or to a node.
fn passes(message: &str) -> bool {
    ["etcdserver: ", "dial tcp", "connection refused", "i/o timeout", "EOF", "connection reset"]
        .iter()
        .any(|text| message.contains(text))
}

/// Returns the error for a response with a failure. The response of a server that is not an API
/// server has no `Status`.
pub(crate) fn from_response(code: StatusCode, body: &[u8]) -> Error {
    match read_status(code, body) {
        Some(status) => from_status(&status),
        None => {
            let kind = match code.as_u16() {
                401 => ErrorKind::Unauthenticated,
                403 => ErrorKind::PermissionDenied,
                _ => ErrorKind::Unavailable,
            };
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            let text = text.trim();
            Error::new(kind).with_message(format!("the server returned {code}: {text:?}"))
        }
    }
}

/// Returns the `Status` of a response, if it has one.
pub(crate) fn read_status(code: StatusCode, body: &[u8]) -> Option<Status> {
    #[derive(serde::Deserialize)]
    struct Kind {
        kind: String,
    }
    let Kind { kind } = serde_json::from_slice(body).ok()?;
    let mut status: Status = (kind == "Status").then(|| serde_json::from_slice(body).ok())??;
    if status.code == 0 {
        status.code = code.as_u16();
    }
    Some(status)
}

/// Returns the field of the spec that a field of the pod is built from.
fn field_of(cause: &Cause) -> String {
    let path = cause.field.as_str();
    // The cluster may have added other containers.
    let container = path
        .strip_prefix("spec.containers[")
        .and_then(|rest| rest.split_once("]."))
        .map_or(path, |(_, rest)| rest);
    for (theirs, ours) in [
        ("image", "image"),
        ("imagePullPolicy", "pull_policy"),
        ("command", "command"),
        ("args", "arguments"),
        ("env", "env"),
        ("workingDir", "working_dir"),
        ("volumeMounts", "mounts"),
        ("spec.volumes", "mounts"),
        ("ports", "tcp_ports"),
        ("securityContext.runAsUser", "user"),
        ("securityContext.runAsGroup", "user"),
        ("spec.securityContext.supplementalGroups", "groups"),
        ("spec.hostname", "hostname"),
        ("lifecycle.stopSignal", "stop_signal"),
        ("spec.os", "stop_signal"),
        ("metadata.annotations", "labels"),
        ("metadata.labels", "labels"),
        ("spec.terminationGracePeriodSeconds", "stop_grace"),
        ("spec.serviceAccountName", "service_account"),
        ("spec.priorityClassName", "priority_class"),
        ("spec.runtimeClassName", "runtime_class"),
        ("spec.nodeSelector", "node_selector"),
        ("spec.tolerations", "tolerations"),
    ] {
        if let Some(rest) = container.strip_prefix(theirs)
            && (rest.is_empty() || rest.starts_with(['.', '[']))
        {
            return ours.to_owned();
        }
    }
    if let Some(rest) = container.strip_prefix("resources.") {
        // `limits[memory]`, or the whole list with the resource only in the message.
        let named = rest.split_once('[').and_then(|(_, name)| name.strip_suffix(']'));
        let known = named.and_then(admission::field_of_resource);
        let in_words =
            ["memory", "cpu", "gpu"].into_iter().find(|name| cause.message.contains(name));
        let of_words = in_words.and_then(admission::field_of_resource);
        if let Some(field) = known.or(of_words.filter(|_| named.is_none())) {
            return field.to_owned();
        }
    }
    path.to_owned()
}
