//! The error type of all operations on all backends.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Capability;

/// Result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kind of an [`Error`]. Match on the kind, not on the text of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The container, or a path in the container, does not exist.
    NotFound,
    /// The image is not on the engine (policy `never`), or the registry does not have it.
    ImageNotFound,
    /// The name is taken.
    AlreadyExists,
    /// The container was created and has not been started.
    NotStarted,
    /// The state of the container does not allow the operation.
    InvalidState,
    /// The caller's input is invalid; [`Error::field`] names the field.
    InvalidArgument,
    /// The engine does not support the request; [`Error::capability`] names the missing capability.
    Unsupported,
    /// The engine or the registry rejects the credentials, or requires some.
    Unauthenticated,
    /// The credentials are valid but do not grant the required permission.
    PermissionDenied,
    /// The engine or the registry is unreachable, or the connection was lost.
    Unavailable,
    /// The deadline of the operation has passed.
    Timeout,
    /// The engine has run out of a resource: disk, memory, ports, quota.
    ResourceExhausted,
    /// The result can no longer be determined, because the session, the container or the node that
    /// held it is gone.
    Lost,
    /// Any other failure, including a malformed response.
    Internal,
}

impl ErrorKind {
    /// Returns the kind in snake case, as it is serialised.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::ImageNotFound => "image_not_found",
            Self::AlreadyExists => "already_exists",
            Self::NotStarted => "not_started",
            Self::InvalidState => "invalid_state",
            Self::InvalidArgument => "invalid_argument",
            Self::Unsupported => "unsupported",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Lost => "lost",
            Self::Internal => "internal",
        }
    }

    const fn phrase(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::ImageNotFound => "image not found",
            Self::AlreadyExists => "already exists",
            Self::NotStarted => "not started",
            Self::InvalidState => "invalid state",
            Self::InvalidArgument => "invalid argument",
            Self::Unsupported => "not supported",
            Self::Unauthenticated => "not authenticated",
            Self::PermissionDenied => "permission denied",
            Self::Unavailable => "unavailable",
            Self::Timeout => "deadline exceeded",
            Self::ResourceExhausted => "resources exhausted",
            Self::Lost => "result lost",
            Self::Internal => "internal error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Operation during which an [`Error`] occurred.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Operation {
            $($(#[$doc])* $variant,)*
        }

        impl Operation {
            /// Returns the operation in lower case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

operations! {
    /// Opening a connection to an engine.
    Connect = "connect",
    /// [`Runtime::health`](crate::Runtime::health).
    Health = "health",
    /// [`Runtime::pull_image`](crate::Runtime::pull_image).
    Pull = "pull image",
    /// [`Runtime::create_container`](crate::Runtime::create_container).
    Create = "create container",
    /// [`Runtime::container`](crate::Runtime::container).
    Reattach = "reattach",
    /// [`Runtime::list_containers`](crate::Runtime::list_containers).
    List = "list containers",
    /// [`Runtime::events`](crate::Runtime::events).
    Events = "events",
    /// [`Runtime::reap`](crate::Runtime::reap).
    Reap = "reap",
    /// [`Runtime::close`](crate::Runtime::close).
    Close = "close",
    /// [`Container::start`](crate::Container::start).
    Start = "start container",
    /// [`Container::wait`](crate::Container::wait).
    Wait = "wait for container",
    /// [`Container::info`](crate::Container::info).
    Info = "inspect container",
    /// [`Container::logs`](crate::Container::logs).
    Logs = "read logs",
    /// [`Container::stats`](crate::Container::stats).
    Stats = "read stats",
    /// [`Container::stop`](crate::Container::stop).
    Stop = "stop container",
    /// [`Container::kill`](crate::Container::kill).
    Kill = "signal container",
    /// [`Container::remove`](crate::Container::remove).
    Remove = "remove container",
    /// [`Container::exec`](crate::Container::exec).
    Exec = "exec",
    /// [`Container::attach`](crate::Container::attach).
    Attach = "attach",
    /// [`Container::copy_in`](crate::Container::copy_in).
    CopyIn = "copy in",
    /// [`Container::copy_out`](crate::Container::copy_out).
    CopyOut = "copy out",
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Failure of an operation.
///
/// Cloning is cheap, because one failure may be returned to many waiters. `Display` prints one line
/// without the source; use [`source`](StdError::source) for the causes.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: Option<Operation>,
    backend: Option<&'static str>,
    subject: Option<String>,
    field: Option<String>,
    capability: Option<Capability>,
    retryable: Option<bool>,
    message: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    /// Creates an error with a kind and no further information.
    #[must_use]
    pub fn new(kind: ErrorKind) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind,
                operation: None,
                backend: None,
                subject: None,
                field: None,
                capability: None,
                retryable: None,
                message: None,
                source: None,
            }),
        }
    }

    /// Creates an `InvalidArgument` error. `field` is the path of the field in the caller's input,
    /// for example `mounts[2].target`.
    #[must_use]
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument).with_field(field).with_message(message)
    }

    /// Creates an `Unsupported` error for a missing capability.
    #[must_use]
    pub fn unsupported(capability: Capability) -> Self {
        Self::new(ErrorKind::Unsupported).with_capability(capability)
    }

    /// Creates an `Internal` error with a message.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal).with_message(message)
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }

    /// Sets the message, which adds detail to the kind. The message must not contain a password.
    #[must_use]
    pub fn with_message(self, message: impl Into<String>) -> Self {
        self.edit(|inner| inner.message = Some(message.into()))
    }

    /// Sets the field of the caller's input.
    #[must_use]
    pub fn with_field(self, field: impl Into<String>) -> Self {
        self.edit(|inner| inner.field = Some(field.into()))
    }

    /// Sets the missing capability.
    #[must_use]
    pub fn with_capability(self, capability: Capability) -> Self {
        self.edit(|inner| inner.capability = Some(capability))
    }

    /// Sets the underlying error.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.edit(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// Overrides the result of [`is_retryable`](Self::is_retryable).
    #[must_use]
    pub fn with_retryable(self, retryable: bool) -> Self {
        self.edit(|inner| inner.retryable = Some(retryable))
    }

    /// Sets the operation, unless it is already set.
    #[must_use]
    pub fn during(self, operation: Operation) -> Self {
        self.edit(|inner| inner.operation = inner.operation.or(Some(operation)))
    }

    /// Sets the backend, unless it is already set.
    #[must_use]
    pub fn on(self, backend: &'static str) -> Self {
        self.edit(|inner| inner.backend = inner.backend.or(Some(backend)))
    }

    /// Sets the subject, a container or an image, unless it is already set.
    #[must_use]
    pub fn about(self, subject: impl fmt::Display) -> Self {
        self.edit(|inner| {
            inner.subject.get_or_insert_with(|| subject.to_string());
        })
    }

    /// Returns the kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Returns the operation that failed.
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        self.inner.operation
    }

    /// Returns the backend: `docker`, `cri` or `kubernetes`.
    #[must_use]
    pub fn backend(&self) -> Option<&'static str> {
        self.inner.backend
    }

    /// Returns the container or the image that the operation was about.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.inner.subject.as_deref()
    }

    /// Returns the invalid or unsupported field of the caller's input.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.inner.field.as_deref()
    }

    /// Returns the capability that the engine lacks.
    #[must_use]
    pub fn capability(&self) -> Option<Capability> {
        self.inner.capability
    }

    /// Returns the message, without the kind and the context.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.inner.message.as_deref()
    }

    /// Returns `true` if the same call can succeed later without a change by the caller. Unless the
    /// backend overrides it, this is `true` for [`Unavailable`](ErrorKind::Unavailable),
    /// [`Timeout`](ErrorKind::Timeout) and [`ResourceExhausted`](ErrorKind::ResourceExhausted).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.inner.retryable.unwrap_or(matches!(
            self.inner.kind,
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::ResourceExhausted
        ))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        if let Some(backend) = inner.backend {
            write!(f, "{backend}: ")?;
        }
        if let Some(operation) = inner.operation {
            write!(f, "{operation}")?;
            if let Some(subject) = &inner.subject {
                write!(f, " {subject}")?;
            }
            f.write_str(": ")?;
        } else if let Some(subject) = &inner.subject {
            write!(f, "{subject}: ")?;
        }
        write!(f, "{}", inner.kind)?;
        if let Some(field) = &inner.field {
            write!(f, ": {field}")?;
        }
        if let Some(capability) = inner.capability {
            write!(f, " (the engine lacks {})", capability.name())?;
        }
        if let Some(message) = &inner.message {
            write!(f, ": {message}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        let mut out = f.debug_struct("Error");
        out.field("kind", &inner.kind);
        if let Some(operation) = inner.operation {
            out.field("operation", &operation);
        }
        if let Some(backend) = inner.backend {
            out.field("backend", &backend);
        }
        if let Some(subject) = &inner.subject {
            out.field("subject", subject);
        }
        if let Some(field) = &inner.field {
            out.field("field", field);
        }
        if let Some(capability) = inner.capability {
            out.field("capability", &capability);
        }
        if let Some(message) = &inner.message {
            out.field("message", message);
        }
        out.field("retryable", &self.is_retryable());
        if let Some(source) = &inner.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Methods that add context to the error of a [`Result`].
pub trait ResultExt<T> {
    /// Sets the operation of an error, see [`Error::during`].
    ///
    /// # Errors
    /// The same error with the operation.
    fn during(self, operation: Operation) -> Result<T>;
    /// Sets the backend of an error, see [`Error::on`].
    ///
    /// # Errors
    /// The same error with the backend.
    fn on(self, backend: &'static str) -> Result<T>;
    /// Sets the subject of an error, see [`Error::about`].
    ///
    /// # Errors
    /// The same error with the subject.
    fn about(self, subject: impl fmt::Display) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn during(self, operation: Operation) -> Result<T> {
        self.map_err(|error| error.during(operation))
    }

    fn on(self, backend: &'static str) -> Result<T> {
        self.map_err(|error| error.on(backend))
    }

    fn about(self, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.about(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_without_source() {
        let error = Error::invalid("memory", "must be at least 6291456 bytes")
            .on("docker")
            .during(Operation::Create)
            .about("job-1")
            .with_source(std::io::Error::other("the cause"));
        assert_eq!(
            error.to_string(),
            "docker: create container job-1: invalid argument: memory: must be at least 6291456 bytes"
        );
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("the cause"));
        assert!(!error.is_retryable());
    }

    #[test]
    fn context_set_twice_keeps_first_value() {
        let error = Error::new(ErrorKind::Unavailable)
            .during(Operation::Start)
            .during(Operation::Wait)
            .about("a")
            .about("b");
        assert_eq!(error.operation(), Some(Operation::Start));
        assert_eq!(error.subject(), Some("a"));
        assert!(error.is_retryable());
        assert!(!error.with_retryable(false).is_retryable());
    }

    #[test]
    fn kind_as_str_equals_serialised_form() {
        for kind in [ErrorKind::NotFound, ErrorKind::ImageNotFound, ErrorKind::Lost] {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{}\"", kind.as_str()));
        }
    }
}
