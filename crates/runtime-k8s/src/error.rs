//! The API server's and the client's failures as ours.

use http::StatusCode;
use hyper_util::client::legacy;
use runtime_core::{Error, ErrorKind};
use runtime_support::find_source;

use crate::wire::{Cause, Status};

/// A failure of the client itself: the server was not reached, or its answer made no sense.
pub(crate) fn from_client(error: kube::Error) -> Error {
    use kube::Error as K;
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
        ErrorKind::Unavailable => new.with_message("the API server cannot be reached"),
        _ => new,
    };
    new.with_source(error)
}

/// Whether a request never left: there was no connection to send it over.
pub(crate) fn was_not_sent(error: &Error) -> bool {
    find_source::<legacy::Error>(error).is_some_and(legacy::Error::is_connect)
}

/// An answer of the server that is a failure.
///
/// `message` and `details` are the server's own words; the source is left out because it would say
/// the same again.
pub(crate) fn from_status(status: &Status) -> Error {
    let said = Error::new(kind(status)).with_message(status.message.clone());
    let said = match status.reason.as_str() {
        // The namespace is going away: it will not take a pod however often it is asked.
        "Forbidden" if is_terminating(status) => return said_of_namespace(said),
        _ => said,
    };
    match said.kind() {
        ErrorKind::InvalidArgument => {
            match status.details.as_ref().and_then(|d| d.causes.first()) {
                Some(cause) => Error::invalid(field_of(cause), cause.message.clone()),
                None => said,
            }
        }
        _ => said,
    }
}

fn said_of_namespace(error: Error) -> Error {
    error.with_field("namespace")
}

