//! Requests as received by the fake server, and the reactions of hooks to them.

use std::collections::BTreeMap;

use http::{HeaderMap, Method};
use serde_json::{Value, json};

/// Received request.
#[derive(Debug, Clone)]
pub struct Received {
    /// Method.
    pub method: Method,
    /// Path, without the query.
    pub path: String,
    /// Query.
    pub query: BTreeMap<String, String>,
    /// Headers.
    pub headers: HeaderMap,
    /// Body if it is JSON, or null.
    pub body: Value,
}

impl Received {
    /// Returns `true` if the request creates an object of this kind (`pods`).
    #[must_use]
    pub fn creates(&self, plural: &str) -> bool {
        self.method == Method::POST && self.path.ends_with(&format!("/{plural}"))
    }

    /// Returns `true` if the request changes a pod.
    #[must_use]
    pub fn patches_pod(&self) -> bool {
        self.method == Method::PATCH && self.path.contains("/pods/")
    }

    /// Returns `true` if the request deletes a pod.
    #[must_use]
    pub fn deletes_pod(&self) -> bool {
        self.method == Method::DELETE && self.path.contains("/pods/")
    }

    /// Returns `true` if the request opens a watch.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.query.get("watch").is_some_and(|watch| watch == "true")
    }

    /// Returns `true` if the request is a patch with an operation that sets this field of the spec or
    /// annotation to this value.
    #[must_use]
    pub fn sets(&self, path_end: &str, value: &Value) -> bool {
        self.patches_pod()
            && self.body.as_array().is_some_and(|operations| {
                operations.iter().any(|operation| {
                    matches!(operation["op"].as_str(), Some("add" | "replace"))
                        && operation["path"].as_str().is_some_and(|path| path.ends_with(path_end))
                        && operation["value"] == *value
                })
            })
    }

    /// Returns `true` if the request is a patch that changes the image of a container.
    #[must_use]
    pub fn changes_image(&self) -> bool {
        self.patches_pod()
            && self.body.as_array().is_some_and(|operations| {
                operations.iter().any(|operation| {
                    operation["op"] == "replace"
                        && operation["path"].as_str().is_some_and(|path| path.ends_with("/image"))
                })
            })
    }
}

/// Failure in the form of an API server.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// HTTP status code.
    pub code: u16,
    /// The whole `Status` object.
    pub status: Value,
}

impl Refusal {
    /// Creates a `Status` with a code, a reason and a message.
    #[must_use]
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code,
        });
        Self { code, status }
    }

    /// Sets the details.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.status["details"] = details;
        self
    }

    /// Creates the refusal of a validating webhook, with the API server's message.
    #[must_use]
    pub fn webhook(name: &str, message: &str) -> Self {
        let message = format!("admission webhook \"{name}\" denied the request: {message}");
        Self::new(403, "Forbidden", message)
    }

    /// Creates the refusal of a `ValidatingAdmissionPolicy`, with the API server's message.
    #[must_use]
    pub fn policy(pod: &str, policy: &str, message: &str) -> Self {
        let message = format!(
            "pods \"{pod}\" is forbidden: ValidatingAdmissionPolicy '{policy}' with binding \
             '{policy}-binding' denied request: {message}"
        );
        Self::new(422, "Invalid", message.clone()).details(json!({
            "name": pod, "kind": "pods", "causes": [{"message": message}],
        }))
    }
}

/// Reaction to a request.
#[derive(Debug, Clone)]
pub enum Reaction {
    /// The request is handled as usual.
    Pass,
    /// The request is handled as usual, and the response has these additional headers.
    PassWith(Vec<(&'static str, String)>),
    /// The request is handled as if it had this body.
    Rewrite(Value),
    /// The request is refused and changes nothing.
    Refuse(Refusal),
    /// The request gets this response and changes nothing.
    Answer {
        /// HTTP status code.
        code: u16,
        /// Headers.
        headers: Vec<(&'static str, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// The request is handled, and the connection is closed without a response.
    Lose,
    /// The request is not handled, and never answered.
    Stall,
    /// The request is not handled, and the connection is closed.
    Cut,
}

/// Function that selects the reaction to a request.
pub(super) type Hook = Box<dyn FnMut(&Received) -> Reaction + Send>;

/// Number of a hook, for its removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookId(pub(super) u64);
