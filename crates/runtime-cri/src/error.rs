//! Mapping of the errors of the engine and its clients to [`Error`].

use std::error::Error as StdError;
use std::io;

use runtime_core::{Error, ErrorKind};
use runtime_support::find_source;
use spdy_client::remote_command;
use tonic::{Code, Status};

use crate::options::Endpoint;

/// Maps the status of a failed request.
pub(crate) fn from_status(method: &str, endpoint: &Endpoint, status: Status) -> Error {
    if let Some(io) = find_source::<io::Error>(&status) {
        let (kind, what) = match io.kind() {
            io::ErrorKind::NotFound => (ErrorKind::Unavailable, "there is no socket"),
            io::ErrorKind::ConnectionRefused => (ErrorKind::Unavailable, "connection refused"),
            io::ErrorKind::PermissionDenied => {
                (ErrorKind::PermissionDenied, "permission denied to open the socket")
            }
            io::ErrorKind::TimedOut => (ErrorKind::Timeout, "timed out while connecting"),
            _ => (ErrorKind::Unavailable, "the connection was lost"),
        };
        return Error::new(kind).with_message(format!("{what}: {endpoint}")).with_source(status);
    }
    if find_source::<tonic::transport::Error>(&status).is_some() {
        return Error::new(ErrorKind::Unavailable)
            .with_message(format!("the connection was lost: {endpoint}"))
            .with_source(status);
    }
    refusal(method, status.code(), status.message())
}