fn is_terminating(status: &Status) -> bool {
    status
        .details
        .as_ref()
        .is_some_and(|d| d.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
        || status.message.contains("because it is being terminated")
}

/// The kind of a failure by what the server says of it: first its reason, then its code.
pub(crate) fn kind(status: &Status) -> ErrorKind {
    match status.reason.as_str() {
        "NotFound" => ErrorKind::NotFound,
        "AlreadyExists" => ErrorKind::AlreadyExists,
        "Unauthorized" => ErrorKind::Unauthenticated,
        "Forbidden" if is_quota(&status.message) => ErrorKind::ResourceExhausted,
        "Forbidden" if is_terminating(status) => ErrorKind::InvalidState,
        "Forbidden" => ErrorKind::PermissionDenied,
        "Invalid" | "BadRequest" => ErrorKind::InvalidArgument,
        "Conflict" => ErrorKind::InvalidState,
        "Gone" | "Expired" => ErrorKind::Lost,
        "Timeout" => ErrorKind::Timeout,
        "ServerTimeout" | "TooManyRequests" | "ServiceUnavailable" => ErrorKind::Unavailable,
        // A failure to reach a node comes without a reason from old servers.
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

/// Whether an internal error is one of the server's own connections: to etcd, or to a node.
fn passes(message: &str) -> bool {
    ["etcdserver: ", "dial tcp", "connection refused", "i/o timeout", "EOF", "connection reset"]
        .iter()
        .any(|words| message.contains(words))
}

/// Quotas refuse as `Forbidden`, and only the words tell: `exceeded quota: NAME, requested: ...`.
fn is_quota(message: &str) -> bool {
    message.contains("exceeded quota:")
}

/// An answer that is a failure, from its code and its body. Something that is not an API server
/// answers without a `Status`.
pub(crate) fn from_answer(code: StatusCode, body: &[u8]) -> Error {
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
            Error::new(kind).with_message(format!("the server answered {code}: {text:?}"))
        }
    }
}

/// The `Status` of an answer, if it is one.
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

/// The field of our spec that a field of the pod came from.
fn field_of(cause: &Cause) -> String {
    let path = cause.field.as_str();
    let container = path.strip_prefix("spec.containers[0].").unwrap_or(path);
    for (theirs, ours) in [
        ("image", "image"),
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
        ("resources.limits[memory]", "memory"),
        ("resources.requests[memory]", "memory"),
        ("resources.limits[cpu]", "cpu_count"),
        ("resources.requests[cpu]", "cpu_count"),
        ("resources.limits[nvidia.com/gpu]", "gpus"),
        ("spec.hostname", "hostname"),
        ("lifecycle.stopSignal", "stop_signal"),
        ("metadata.annotations", "labels"),
        ("metadata.labels", "labels"),
        ("spec.terminationGracePeriodSeconds", "stop_grace"),
    ] {
        if let Some(rest) = container.strip_prefix(theirs)
            && (rest.is_empty() || rest.starts_with(['.', '[']))
        {
            return ours.to_owned();
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str, message: &str) -> Status {
        Status { code, reason: reason.into(), message: message.into(), details: None }
    }

    #[test]
    fn the_servers_answers() {
        use ErrorKind as K;
        for (code, reason, message, kind) in [
            (404, "NotFound", "pods \"a\" not found", K::NotFound),
            (409, "AlreadyExists", "pods \"a\" already exists", K::AlreadyExists),
            (409, "Conflict", "Operation cannot be fulfilled", K::InvalidState),
            (401, "Unauthorized", "Unauthorized", K::Unauthenticated),
            (403, "Forbidden", "pods is forbidden: User cannot list", K::PermissionDenied),
            (403, "Forbidden", "pods \"a\" is forbidden: exceeded quota: q", K::ResourceExhausted),
            (
                403,
                "Forbidden",
                "unable to create new content in namespace x because it is being terminated",
                K::InvalidState,
            ),
            (422, "Invalid", "Pod \"a\" is invalid", K::InvalidArgument),
            (400, "BadRequest", "cannot decode", K::InvalidArgument),
            (413, "RequestEntityTooLarge", "limit is 3145728", K::InvalidArgument),
            (410, "Expired", "too old resource version", K::Lost),
            (410, "Gone", "gone", K::Lost),
            (429, "TooManyRequests", "slow down", K::Unavailable),
            (503, "ServiceUnavailable", "shutting down", K::Unavailable),
            (504, "Timeout", "request did not complete", K::Timeout),
            (500, "InternalError", "etcdserver: request timed out", K::Unavailable),
            (500, "InternalError", "Get https://n:10250: dial tcp: refused", K::Unavailable),
            (500, "", "Get \"https://n:10250/containerLogs\": dial tcp: refused", K::Unavailable),
            (500, "InternalError", "boom", K::Internal),
            (403, "", "no reason", K::PermissionDenied),
            (507, "", "no reason", K::ResourceExhausted),
            (418, "", "no reason", K::Internal),
        ] {
            let error = from_status(&status(code, reason, message));
            assert_eq!(error.kind(), kind, "{code} {reason} {message}");
        }
    }

    #[test]
    fn retrying_helps_where_the_server_is_away() {
        assert!(from_status(&status(503, "ServiceUnavailable", "")).is_retryable());
        assert!(from_status(&status(504, "Timeout", "")).is_retryable());
        assert!(!from_status(&status(401, "Unauthorized", "")).is_retryable());
        assert!(!from_status(&status(422, "Invalid", "")).is_retryable());
    }

    #[test]
    fn a_wrong_field_is_named_as_the_caller_wrote_it() {
        for (theirs, ours) in [
            ("spec.containers[0].env[3].name", "env"),
            ("spec.containers[0].envFrom", "spec.containers[0].envFrom"),
            ("spec.containers[0].resources.limits[memory]", "memory"),
            ("spec.containers[0].ports[0].hostPort", "tcp_ports"),
            ("spec.hostname", "hostname"),
            ("spec.volumes[1].hostPath.path", "mounts"),
            ("metadata.annotations", "labels"),
            ("spec.nodeSelector", "spec.nodeSelector"),
        ] {
            let body = serde_json::json!({
                "kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid",
                "message": "Pod is invalid",
                "details": {"causes": [{"reason": "FieldValueInvalid", "message": "bad", "field": theirs}]},
            });
            let error = from_answer(StatusCode::UNPROCESSABLE_ENTITY, body.to_string().as_bytes());
            assert_eq!((error.field(), error.message()), (Some(ours), Some("bad")));
        }
    }

    #[test]
    fn what_is_no_api_server_is_not_there() {
        for (code, body) in [(404, "<html>"), (200, ""), (500, "{}"), (302, "{\"kind\":3}")] {
            let error = from_answer(StatusCode::from_u16(code).unwrap(), body.as_bytes());
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{code} {body}");
        }
        let error = from_answer(StatusCode::UNAUTHORIZED, b"no");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    }
}
