//! Creates a pod and the objects that belong to it: all of them or none.

mod mounts;
mod ports;
#[cfg(test)]
mod tests;
pub(super) mod undo;

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    Capability, Error, ErrorKind, ImageRef, Operation, PreparedSpec, RegistryAuth, Result,
};
use runtime_support::{Credential, LoginsOf, find_credential, is_unclear};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::ports::DrawnPorts;
use self::undo::{ATTEMPT_TIMEOUT, undo, undo_by_name, undo_soon};
use crate::client::belongings;
use crate::error::was_not_sent;
use crate::model::admitted;
use crate::model::api::Pod;
use crate::model::container::KubernetesContainer;
use crate::model::pod::gate::{StartGate, is_missing};
use crate::model::spec::{self, Plan};
use crate::state::KubernetesBackend;

/// How long a create is retried after a probe of mounts if a quota is full: a quota still counts a
/// pod for a moment after its deletion.
const QUOTA_RETURNS_WITHIN: Duration = Duration::from_secs(15);

const QUOTA_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Creates the pod of a container.
///
/// The requests run in a task of their own: if the caller drops the future, the task still receives
/// the response, and undoes the create.
pub(crate) async fn create(
    backend: &Arc<KubernetesBackend>,
    spec: PreparedSpec,
) -> Result<KubernetesContainer> {
    let deadline = backend.context.deadlines.create;
    backend.with_deadline(Operation::Create, deadline, create_pod(backend, spec)).await
}

async fn create_pod(
    backend: &Arc<KubernetesBackend>,
    spec: PreparedSpec,
) -> Result<KubernetesContainer> {
    let auth = login(&spec.image, spec.auth.clone()).await?;
    let ports = DrawnPorts::draw(backend, spec.tcp_ports.len()).await?;
    let mut plan = spec::plan(spec, &backend.options, backend.start_gate(), ports.ports(), auth)?;

    let (sender, receiver) = oneshot::channel();
    let task = Arc::clone(backend);
    backend.context.half_made.spawn(async move {
        let deadline = task.context.deadlines.create;
        let made = match mounts::settle(&task, &mut plan).await {
            // The caller has dropped the future.
            Ok(_) if sender.is_closed() => return,
            Ok(probed) => make(&task, &mut plan, deadline, probed).await,
            Err(error) => Err(admitted::with_field(error, &plan)),
        };
        if let Ok(pod) = &made {
            task.pods.take(pod.clone());
        }
        // The pod has them from now on.
        drop(ports);
        // If the receiver was dropped, the pod is dropped here, which undoes the create.
        let executor = Handle::current();
        let _ =
            sender.send(made.map(|pod| UnclaimedPod { backend: task, pod: Some(pod), executor }));
    });
    let made = receiver
        .await
        .unwrap_or_else(|_| Err(Error::internal("the create task has ended without a result")));
    Ok(KubernetesContainer::new(Arc::new(made?.keep())))
}

/// A created pod that is removed on drop unless it is kept.
struct UnclaimedPod {
    backend: Arc<KubernetesBackend>,
    pod: Option<Pod>,
    /// The executor of the create, because the drop may be outside of one.
    executor: Handle,
}

impl UnclaimedPod {
    fn keep(mut self) -> Pod {
        self.pod.take().unwrap_or_default()
    }
}

impl Drop for UnclaimedPod {
    fn drop(&mut self) {
        if let Some(pod) = self.pod.take() {
            let undone = undo(Arc::clone(&self.backend), pod);
            self.backend.context.half_made.spawn_on(undone, &self.executor);
        }
    }
}

async fn make(
    backend: &Arc<KubernetesBackend>,
    plan: &mut Plan,
    deadline: Duration,
    probed: bool,
) -> Result<Pod> {
    let until = Instant::now() + QUOTA_RETURNS_WITHIN;
    let posted = loop {
        let posted = post(backend, plan);
        let posted = runtime_support::within(Operation::Create, deadline, posted);
        let posted = until_closing(backend, posted).await;
        match &posted {
            Err(error)
                if probed
                    && error.kind() == ErrorKind::ResourceExhausted
                    && backend.context.half_made.another(QUOTA_POLL_INTERVAL, until).await => {}
            _ => break posted,
        }
    };
    let pod = match posted {
        Ok(pod) => pod,
        Err(error) if is_unclear(&error) && !was_not_sent(&error) => {
            // The server may have created it, or may still create it.
            let undone = undo_by_name(Arc::clone(backend), plan.name.clone(), plan.nonce.clone());
            backend.context.half_made.spawn(undone);
            return Err(error);
        }
        Err(error) => return Err(admitted::with_field(error, plan)),
    };
    if let Err(error) = admitted::check(plan, &pod) {
        undo_soon(backend, pod).await;
        return Err(error);
    }
    let owner = json!({
        "apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid,
    });
    let rest = belongings::create(&backend.client, &backend.server, plan, &owner);
    let rest = runtime_support::within(Operation::Create, deadline, rest);
    if let Err(error) = until_closing(backend, rest).await {
        undo_soon(backend, pod).await;
        return Err(error);
    }
    Ok(pod)
}

/// Creates the pod, and checks the pod that the server returns.
///
/// A pod that is returned without its gate is deleted at once, because a scheduler may place it,
/// and created again with the affinity.
async fn post(backend: &Arc<KubernetesBackend>, plan: &mut Plan) -> Result<Pod> {
    let mut gate = backend.start_gate();
    plan.set_gate(gate);
    loop {
        let (pod, response) = backend.client.create_pod(&plan.pod).await?;
        let is_dropped = is_missing(gate, &pod, &response);
        let error = if is_dropped {
            Error::new(ErrorKind::Unsupported)
                .with_message("the cluster removes the gate of new pods")
        } else if plan.has_stop_signal
            && pod.container().is_none_or(|container| container.lifecycle.stop_signal.is_none())
        {
            Error::unsupported(Capability::StopSignal)
                .with_field("stop_signal")
                .with_message("the server has dropped the stop signal of the pod")
        } else {
            return Ok(pod);
        };
        undo_soon(backend, pod).await;
        if !is_dropped || gate == StartGate::Affinity {
            return Err(error);
        }
        backend.gates_are_dropped();
        gate = StartGate::Affinity;
        plan.set_gate(gate);
    }
}

/// Runs a part of a create. When the runtime is closed it has only little time, because the undo
/// follows.
async fn until_closing<T>(
    backend: &KubernetesBackend,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let done = backend.context.half_made.until_closing(ATTEMPT_TIMEOUT, work).await;
    done.unwrap_or_else(|| {
        Err(Error::new(ErrorKind::Timeout)
            .with_message("the API server has not responded before the runtime was closed")
            .during(Operation::Create))
    })
}

/// Returns the login for an image: that of the caller, or the one that Docker's command line would
/// use.
async fn login(image: &ImageRef, given: Option<RegistryAuth>) -> Result<Option<RegistryAuth>> {
    match find_credential(image, given, LoginsOf::Docker).await {
        Some(Credential::Login(auth)) => Ok(Some(auth)),
        None => Ok(None),
        Some(_) => Err(Error::new(ErrorKind::Unauthenticated).with_message(format!(
            "the login for {} is a token, which the nodes of a cluster cannot use",
            image.registry()
        ))),
    }
}
