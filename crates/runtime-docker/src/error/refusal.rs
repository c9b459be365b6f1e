//! Classifies the engine's refusals by status and message.

use runtime_core::{Error, ErrorKind, Operation};

/// Returns the error of a refusal. The kind follows from the message if a rule matches it, else
/// from the status. The status alone is not enough, because Docker returns 500 for most errors of
/// registries and of the OCI runtime, and Podman for nearly all errors.
pub(crate) fn refusal(operation: Operation, status: u16, message: &str) -> Error {
    let (kind, field) = classify(operation, status, message);
    let mut error = Error::new(kind).with_message(message.trim()).during(operation);
    if let Some(field) = field {
        error = error.with_field(field);
    }
    error
}

/// Returns `true` if a registry refused access to an image without reporting if the image exists.
pub(crate) fn is_hidden_image(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("pull access denied")
        || message.contains("requested access to the resource is denied")
}

/// Returns `true` if Podman failed to inspect a container because its process ended meanwhile: `read
/// /proc/PID/cgroup: no such process`. Podman 4.3 only handles a missing file as an end.
pub(crate) fn is_process_gone(error: &Error) -> bool {
    let message = error.message().unwrap_or_default();
    message.starts_with("read /proc/") && message.ends_with("/cgroup: no such process")
}

fn classify(operation: Operation, status: u16, message: &str) -> (ErrorKind, Option<&'static str>) {
    // Only the case of the first letter distinguishes a supplementary group from the user's group.
    if message.contains("Unable to find group") {
        return (ErrorKind::InvalidArgument, Some("groups"));
    }
    let lowercase = message.to_lowercase();
    let matches = |rule: &&Rule| {
        rule.patterns.iter().all(|pattern| lowercase.contains(pattern))
            && (rule.during.is_empty() || rule.during.contains(&operation))
    };
    if let Some(rule) = RULES.iter().find(matches) {
        return (rule.kind, rule.field);
    }
    let kind = match status {
        400 => ErrorKind::InvalidArgument,
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::PermissionDenied,
        404 => ErrorKind::NotFound,
        409 => ErrorKind::InvalidState,
        502..=504 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    (kind, None)
}

struct Rule {
    /// The parts that the message contains, case-insensitively.
    patterns: &'static [&'static str],
    /// The operations of the rule. Empty means all.
    during: &'static [Operation],
    kind: ErrorKind,
    field: Option<&'static str>,
}

const fn rule(patterns: &'static [&'static str], kind: ErrorKind) -> Rule {
    Rule { patterns, during: &[], kind, field: None }
}

const fn invalid(patterns: &'static [&'static str], field: &'static str) -> Rule {
    // The operations that can refuse a field of a spec.
    const OF_SPECS: &[Operation] = &[Operation::Create, Operation::Start, Operation::Exec];
    Rule { patterns, during: OF_SPECS, kind: ErrorKind::InvalidArgument, field: Some(field) }
}

const fn pulling(patterns: &'static [&'static str], kind: ErrorKind) -> Rule {
    const PULLS: &[Operation] = &[Operation::Pull, Operation::Create];
    Rule { patterns, during: PULLS, kind, field: None }
}