/// Maps an error of the engine. Most errors of containerd have no code. They are mapped by their
/// messages, which have not changed since its version 1.6.
pub(crate) fn refusal(method: &str, code: Code, message: &str) -> Error {
    let text = message.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let kind = match code {
        _ if method == "pull_image" => return pull_refusal(code, message, &text),
        Code::NotFound if has(&["failed to resolve image"]) => ErrorKind::ImageNotFound,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::Unavailable => ErrorKind::Unavailable,
        // containerd 2.1 sends `FailedPrecondition` for a taken name.
        _ if has(&["is reserved for", "failed to reserve"]) => ErrorKind::AlreadyExists,
        Code::FailedPrecondition => ErrorKind::InvalidState,
        _ if has(&["no space left on device", "disk quota exceeded", "too many open files"]) => {
            ErrorKind::ResourceExhausted
        }
        // The host is out of memory: no limit of the container applies yet.
        _ if has(&["fork/exec"]) && has(&["cannot allocate memory"]) => {
            ErrorKind::ResourceExhausted
        }
        _ if has(&["cni plugin not initialized", "network is not ready"]) => ErrorKind::Unavailable,
        _ if has(&["context deadline exceeded"]) => ErrorKind::Timeout,
        // The engine was stopped during the request.
        _ if has(&["context canceled", "server is not initialized"]) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    Error::new(kind).with_message(message)
}

fn pull_refusal(code: Code, message: &str, text: &str) -> Error {
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let kind = match code {
        _ if has(&["invalid reference format", "failed to parse image reference"]) => {
            return Error::invalid("image", message);
        }
        _ if has(&[
            "401 unauthorized",
            "authorization failed",
            "authorization required",
            "authentication required",
        ]) =>
        {
            ErrorKind::Unauthenticated
        }
        _ if has(&["403 forbidden", "access denied", "denied:"]) => ErrorKind::PermissionDenied,
        Code::NotFound => ErrorKind::ImageNotFound,
        _ if has(&["no match for platform", "manifest unknown", "name unknown"]) => {
            ErrorKind::ImageNotFound
        }
        _ if has(&["no space left on device", "disk quota exceeded"]) => {
            ErrorKind::ResourceExhausted
        }
        _ if has(&["429 too many requests", "toomanyrequests"]) => ErrorKind::ResourceExhausted,
        // The engine aborted a stalled pull, or was stopped.
        Code::Cancelled => ErrorKind::Unavailable,
        _ if has(&[
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
            "context canceled",
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
    // A retry does not make a certificate trusted.
    if has(&["x509:"]) { error.with_retryable(false) } else { error }
}

/// Returns whether a request was not sent, because there was no connection.
pub(crate) fn was_not_sent(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable
        && find_source::<io::Error>(error).is_some_and(|io| {
            matches!(io.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        })
}

/// A field of the spec, and parts of the messages that blame it.
type Blame = (&'static str, &'static [&'static str]);

/// Errors of an engine before it runs runc.
const BLAMED_BEFORE_RUNC: &[Blame] = &[
    ("user", &["no users found", "no such user", "unable to find user"]),
    ("groups", &["no groups found", "unable to find group"]),
    ("command", &["no command specified"]),
    ("gpus", &["CDI"]),
];

/// Errors of runc. containerd runs it at the start, CRI-O at the create.
const BLAMED_BY_RUNC: &[Blame] = &[
    ("user", &["unable to find user", "no matching entries in passwd file"]),
    ("groups", &["unable to find groups"]),
    ("working_dir", &["chdir to cwd"]),
    ("command", &["exec:", "executable file not found", "executable file `"]),
    ("mounts", &["error mounting", "mount source"]),
    ("memory", &["memory limit", "memory.limit_in_bytes", "memory.max", "OOM-killed"]),
    ("gpus", &["CDI"]),
];

/// Adds the field of the spec that is to blame to the error of a create.
pub(crate) fn at_create(error: Error) -> Error {
    blame(blame(error, BLAMED_BEFORE_RUNC), BLAMED_BY_RUNC)
}

/// Adds the field of the spec that is to blame to the error of a start.
pub(crate) fn at_start(error: Error) -> Error {
    blame(error, BLAMED_BY_RUNC)
}

/// Returns the error for a published port that another sandbox has.
pub(crate) fn port_conflict(port: u16) -> Error {
    Error::new(ErrorKind::ResourceExhausted)
        .with_field("tcp_ports")
        .with_message(format!("{port}{PORT_TAKEN}"))
}

const PORT_TAKEN: &str = " is published by another sandbox";

/// Returns whether a create failed because a published port of the host is taken, by the message of
/// this crate or of the engine.
pub(crate) fn is_port_conflict(error: &Error) -> bool {
    let message = error.message().unwrap_or_default();
    [PORT_TAKEN, "address already in use", "port is already allocated", "cannot open hostport"]
        .iter()
        .any(|part| message.contains(part))
}

/// Returns whether a start was refused because the container was started before.
pub(crate) fn is_started_before(error: &Error) -> bool {
    has_message(
        error,
        &[
            "is in CONTAINER_RUNNING",
            "is in CONTAINER_EXITED",
            "already in starting state",
            // CRI-O and its runc.
            "is not in created state",
            "cannot start an already running container",
        ],
    )
}

fn blame(error: Error, fields: &[Blame]) -> Error {
    let to_blame = fields.iter().find(|(_, parts)| has_message(&error, parts));
    let Some((field, _)) = to_blame else { return error };
    // Without the original error as its source, because that has the same message.
    Error::invalid(*field, error.message().unwrap_or_default())
}

/// Returns whether an error without a code has a message with one of these parts.
fn has_message(error: &Error, parts: &[&str]) -> bool {
    let message = error.message().unwrap_or_default();
    error.kind() == ErrorKind::Internal && parts.iter().any(|part| message.contains(part))
}

/// Maps an error of the engine's streaming server at the open of a session.
pub(crate) fn from_session(error: remote_command::Error) -> Error {
    let kind = match &error {
        remote_command::Error::Refused { status, .. } => match status.as_u16() {
            401 | 403 => ErrorKind::PermissionDenied,
            _ => ErrorKind::Internal,
        },
        remote_command::Error::Negotiation { .. } => ErrorKind::Internal,
        _ => return session_cut_off(error),
    };
    Error::new(kind).with_message(error.to_string()).with_source(error)
}

/// Returns the error for a lost connection to the engine's streaming server.
pub(crate) fn session_cut_off(source: impl StdError + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable)
        .with_message("the connection to the engine's streaming server was lost")
        .with_source(source)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ErrorKind as K;

    use super::*;
    use runtime_support::is_unclear;

    /// Errors of all methods except for pull_image.
    const ERRORS: &[(Code, &str, K)] = &[
        (
            Code::NotFound,
            "an error occurred when try to find container \"c0ffee\": not found",
            K::NotFound,
        ),
        (
            Code::NotFound,
            "failed to resolve image \"r.io/a:1\": image \"r.io/a:1\": not found",
            K::ImageNotFound,
        ),
        (Code::AlreadyExists, "container \"c0ffee\": already exists", K::AlreadyExists),
        (
            Code::Unknown,
            "failed to reserve sandbox name \"a_s_1_0\": name \"a_s_1_0\" is reserved for \"c0ffee\"",
            K::AlreadyExists,
        ),
        (
            Code::FailedPrecondition,
            "failed to reserve sandbox name \"a_s_1_0\": name \"a_s_1_0\" is reserved for \"c0ffee\"",
            K::AlreadyExists,
        ),
        (Code::FailedPrecondition, "container is not running", K::InvalidState),
        (Code::InvalidArgument, "sandbox config is nil", K::InvalidArgument),
        (Code::OutOfRange, "out of range", K::InvalidArgument),
        (Code::Unauthenticated, "who are you", K::Unauthenticated),
        (Code::PermissionDenied, "you may not", K::PermissionDenied),
        (
            Code::ResourceExhausted,
            "grpc: received message larger than max (17000000 vs. 16777216)",
            K::ResourceExhausted,
        ),
        (Code::Unimplemented, "unknown service runtime.v1.RuntimeService", K::Unsupported),
        (Code::DeadlineExceeded, "context deadline exceeded", K::Timeout),
        (Code::Unavailable, "error reading from server: EOF", K::Unavailable),
        (Code::Cancelled, "failed to start sandbox container: context canceled", K::Unavailable),
        (
            Code::Unknown,
            "failed to start containerd task \"c0ffee\": context canceled",
            K::Unavailable,
        ),
        (Code::Unknown, "server is not initialized yet", K::Unavailable),
        (
            Code::Unknown,
            "failed to setup network for sandbox \"c0ffee\": cni plugin not initialized",
            K::Unavailable,
        ),
        (
            Code::Unknown,
            "an error occurs during waiting for container \"c0ffee\" to be killed: wait container \"c0ffee\": context deadline exceeded",
            K::Timeout,
        ),
        (
            Code::Unknown,
            "failed to create sandbox root directory: mkdir /x: No space left on device",
            K::ResourceExhausted,
        ),
        (Code::Unknown, "write /x: disk quota exceeded", K::ResourceExhausted),
        (
            Code::Unknown,
            "failed to create shim task: pipe2: too many open files",
            K::ResourceExhausted,
        ),
        (
            Code::Unknown,
            "failed to create shim task: OCI runtime create failed: runc did not terminate successfully: fork/exec /proc/self/exe: cannot allocate memory",
            K::ResourceExhausted,
        ),
        (
            Code::Unknown,
            "failed to get sandbox runtime: no runtime for \"kata\" is configured",
            K::Internal,
        ),
        (Code::Aborted, "the transaction was aborted", K::Internal),
        (Code::Internal, "stream terminated by RST_STREAM", K::Internal),
        (Code::DataLoss, "the data is lost", K::Internal),
    ];

    /// Errors of pull_image.
    const PULL_ERRORS: &[(Code, &str, K)] = &[
        (
            Code::NotFound,
            "failed to pull and unpack image \"r.io/a:1\": failed to resolve reference \"r.io/a:1\": r.io/a:1: not found",
            K::ImageNotFound,
        ),
        (Code::Unknown, "no match for platform in manifest sha256:1", K::ImageNotFound),
        (Code::Unknown, "reading manifest 1 in r.io/a: manifest unknown", K::ImageNotFound),
        (
            Code::Unknown,
            "failed to parse image reference \"A\": invalid reference format: repository name must be lowercase",
            K::InvalidArgument,
        ),
        (
            Code::Unknown,
            "pulling from host r.io failed with status code [manifests 1]: 401 Unauthorized",
            K::Unauthenticated,
        ),
        (
            Code::Unknown,
            "unable to retrieve auth token: invalid username/password: authentication required",
            K::Unauthenticated,
        ),
        (
            Code::Unknown,
            "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
            K::Unauthenticated,
        ),
        (
            Code::Unknown,
            "pulling from host r.io failed with status code [manifests 1]: 403 Forbidden",
            K::PermissionDenied,
        ),
        (
            Code::Unknown,
            "failed to extract layer sha256:1: write /x: no space left on device",
            K::ResourceExhausted,
        ),
        (
            Code::Unknown,
            "unexpected status code 429 Too Many Requests - Server message: toomanyrequests: slow down",
            K::ResourceExhausted,
        ),
        (
            Code::Unknown,
            "failed to do request: Head \"https://r.io/v2/a/manifests/1\": dial tcp: lookup r.io: no such host",
            K::Unavailable,
        ),
        (Code::Unknown, "unexpected status code 503 Service Unavailable", K::Unavailable),
        (
            Code::Cancelled,
            "failed to pull and unpack image \"r.io/a:1\": context canceled",
            K::Unavailable,
        ),
        (
            Code::Unknown,
            "failed to copy: httpReadSeeker: failed open: context canceled",
            K::Unavailable,
        ),
        (Code::Unavailable, "error reading from server: EOF", K::Unavailable),
        (Code::DeadlineExceeded, "context deadline exceeded", K::Timeout),
        (Code::Unimplemented, "unknown service runtime.v1.ImageService", K::Unsupported),
        (
            Code::Unknown,
            "failed to extract layer sha256:1: archive/tar: invalid tar header",
            K::Internal,
        ),
    ];

    #[test]
    fn refusal_maps_every_code() {
        for (code, message, kind) in ERRORS {
            let error = refusal("run_pod_sandbox", *code, message);
            assert_eq!(error.kind(), *kind, "{code:?} {message}");
            assert_eq!(error.message(), Some(*message));
        }
        let codes: HashSet<Code> = ERRORS.iter().map(|(code, _, _)| *code).collect();
        let missing: Vec<Code> =
            (1_i32..=16).map(Code::from_i32).filter(|code| !codes.contains(code)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn pull_refusal_maps_messages() {
        for (code, message, kind) in PULL_ERRORS {
            let error = refusal("pull_image", *code, message);
            assert_eq!(error.kind(), *kind, "{code:?} {message}");
            let field = (*kind == K::InvalidArgument).then_some("image");
            assert_eq!(error.field(), field, "{message}");
        }
        // A retry does not make a certificate trusted.
        let message =
            "tls: failed to verify certificate: x509: certificate signed by unknown authority";
        let error = refusal("pull_image", Code::Unknown, message);
        assert_eq!((error.kind(), error.is_retryable()), (K::Unavailable, false));
    }

    #[test]
    fn refusal_of_create_and_start_names_the_field() {
        let runc = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process";
        let starts = [
            ("exec: \"/no/such\": stat /no/such: no such file or directory", Some("command")),
            ("error mounting \"/a\" to rootfs at \"/b\": not a directory", Some("mounts")),
            ("container init was OOM-killed (memory limit too low?)", Some("memory")),
            (
                "error setting cgroup config for procHooks process: failed to write 4096: write /sys/fs/cgroup/memory/a/memory.limit_in_bytes: device or resource busy",
                Some("memory"),
            ),
            ("write /sys/fs/cgroup/a/pids.max: device or resource busy", None),
            ("exec /bin/a: cannot allocate memory", None),
            ("chdir to cwd (\"/etc/passwd\") failed: not a directory", Some("working_dir")),
            ("unresolvable CDI devices test.example/gpu=9", Some("gpus")),
            ("something else", None),
        ];
        let creates = [
            ("mount callback failed on /tmp/a: no users found", Some("user")),
            ("mount callback failed on /tmp/a: no groups found", Some("groups")),
            ("failed to generate spec: no command specified", Some("command")),
            ("CDI device injection failed: unresolvable CDI devices a/b=9", Some("gpus")),
            // CRI-O runs runc at the create.
            ("unable to find user nobody-there: no matching entries in passwd file", Some("user")),
            (
                "container create failed: runc create failed: unable to start container process: \
                 exec: \"no-such\": executable file not found in $PATH",
                Some("command"),
            ),
            (
                "container create failed: chdir to cwd (\"/etc/passwd\") set in config.json failed: \
                 not a directory",
                Some("working_dir"),
            ),
            ("something else", None),
        ];
        let check = |map: fn(Error) -> Error, call: &str, message: &str, field: Option<&str>| {
            let error = map(refusal(call, Code::Unknown, message));
            let kind = if field.is_some() { K::InvalidArgument } else { K::Internal };
            assert_eq!((error.kind(), error.field()), (kind, field), "{message}");
            assert_eq!(error.message(), Some(message));
        };
        for (message, field) in starts {
            check(at_start, "start_container", &format!("{runc}: {message}: unknown"), field);
        }
        for (message, field) in creates {
            check(at_create, "create_container", message, field);
        }
        // An error with a kind keeps it.
        let full = refusal("create_container", Code::ResourceExhausted, "no users found");
        assert_eq!(at_create(full).kind(), K::ResourceExhausted);
    }

    #[test]
    fn second_start_differs_from_failed_start() {
        for (message, before) in [
            ("container is in CONTAINER_RUNNING state", true),
            ("container is in CONTAINER_EXITED state", true),
            ("container is already in starting state", true),
            ("container c0ffee is not in created state: running", true),
            ("container c0ffee is not in created state: stopped", true),
            ("cannot start an already running container", true),
            ("container is in removing state, can't be started", false),
        ] {
            let error = refusal("start_container", Code::Unknown, message);
            assert_eq!(is_started_before(&error), before, "{message}");
        }
    }

    /// Returns an error of the connection.
    fn broken(kind: io::ErrorKind) -> Error {
        let endpoint = Endpoint { socket: "/run/engine.sock".into() };
        let status = Status::from_error(Box::new(io::Error::from(kind)));
        from_status("stop_container", &endpoint, status)
    }

    #[test]
    fn from_status_maps_connection_errors() {
        use std::io::ErrorKind as Io;
        for (io, kind, message) in [
            (Io::NotFound, K::Unavailable, "there is no socket"),
            (Io::ConnectionRefused, K::Unavailable, "connection refused"),
            (Io::PermissionDenied, K::PermissionDenied, "permission denied to open the socket"),
            (Io::TimedOut, K::Timeout, "timed out while connecting"),
            (Io::ConnectionReset, K::Unavailable, "the connection was lost"),
        ] {
            let error = broken(io);
            let message = format!("{message}: unix:///run/engine.sock");
            assert_eq!((error.kind(), error.message()), (kind, Some(&*message)));
        }
        let endpoint = Endpoint { socket: "/run/engine.sock".into() };
        let answer = Status::new(Code::NotFound, "not found");
        assert_eq!(from_status("remove", &endpoint, answer).kind(), K::NotFound);
    }

    #[test]
    fn unsent_request_had_no_effect() {
        use std::io::ErrorKind as Io;
        for (error, unclear) in [
            (Error::new(K::Timeout), true),
            (Error::new(K::Lost), true),
            (refusal("stop_container", Code::Unavailable, "EOF"), true),
            (refusal("stop_container", Code::Cancelled, "context canceled"), true),
            (broken(Io::ConnectionReset), true),
            (broken(Io::BrokenPipe), true),
            (broken(Io::NotFound), false),
            (broken(Io::ConnectionRefused), false),
            (broken(Io::PermissionDenied), false),
            (refusal("stop_container", Code::NotFound, "not found"), false),
            (refusal("stop_container", Code::Unknown, "boom"), true),
        ] {
            let may_be_done = is_unclear(&error) && !was_not_sent(&error);
            assert_eq!(may_be_done, unclear, "{error:?}");
        }
    }

    #[test]
    fn from_session_maps_status_codes() {
        let refused = |code: u16| remote_command::Error::Refused {
            status: http::StatusCode::from_u16(code).unwrap(),
            message: "no".to_owned(),
        };
        for (error, kind) in [
            (refused(401), K::PermissionDenied),
            (refused(403), K::PermissionDenied),
            (refused(404), K::Internal),
            (refused(500), K::Internal),
            (remote_command::Error::Negotiation { upgrade: None, subprotocol: None }, K::Internal),
            (remote_command::Error::NoOutcome(None), K::Unavailable),
            (spdy_client::Error::Closed.into(), K::Unavailable),
        ] {
            assert_eq!(from_session(error.clone()).kind(), kind, "{error}");
        }
    }
}
