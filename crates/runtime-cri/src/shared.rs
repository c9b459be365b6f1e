//! What a runtime and all of its containers share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use runtime_core::{
    Capabilities, Deadlines, Error, ErrorKind, LABEL_SCOPE, Operation, Result, Scope,
};
use runtime_support::kernel_log::KernelLog;
use runtime_support::{ExitHub, HalfMade};
use tokio_util::sync::CancellationToken;

use crate::BACKEND;
use crate::census::Census;
use crate::client::{Call, Client};
use crate::folders::FolderWatch;
use crate::journal::Journal;
use crate::rotate::Rotator;
use crate::spec::Settings;
use crate::stats::Meter;
use crate::turns::Turns;

/// The connection, and what is known of the engine at its other end.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) scope: Scope,
    pub(crate) whose: Whose,
    pub(crate) deadlines: Deadlines,
    pub(crate) settings: Settings,
    pub(crate) engine: Engine,
    pub(crate) capabilities: Capabilities,
    pub(crate) census: Census,
    pub(crate) rotator: Rotator,
    pub(crate) journal: Journal,
    pub(crate) exits: ExitHub,
    pub(crate) meter: Meter,
    pub(crate) watch: FolderWatch,
    pub(crate) turns: Turns,
    /// The engine's kernel is this one: it is reached by a Unix socket only.
    pub(crate) kernel_log: KernelLog,
    /// Set by `close`.
    pub(crate) closed: CancellationToken,
    /// What must not be left half done, whoever waits for it.
    pub(crate) half_made: HalfMade,
}

/// Whose containers a connection is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those of the scope, which this library has made.
    Ours,
    /// Those that a kubelet has made, of one name, for the pods of one namespace.
    Kubelets {
        /// The namespace of the pods.
        namespace: String,
        /// What they are called in their pods.
        container: String,
    },
}

/// Labels that a kubelet puts on its containers.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Engine {
    /// `containerd`, `cri-o`.
    pub(crate) name: String,
    pub(crate) version: String,
    /// `v1`.
    pub(crate) api_version: String,
    /// Whether its configuration lets CDI devices in, where it says so.
    pub(crate) cdi: Option<bool>,
}

impl Engine {
    /// Returns whether this is CRI-O.
    pub(crate) fn is_crio(&self) -> bool {
        self.name == "cri-o"
    }
}

impl Shared {
    /// Asks a question, within the deadline of questions.
    pub(crate) async fn ask<C: Call>(
        &self,
        operation: Operation,
        question: C,
    ) -> Result<C::Answer> {
        self.unless_closed(self.client.ask(operation, self.deadlines.query, question)).await
    }

    /// Does `work`, unless the runtime is or gets closed.
    pub(crate) async fn unless_closed<T>(
        &self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match self.closed.run_until_cancelled(work).await {
            Some(result) => result,
            None => Err(is_closed()),
        }
    }

    /// Does `work` to its end even if the caller does not wait for that.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.half_made.spawn(work);
        self.unless_closed(async {
            task.await.unwrap_or_else(|error| {
                Err(Error::internal("the operation broke off").with_source(error).on(BACKEND))
            })
        })
        .await
    }

    /// The directory of the scope's logs.
    pub(crate) fn log_scope(&self) -> PathBuf {
        self.settings.log_dir.join(self.scope.as_str())
    }

    /// The directory of what the scope's containers have mounted.
    pub(crate) fn state_scope(&self) -> PathBuf {
        self.settings.state_dir.join(self.scope.as_str())
    }

    /// The label that all of this scope's things have.
    pub(crate) fn scope_label(&self) -> (String, String) {
        (LABEL_SCOPE.to_owned(), self.scope.to_string())
    }

    /// The labels of the containers that this connection is about.
    pub(crate) fn selector(&self) -> BTreeMap<String, String> {
        match &self.whose {
            Whose::Ours => [self.scope_label()].into(),
            Whose::Kubelets { namespace, container } => {
                [(POD_NAMESPACE, namespace), (CONTAINER_NAME, container)]
                    .map(|(label, value)| (label.to_owned(), value.clone()))
                    .into()
            }
        }
    }
}

/// The error of every call after `close`.
pub(crate) fn is_closed() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the runtime was closed").on(BACKEND)
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}
