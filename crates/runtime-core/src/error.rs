//! The one error type of every operation on every backend.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Capability;

/// The result of every operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is. A caller decides by this, never by the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such container, or no such path in it.
    NotFound,
    /// The image is not on the engine (policy `never`), or the registry has no such image.
    ImageNotFound,
    /// The name is taken.
    AlreadyExists,
    /// The container was created and has not been started.
    NotStarted,
    /// The container is in a state that does not allow the operation.
    InvalidState,
    /// The caller's input is wrong; [`Error::field`] names the field.
    InvalidArgument,
    /// The engine cannot do it; [`Error::capability`] names what it lacks.
    Unsupported,
    /// The engine or the registry refuses the credentials, or wants some.
    Unauthenticated,
    /// The credentials are known and not enough.
    PermissionDenied,
    /// The engine or the registry cannot be reached, or went away.
    Unavailable,
    /// The deadline of the operation passed.
    Timeout,
    /// The engine is out of something: disk, memory, ports, quota.
    ResourceExhausted,
    /// The answer can no longer be known: it went with the session, the container or the
    /// node that had it.
    Lost,
    /// Anything else, an answer that makes no sense included.
    Internal,
}

impl ErrorKind {
    /// The kind in snake case, as it is serialised.
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
            Self::InvalidState => "not possible in this state",
            Self::InvalidArgument => "invalid argument",
            Self::Unsupported => "not supported",
            Self::Unauthenticated => "not authenticated",
            Self::PermissionDenied => "permission denied",
            Self::Unavailable => "unavailable",
            Self::Timeout => "deadline exceeded",
            Self::ResourceExhausted => "resources exhausted",
            Self::Lost => "answer lost",
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
        /// The operation that failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Operation {
            $($(#[$doc])* $variant,)*
        }

        impl Operation {
            /// The operation in lower case words.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

operations! {
    /// Connecting to an engine.
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

/// Why an operation failed.
///
/// It is cheap to clone, because one failure may have to be told to many waiters. `Display`
/// is one line without the source; walk [`source`](StdError::source) for the rest.
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
    /// A failure of this kind, about which nothing more is known yet.
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

    /// The caller's input is wrong: `field` is the path of the field as the caller wrote it,
    /// for example `mounts[2].target`.
    #[must_use]
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument).with_field(field).with_message(message)
    }

    /// The engine lacks `capability`.
    #[must_use]
    pub fn unsupported(capability: Capability) -> Self {
        Self::new(ErrorKind::Unsupported).with_capability(capability)
    }

    /// An internal error with a message.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal).with_message(message)
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }

    /// Says what happened, in words that add to the kind. Never a password.
    #[must_use]
    pub fn with_message(self, message: impl Into<String>) -> Self {
        self.edit(|inner| inner.message = Some(message.into()))
    }

    /// Names the field of the caller's input.
    #[must_use]
    pub fn with_field(self, field: impl Into<String>) -> Self {
        self.edit(|inner| inner.field = Some(field.into()))
    }

    /// Names the capability that is missing.
    #[must_use]
    pub fn with_capability(self, capability: Capability) -> Self {
        self.edit(|inner| inner.capability = Some(capability))
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.edit(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// Overrides what [`is_retryable`](Self::is_retryable) answers.
    #[must_use]
    pub fn with_retryable(self, retryable: bool) -> Self {
        self.edit(|inner| inner.retryable = Some(retryable))
    }

    /// Says during which operation it happened, unless that is said already.
    #[must_use]
    pub fn during(self, operation: Operation) -> Self {
        self.edit(|inner| inner.operation = inner.operation.or(Some(operation)))
    }

    /// Says on which backend it happened, unless that is said already.
    #[must_use]
    pub fn on(self, backend: &'static str) -> Self {
        self.edit(|inner| inner.backend = inner.backend.or(Some(backend)))
    }

    /// Says which container or image it was about, unless that is said already.
    #[must_use]
    pub fn about(self, subject: impl fmt::Display) -> Self {
        self.edit(|inner| {
            inner.subject.get_or_insert_with(|| subject.to_string());
        })
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The operation that failed.
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        self.inner.operation
    }

    /// The backend it failed on: `docker`, `cri`, `kubernetes`.
    #[must_use]
    pub fn backend(&self) -> Option<&'static str> {
        self.inner.backend
    }

    /// The container or image that it was about.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.inner.subject.as_deref()
    }

    /// The field of the caller's input that is wrong or not supported.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.inner.field.as_deref()
    }

    /// The capability that the engine lacks.
    #[must_use]
    pub fn capability(&self) -> Option<Capability> {
        self.inner.capability
    }

    /// What happened, in words that add to the kind.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.inner.message.as_deref()
    }

    /// Whether the same call can succeed later without a change by the caller. True for
    /// [`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout) and
    /// [`ResourceExhausted`](ErrorKind::ResourceExhausted) unless the backend knows better.
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

/// Adds what a caller up the stack knows to an error of a call below.
pub trait ResultExt<T> {
    /// See [`Error::during`].
    ///
    /// # Errors
    /// The error it was given, with the operation added.
    fn during(self, operation: Operation) -> Result<T>;
    /// See [`Error::on`].
    ///
    /// # Errors
    /// The error it was given, with the backend added.
    fn on(self, backend: &'static str) -> Result<T>;
    /// See [`Error::about`].
    ///
    /// # Errors
    /// The error it was given, with the subject added.
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
    fn display_is_one_line_and_leaves_the_source_to_the_chain() {
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
    fn the_first_context_stays() {
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
    fn kinds_print_as_they_serialise() {
        for kind in [ErrorKind::NotFound, ErrorKind::ImageNotFound, ErrorKind::Lost] {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{}\"", kind.as_str()));
        }
    }
}