/// The first rule that matches applies.
const RULES: &[Rule] = &[
    rule(&["no space left on device"], ErrorKind::ResourceExhausted),
    rule(&["disk quota exceeded"], ErrorKind::ResourceExhausted),
    rule(&["cannot allocate memory"], ErrorKind::ResourceExhausted),
    rule(&["resource temporarily unavailable"], ErrorKind::ResourceExhausted),
    rule(&["too many open files"], ErrorKind::ResourceExhausted),
    rule(&["port is already allocated"], ErrorKind::ResourceExhausted),
    rule(&["address already in use"], ErrorKind::ResourceExhausted),
    rule(&["no available ipv4 addresses"], ErrorKind::ResourceExhausted),
    rule(&["is already in use by container"], ErrorKind::AlreadyExists),
    rule(&["that name is already in use"], ErrorKind::AlreadyExists),
    rule(&["no such image"], ErrorKind::ImageNotFound),
    rule(&["image not known"], ErrorKind::ImageNotFound),
    rule(&["no such container"], ErrorKind::NotFound),
    rule(&["no container with name or id"], ErrorKind::NotFound),
    rule(&["container state improper"], ErrorKind::InvalidState),
    rule(&["is not running"], ErrorKind::InvalidState),
    rule(&["is marked for removal"], ErrorKind::InvalidState),
    rule(&["removal of container", "is already in progress"], ErrorKind::InvalidState),
    // Registries.
    pulling(&["manifest unknown"], ErrorKind::ImageNotFound),
    pulling(&["name unknown"], ErrorKind::ImageNotFound),
    pulling(&["manifest for", "not found"], ErrorKind::ImageNotFound),
    pulling(&["no matching manifest"], ErrorKind::ImageNotFound),
    pulling(&["no image found in", "for architecture"], ErrorKind::ImageNotFound),
    // Without credentials. With credentials the caller returns `ImageNotFound`.
    pulling(&["pull access denied"], ErrorKind::Unauthenticated),
    pulling(&["requested access to the resource is denied"], ErrorKind::Unauthenticated),
    pulling(&["unauthorized"], ErrorKind::Unauthenticated),
    pulling(&["authentication required"], ErrorKind::Unauthenticated),
    pulling(&["no basic auth credentials"], ErrorKind::Unauthenticated),
    pulling(&["incorrect username or password"], ErrorKind::Unauthenticated),
    pulling(&["invalid username/password"], ErrorKind::Unauthenticated),
    pulling(&["toomanyrequests"], ErrorKind::ResourceExhausted),
    pulling(&["too many requests"], ErrorKind::ResourceExhausted),
    pulling(&["403 forbidden"], ErrorKind::PermissionDenied),
    pulling(&["denied:"], ErrorKind::PermissionDenied),
    pulling(&["connection refused"], ErrorKind::Unavailable),
    pulling(&["connection reset"], ErrorKind::Unavailable),
    pulling(&["no such host"], ErrorKind::Unavailable),
    pulling(&["server misbehaving"], ErrorKind::Unavailable),
    pulling(&["no route to host"], ErrorKind::Unavailable),
    pulling(&["network is unreachable"], ErrorKind::Unavailable),
    pulling(&["i/o timeout"], ErrorKind::Unavailable),
    pulling(&["timeout exceeded"], ErrorKind::Unavailable),
    pulling(&["tls handshake"], ErrorKind::Unavailable),
    pulling(&["x509:"], ErrorKind::Unavailable),
    pulling(&["server gave http response to https client"], ErrorKind::Unavailable),
    pulling(&["unexpected eof"], ErrorKind::Unavailable),
    pulling(&["received unexpected http status"], ErrorKind::Unavailable),
    Rule {
        patterns: &["invalid reference format"],
        during: &[Operation::Pull, Operation::Create],
        kind: ErrorKind::InvalidArgument,
        field: Some("image"),
    },
    // Specs, at the create or at the start.
    invalid(&["bind source path does not exist"], "mounts"),
    invalid(&["invalid mount"], "mounts"),
    invalid(&["duplicate mount point"], "mounts"),
    invalid(&["error mounting"], "mounts"),
    invalid(&["error while creating mount source path"], "mounts"),
    invalid(&["statfs", "no such file or directory"], "mounts"),
    invalid(&["trying to mount a directory onto a file"], "mounts"),
    invalid(&["unable to find user"], "user"),
    invalid(&["unable to find group"], "user"),
    invalid(&["memory limit"], "memory"),
    invalid(&["range of cpus"], "cpu_count"),
    invalid(&["invalid cpu"], "cpu_count"),
    invalid(&["shm", "size"], "shared_memory"),
    invalid(&["could not select device driver"], "gpus"),
    invalid(&["unresolvable cdi devices"], "gpus"),
    invalid(&["nvidia-container-cli"], "gpus"),
    invalid(&["invalid container name"], "name"),
    invalid(&["names must match"], "name"),
    invalid(&["invalid hostname"], "hostname"),
    invalid(&["cannot mkdir"], "working_dir"),
    invalid(&["workdir"], "working_dir"),
    invalid(&["chdir to"], "working_dir"),
    invalid(&["chdir: no such file"], "working_dir"),
    // crun. Podman adds that a command was not found to each missing file.
    invalid(&["crun: mount `"], "mounts"),
    invalid(&["crun: open executable"], "command"),
    invalid(&["no command or entrypoint provided"], "command"),
    invalid(&["no command specified"], "command"),
    invalid(&["executable file not found"], "command"),
    invalid(&["command that was not found"], "command"),
    invalid(&["exec:", "no such file or directory"], "command"),
    invalid(&["exec:", "permission denied"], "command"),
    invalid(&["exec:", "is a directory"], "command"),
    invalid(&["exec:", "not a directory"], "command"),
    invalid(&["exec format error"], "command"),
    invalid(&["argument list too long"], "arguments"),
];

