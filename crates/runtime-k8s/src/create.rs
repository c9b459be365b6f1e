//! Making a pod and what belongs to it: all of it or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    Backoff, ContainerSpec, Error, ErrorKind, LABEL_NONCE, Operation, Result, ResultExt as _,
};
use runtime_support::is_unclear;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::client::Deleted;
use crate::names::BELONGINGS;
use crate::shared::Shared;
use crate::spec::{Plan, belonging_name};
use crate::wire::Pod;
use crate::{pdb, secret, spec};

/// How long an undo is tried before what is left is left to a reap: longer than a server works on a
/// request.
const UNDO_PATIENCE: Duration = Duration::from_secs(90);

pub(crate) const SECRETS: (&str, &str) = ("/api/v1", "secrets");

/// Where the budgets are in this server's API.
pub(crate) fn budgets(shared: &Shared) -> (String, &'static str) {
    (format!("/apis/{}", shared.server.policy_api()), "poddisruptionbudgets")
}

/// Creates the pod of a container.
///
/// The requests are a task of their own: when nobody waits for the answer any more, the task still
/// gets it, and undoes what was made.
pub(crate) async fn run(shared: &Arc<Shared>, spec: &ContainerSpec) -> Result<Pod> {
    let prepared = spec.prepare(&shared.options.scope, &shared.capabilities)?;
    let subject = prepared.name.to_string();
    let auth = secret::login(&prepared.image, prepared.auth.clone()).await?;
    let ports = host_ports(shared, prepared.tcp_ports.len()).await?;
    let plan =
        spec::plan(prepared, &shared.options, shared.server.gates, &ports, auth).about(&subject)?;

    let (sender, receiver) = oneshot::channel();
    let task = Arc::clone(shared);
    shared.half_made.spawn(async move {
        let deadline = task.options.deadlines.create;
        let made = make(&task, &plan, deadline).await;
        // If nobody listens, what is made drops here, and is undone by that.
        let _ = sender.send(made.map(|pod| Made { shared: task, pod: Some(pod) }));
    });
    let made = receiver
        .await
        .unwrap_or_else(|_| Err(Error::internal("the task that creates a container has ended")));
    Ok(made.about(&subject)?.keep())
}

/// A pod that is undone unless it is kept.
struct Made {
    shared: Arc<Shared>,
    pod: Option<Pod>,
}

impl Made {
    fn keep(mut self) -> Pod {
        self.pod.take().unwrap_or_default()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(pod) = self.pod.take()
            && let Ok(handle) = tokio::runtime::Handle::try_current()
        {
            let shared = Arc::clone(&self.shared);
            let undone = async move { undo(&shared, &pod).await };
            self.shared.half_made.spawn_on(undone, &handle);
        }
    }
}

async fn make(shared: &Arc<Shared>, plan: &Plan, deadline: Duration) -> Result<Pod> {
    let posted = shared.client.create_pod(&plan.pod, false);
    let posted = runtime_support::within(Operation::Create, deadline, posted).await;
    let pod = match posted {
        Ok(pod) => pod,
        Err(error) if is_unclear(&error) => {
            // The server may have made it before the answer was lost, or make it yet.
            let undone = undo_by_name(Arc::clone(shared), plan.name.clone(), plan.nonce.clone());
            shared.half_made.spawn(undone);
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let owner = json!({
        "apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid,
    });
    let rest = belongings(shared, plan, &owner);
    if let Err(error) = runtime_support::within(Operation::Create, deadline, rest).await {
        undo(shared, &pod).await;
        return Err(error);
    }
    Ok(pod)
}

/// Makes what belongs to a pod. The pod owns it, so it goes when the pod does.
async fn belongings(shared: &Shared, plan: &Plan, owner: &Value) -> Result<()> {
    let name = belonging_name(&plan.nonce);
    if let Some(pull) = &plan.secret {
        let object = secret::object(&name, &plan.labels, owner, pull);
        shared.client.create(SECRETS.0, SECRETS.1, &object).await?;
    }
    if plan.budget {
        let (api, kind) = budgets(shared);
        let version = shared.server.policy_api();
        let object = pdb::object(version, &name, &plan.nonce, &plan.labels, owner);
        shared.client.create(&api, kind, &object).await?;
    }
    Ok(())
}

/// Undoes a create whose answer was lost. The server may still be at it, so that a pod which is not
/// there is looked for again.
async fn undo_by_name(shared: Arc<Shared>, name: String, nonce: String) {
    let (mut backoff, until) = (Backoff::default(), Instant::now() + UNDO_PATIENCE);
    loop {
        let looked = shared.client.pod(&name).await;
        match &looked {
            Ok(pod) if pod.metadata.labels.get(LABEL_NONCE) == Some(&nonce) => {
                return undo(&shared, pod).await;
            }
            // Another has the name.
            Ok(_) => return,
            Err(_) => {}
        }
        if !shared.half_made.another(backoff.delay(), until).await {
            if looked.is_err_and(|error| error.kind() != ErrorKind::NotFound) {
                tracing::warn!(pod = name, "a create whose answer was lost could not be undone");
            }
            return;
        }
    }
}

async fn undo(shared: &Shared, pod: &Pod) {
    let (mut backoff, until) = (Backoff::default(), Instant::now() + UNDO_PATIENCE);
    loop {
        match remove(shared, pod).await {
            Ok(_) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => tracing::debug!(%error, "a create is being undone"),
        }
        if !shared.half_made.another(backoff.delay(), until).await {
            tracing::warn!(pod = pod.metadata.name, "a create could not be undone");
            return;
        }
    }
}

/// Deletes a pod and what belongs to it. A node gets the least of graces to end it.
pub(crate) async fn remove(shared: &Shared, pod: &Pod) -> Result<Deleted> {
    let meta = &pod.metadata;
    let deleted = shared.client.delete_pod(&meta.name, &meta.uid, 1).await?;
    remove_belongings(shared, pod).await?;
    Ok(deleted)
}

/// Deletes what belongs to a pod, without waiting for the cluster to do it.
async fn remove_belongings(shared: &Shared, pod: &Pod) -> Result<()> {
    let Some(nonce) = pod.metadata.labels.get(LABEL_NONCE) else { return Ok(()) };
    let name = belonging_name(nonce);
    for belonging in pod.annotation(BELONGINGS).unwrap_or_default().split(',') {
        match belonging {
            "secret" => shared.client.delete(SECRETS.0, SECRETS.1, &name).await?,
            "budget" => {
                let (api, kind) = budgets(shared);
                shared.client.delete(&api, kind, &name).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Free ports, as far as is known: none that a container of this scope has. The scheduler finds a
/// node where they are free of other pods; that none is, is then the pod's trouble.
async fn host_ports(shared: &Shared, wanted: usize) -> Result<Vec<u16>> {
    if wanted == 0 {
        return Ok(Vec::new());
    }
    shared.pods.live().await?;
    let used: BTreeSet<u16> = shared
        .pods
        .all()
        .iter()
        .filter_map(|seen| seen.pod.container().map(|c| c.ports.clone()))
        .flatten()
        .filter_map(|port| port.host_port)
        .collect();
    let nonce = runtime_core::Nonce::random()?;
    // The nonce is 128 random bits in hexadecimal; a shift register stretches them.
    let mut state = u64::from_str_radix(&nonce.as_str()[..16], 16).unwrap_or(1) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    spec::draw_ports(shared.options.host_ports.clone(), &used, wanted, &mut random)
}
