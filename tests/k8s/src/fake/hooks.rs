//! Requests as the fake server got them, and what can be done to them.

use std::collections::BTreeMap;

use http::{HeaderMap, Method};
use serde_json::{Value, json};

/// A request.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// The query.
    pub query: BTreeMap<String, String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, if it is JSON, or null.
    pub body: Value,
}

impl Received {
    /// Whether it creates an object of this kind (`pods`).
    #[must_use]
    pub fn creates(&self, plural: &str) -> bool {
        self.method == Method::POST && self.path.ends_with(&format!("/{plural}"))
    }

    /// Whether it changes a pod.
    #[must_use]
    pub fn patches_pod(&self) -> bool {
        self.method == Method::PATCH && self.path.contains("/pods/")
    }

    /// Whether it deletes a pod.
    #[must_use]
    pub fn deletes_pod(&self) -> bool {
        self.method == Method::DELETE && self.path.contains("/pods/")
    }

    /// Whether it opens a watch.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.query.get("watch").is_some_and(|watch| watch == "true")
    }

    /// Whether it is a patch with an operation that gives this field of the spec or annotation this
    /// value.
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

    /// Whether it is a patch that gives a container another image.
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

/// A failure as an API server reports it.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// The whole `Status` object.
    pub status: Value,
}

impl Refusal {
    /// A `Status` with a code, a reason and a message.
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

    /// The refusal of a validating webhook, in the API server's words.
    #[must_use]
    pub fn webhook(name: &str, message: &str) -> Self {
        let message = format!("admission webhook \"{name}\" denied the request: {message}");
        Self::new(403, "Forbidden", message)
    }

    /// The refusal of a `ValidatingAdmissionPolicy`, in the API server's words.
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

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Reaction {
    /// It is handled as usual.
    Pass,
    /// It is handled as usual, and its answer has these headers too.
    PassWith(Vec<(&'static str, String)>),
    /// It is handled as if it had this body.
    Rewrite(Value),
    /// It is refused, and changes nothing.
    Refuse(Refusal),
    /// It is answered like this, and changes nothing.
    Answer {
        /// The HTTP status code.
        code: u16,
        /// The headers.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// It is handled, and the connection is closed in place of an answer.
    Lose,
    /// It is not handled, and never answered.
    Stall,
    /// It is not handled, and the connection is closed.
    Cut,
}

/// Decides on requests.
pub(super) type Hook = Box<dyn FnMut(&Received) -> Reaction + Send>;

/// The number of a hook, to remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookId(pub(super) u64);