#[cfg(test)]
mod tests {
    use ErrorKind as K;
    use Operation as O;

    use super::*;

    /// Refusals of Docker Engine 20.10, 26.1 and 28.5 (D) and of Podman 4.3 (P). The refusals of
    /// crun and of images for other platforms are from issues of the projects.
    const REFUSALS: &[(O, u16, &str, K, Option<&str>)] = &[
        // D
        (O::Create, 404, "No such image: 127.0.0.1:5000/test/none:1", K::ImageNotFound, None),
        (
            O::Create,
            400,
            "invalid reference format: repository name must be lowercase",
            K::InvalidArgument,
            Some("image"),
        ),
        (
            O::Create,
            409,
            "Conflict. The container name \"/x\" is already in use by container \"33\". You have to remove (or rename) that container to be able to reuse that name.",
            K::AlreadyExists,
            None,
        ),
        (
            O::Create,
            400,
            "Invalid container name (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            K::InvalidArgument,
            Some("name"),
        ),
        (
            O::Create,
            400,
            "invalid mount config for type \"bind\": bind source path does not exist: /nonexistent/dir",
            K::InvalidArgument,
            Some("mounts"),
        ),
        (O::Create, 400, "Minimum memory limit allowed is 6MB", K::InvalidArgument, Some("memory")),
        (
            O::Create,
            400,
            "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            K::InvalidArgument,
            Some("cpu_count"),
        ),
        (
            O::Create,
            500,
            "Cannot mkdir: /etc/passwd is not a directory",
            K::InvalidArgument,
            Some("working_dir"),
        ),
        (
            O::Start,
            400,
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/no/such/cmd\": stat /no/such/cmd: no such file or directory: unknown",
            K::InvalidArgument,
            Some("command"),
        ),
        (
            O::Start,
            400,
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"nosuchcmd\": executable file not found in $PATH: unknown",
            K::InvalidArgument,
            Some("command"),
        ),
        (
            O::Start,
            400,
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/etc\": permission denied: unknown",
            K::InvalidArgument,
            Some("command"),
        ),
        (
            O::Start,
            500,
            "unable to find user nosuchuser: no matching entries in passwd file",
            K::InvalidArgument,
            Some("user"),
        ),
        (
            O::Start,
            500,
            "unable to find group nosuchgroup: no matching entries in group file",
            K::InvalidArgument,
            Some("user"),
        ),
        (
            O::Start,
            500,
            "Unable to find group nosuchgroup: no matching entries in group file",
            K::InvalidArgument,
            Some("groups"),
        ),
        (
            O::Start,
            500,
            "could not select device driver \"\" with capabilities: [[gpu]]",
            K::InvalidArgument,
            Some("gpus"),
        ),
        (
            O::Start,
            400,
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: error mounting \"/etc/hostname\" to rootfs at \"/etc\": mount /etc/hostname:/etc (via /proc/self/fd/6), flags: 0x5000: not a directory: unknown: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type",
            K::InvalidArgument,
            Some("mounts"),
        ),
        (
            O::Start,
            500,
            "driver failed programming external connectivity on endpoint web: Bind for 0.0.0.0:80 failed: port is already allocated",
            K::ResourceExhausted,
            None,
        ),
        (O::Info, 404, "No such container: c2292a0c7a5c", K::NotFound, None),
        (
            O::Kill,
            409,
            "Cannot kill container: c22: Container c22 is not running",
            K::InvalidState,
            None,
        ),
        (O::Kill, 404, "Cannot kill container: c22: No such container: c22", K::NotFound, None),
        (
            O::Remove,
            409,
            "removal of container 1725cc is already in progress",
            K::InvalidState,
            None,
        ),
        (
            O::Pull,
            500,
            "Head \"http://127.0.0.1:5000/v2/test/layers/manifests/1\": no basic auth credentials",
            K::Unauthenticated,
            None,
        ),
        (O::Pull, 500, "unauthorized: authentication required", K::Unauthenticated, None),
        (
            O::Pull,
            404,
            "manifest for 127.0.0.1:5000/test/layers:nosuch not found: manifest unknown: manifest unknown",
            K::ImageNotFound,
            None,
        ),
        (
            O::Pull,
            404,
            "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            K::Unauthenticated,
            None,
        ),
        (
            O::Pull,
            500,
            "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
            K::Unavailable,
            None,
        ),
        (
            O::Pull,
            500,
            "Get \"https://no.such.host.invalid/v2/\": dial tcp: lookup no.such.host.invalid on 10.0.0.1:53: no such host",
            K::Unavailable,
            None,
        ),
        (
            O::Pull,
            200,
            "toomanyrequests: You have reached your pull rate limit.",
            K::ResourceExhausted,
            None,
        ),
        (
            O::Pull,
            200,
            "failed to register layer: write /x: no space left on device",
            K::ResourceExhausted,
            None,
        ),
        // P
        (
            O::Create,
            404,
            "no such image: 127.0.0.1:5000/test/none:1: image not known",
            K::ImageNotFound,
            None,
        ),
        (
            O::Start,
            500,
            "crun: executable file `no-such` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a command that was not found",
            K::InvalidArgument,
            Some("command"),
        ),
        (
            O::Start,
            500,
            "crun: open executable: Permission denied: OCI permission denied",
            K::InvalidArgument,
            Some("command"),
        ),
        (
            O::Start,
            500,
            "crun: open executable: Operation not permitted: OCI permission denied",
            K::InvalidArgument,
            Some("command"),
        ),
        (
            O::Start,
            500,
            "crun: chdir to `/etc/passwd`: Not a directory: OCI runtime error",
            K::InvalidArgument,
            Some("working_dir"),
        ),
        (
            O::Start,
            500,
            "chdir: No such file or directory: OCI runtime command not found error",
            K::InvalidArgument,
            Some("working_dir"),
        ),
        (
            O::Start,
            500,
            "crun: mount `/etc/hostname` to `etc`: Not a directory: OCI runtime error",
            K::InvalidArgument,
            Some("mounts"),
        ),
        (
            O::Create,
            500,
            "container create: no command or entrypoint provided, and no CMD or ENTRYPOINT from image",
            K::InvalidArgument,
            Some("command"),
        ),
        (
            O::Pull,
            200,
            "choosing an image from manifest list docker://r/test/arm:1: no image found in image index for architecture amd64, variant \"\", OS linux",
            K::ImageNotFound,
            None,
        ),
        (
            O::Pull,
            500,
            "Error choosing image instance: no image found in manifest list for architecture amd64, variant v7, OS linux",
            K::ImageNotFound,
            None,
        ),
        (
            O::Create,
            500,
            "normalizing image: normalizing name for compat API: invalid reference format",
            K::InvalidArgument,
            Some("image"),
        ),
        (
            O::Create,
            500,
            "container create: creating container storage: the container name \"x\" is already in use by 726e. You have to remove that container to be able to reuse that name: that name is already in use",
            K::AlreadyExists,
            None,
        ),
        (
            O::Create,
            500,
            "container create: running container create option: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument",
            K::InvalidArgument,
            Some("name"),
        ),
        (
            O::Start,
            500,
            "runc: runc create failed: unable to start container process: exec: \"/no/such/cmd\": stat /no/such/cmd: no such file or directory: OCI runtime attempted to invoke a command that was not found",
            K::InvalidArgument,
            Some("command"),
        ),
        (
            O::Start,
            500,
            "runc: runc create failed: unable to start container process: exec: \"/etc/passwd\": permission denied: OCI permission denied",
            K::InvalidArgument,
            Some("command"),
        ),
        (
            O::Start,
            500,
            "looking up supplemental groups for container 4f8f: Unable to find group nosuchgroup: no matching entries in group file",
            K::InvalidArgument,
            Some("groups"),
        ),
        (
            O::Start,
            500,
            "workdir \"/etc/passwd\" exists on container ff6e, but is not a directory",
            K::InvalidArgument,
            Some("working_dir"),
        ),
        (
            O::Start,
            500,
            "runc: runc create failed: unable to start container process: error during container init: error setting cgroup config for procHooks process: unable to set memory limit to 1048576 (current usage: 2613248, peak usage: 2666496): OCI runtime error",
            K::InvalidArgument,
            Some("memory"),
        ),
        (
            O::Kill,
            500,
            "can only kill running containers. 1d22 is in state created: container state improper",
            K::InvalidState,
            None,
        ),
        (
            O::Remove,
            404,
            "container 59e6 does not exist in database: no such container",
            K::NotFound,
            None,
        ),
        (
            O::Info,
            404,
            "no container with name or ID \"1d22\" found: no such container",
            K::NotFound,
            None,
        ),
        (
            O::Pull,
            200,
            "initializing source docker://r/test/layers:1: reading manifest 1 in r/test/layers: unauthorized: authentication required",
            K::Unauthenticated,
            None,
        ),
        (
            O::Pull,
            200,
            "initializing source docker://r/test/layers:nosuch: reading manifest nosuch in r/test/layers: manifest unknown: manifest unknown",
            K::ImageNotFound,
            None,
        ),
        (
            O::Pull,
            200,
            "initializing source docker://127.0.0.1:1/test/x:1: pinging container registry 127.0.0.1:1: Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
            K::Unavailable,
            None,
        ),
        // Classified by status only.
        (O::Info, 400, "bad parameter", K::InvalidArgument, None),
        (O::Info, 401, "", K::Unauthenticated, None),
        (O::Info, 403, "authorization denied by plugin", K::PermissionDenied, None),
        (O::Info, 404, "page not found", K::NotFound, None),
        (O::Info, 409, "conflict", K::InvalidState, None),
        (O::Info, 500, "oops", K::Internal, None),
        (O::Info, 503, "not ready", K::Unavailable, None),
        // Messages outside of the operations of their rule.
        (O::Logs, 500, "exec: permission denied", K::Internal, None),
        (O::CopyOut, 500, "unauthorized", K::Internal, None),
    ];

    #[test]
    fn refusal_of_engine_has_kind_and_field() {
        for &(operation, status, message, kind, field) in REFUSALS {
            let error = refusal(operation, status, message);
            assert_eq!((error.kind(), error.field()), (kind, field), "{message}");
            assert_eq!(error.operation(), Some(operation));
            assert_eq!(error.message(), Some(message));
        }
    }
}
