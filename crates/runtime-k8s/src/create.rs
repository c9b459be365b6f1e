//! Making a pod and what belongs to it: all of it or nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime_core::{
    Backoff, Capability, ContainerSpec, Error, ErrorKind, LABEL_NONCE, Operation, Result,
    ResultExt as _,
};
use runtime_support::{is_unclear, ports};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::client::Deleted;
use crate::error::was_not_sent;
use crate::hold::{self, Hold};
use crate::names::BELONGINGS;
use crate::shared::Shared;
use crate::spec::{Plan, belonging_name};
use crate::wire::Pod;
use crate::{admitted, mounts, pdb, secret, spec};

/// How long an undo is tried before what is left is left to a reap: longer than a server works on a
/// request.
const UNDO_PATIENCE: Duration = Duration::from_secs(90);

/// How long one attempt of an undo may take, and a create whose runtime is being closed. A server that
/// does not answer is asked again, or is left to a reap.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// A quota counts a pod that was just deleted for a moment longer: so long the pod that has probed
/// mounts may keep the container's pod from being created.
const QUOTA_RETURNS_WITHIN: Duration = Duration::from_secs(15);

const QUOTA_POLL_INTERVAL: Duration = Duration::from_millis(250);

const SECRETS: (&str, &str) = ("/api/v1", "secrets");
const BUDGETS: &str = "poddisruptionbudgets";

/// Where the budgets are in this server's API.
fn budgets(shared: &Shared) -> (String, &'static str) {
    (format!("/apis/{}", shared.server.policy_api()), BUDGETS)
}

/// Creates the pod of a container.
///
/// The requests are a task of their own: when nobody waits for the answer any more, the task still
/// gets it, and undoes what was made.
pub(crate) async fn run(shared: &Arc<Shared>, spec: &ContainerSpec) -> Result<Pod> {
    let prepared = spec.prepare(&shared.options.scope, &shared.capabilities)?;
    let subject = prepared.name.to_string();
    let auth = secret::login(&prepared.image, prepared.auth.clone()).await?;
    let ports = Drawn::draw(shared, prepared.tcp_ports.len()).await?;
    let mut plan =
        spec::plan(prepared, &shared.options, shared.hold(), &ports.ports, auth).about(&subject)?;

    let (sender, receiver) = oneshot::channel();
    let task = Arc::clone(shared);
    shared.half_made.spawn(async move {
        let deadline = task.options.deadlines.create;
        let made = match mounts::settle(&task, &mut plan).await {
            // Nobody waits any more.
            Ok(_) if sender.is_closed() => return,
            Ok(probed) => make(&task, &mut plan, deadline, probed).await,
            Err(error) => Err(admitted::with_field(error, &plan)),
        };
        if let Ok(pod) = &made {
            task.pods.take(pod.clone());
        }
        // The pod is seen to have them from now on.
        drop(ports);
        // If nobody listens, what is made drops here, and is undone by that.
        let executor = Handle::current();
        let _ = sender.send(made.map(|pod| Made { shared: task, pod: Some(pod), executor }));
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
    /// The executor of the create, because it may be dropped outside of one.
    executor: Handle,
}

impl Made {
    fn keep(mut self) -> Pod {
        self.pod.take().unwrap_or_default()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(pod) = self.pod.take() {
            let undone = undo(Arc::clone(&self.shared), pod);
            self.shared.half_made.spawn_on(undone, &self.executor);
        }
    }
}

async fn make(
    shared: &Arc<Shared>,
    plan: &mut Plan,
    deadline: Duration,
    probed: bool,
) -> Result<Pod> {
    let until = Instant::now() + QUOTA_RETURNS_WITHIN;
    let posted = loop {
        let posted = post(shared, plan);
        let posted = runtime_support::within(Operation::Create, deadline, posted);
        let posted = until_closing(shared, posted).await;
        match &posted {
            Err(error)
                if probed
                    && error.kind() == ErrorKind::ResourceExhausted
                    && shared.half_made.another(QUOTA_POLL_INTERVAL, until).await => {}
            _ => break posted,
        }
    };
    let pod = match posted {
        Ok(pod) => pod,
        Err(error) if is_unclear(&error) && !was_not_sent(&error) => {
            // The server may have made it before the answer was lost, or make it yet.
            let undone = undo_by_name(Arc::clone(shared), plan.name.clone(), plan.nonce.clone());
            shared.half_made.spawn(undone);
            return Err(error);
        }
        Err(error) => return Err(admitted::with_field(error, plan)),
    };
    if let Err(error) = admitted::check(plan, &pod) {
        undo_soon(shared, pod).await;
        return Err(error);
    }
    let owner = json!({
        "apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid,
    });
    let rest = belongings(shared, plan, &owner);
    let rest = runtime_support::within(Operation::Create, deadline, rest);
    if let Err(error) = until_closing(shared, rest).await {
        undo_soon(shared, pod).await;
        return Err(error);
    }
    Ok(pod)
}

/// Creates the pod, and checks that the server kept what it was sent.
///
/// A pod that comes back without its gate is deleted at once, because nothing keeps it from the
/// scheduler, and created again with the affinity.
async fn post(shared: &Arc<Shared>, plan: &mut Plan) -> Result<Pod> {
    let mut hold = shared.hold();
    plan.set_hold(hold);
    loop {
        let (pod, answer) = shared.client.create_pod(&plan.pod).await?;
        let is_dropped = hold::missing(hold, &pod, &answer);
        let error = if is_dropped {
            Error::new(ErrorKind::Unsupported).with_message(
                "the cluster removes from new pods what would hold them until their start",
            )
        } else if plan.has_stop_signal
            && pod.container().is_none_or(|container| container.lifecycle.stop_signal.is_none())
        {
            Error::unsupported(Capability::StopSignal)
                .with_field("stop_signal")
                .with_message("the server has not kept the stop signal of the pod")
        } else {
            return Ok(pod);
        };
        undo_soon(shared, pod).await;
        if !is_dropped || hold == Hold::Affinity {
            return Err(error);
        }
        shared.gates_are_dropped();
        hold = Hold::Affinity;
        plan.set_hold(hold);
    }
}

/// Undoes a create whose caller waits for its error, and gets it even if the undo takes more than one
/// attempt.
async fn undo_soon(shared: &Arc<Shared>, pod: Pod) {
    let undone = shared.half_made.spawn(undo(Arc::clone(shared), pod));
    let _ = tokio::time::timeout(ATTEMPT_LIMIT, undone).await;
}

/// Runs a part of a create. When the runtime is being closed it has little time left, because the
/// undo comes after it.
async fn until_closing<T>(shared: &Shared, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = shared.half_made.until_closing(ATTEMPT_LIMIT, work).await;
    done.unwrap_or_else(|| {
        Err(Error::new(ErrorKind::Timeout)
            .with_message("the API server has not answered before the runtime was closed")
            .during(Operation::Create))
    })
}

/// Runs one attempt of an undo.
async fn attempt<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime_support::within(Operation::Create, ATTEMPT_LIMIT, work).await
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
pub(crate) async fn undo_by_name(shared: Arc<Shared>, name: String, nonce: String) {
    let (mut backoff, until) = (Backoff::default(), Instant::now() + UNDO_PATIENCE);
    loop {
        let looked = match attempt(shared.client.pod(&name)).await {
            Ok(pod) if pod.metadata.labels.get(LABEL_NONCE) == Some(&nonce) => {
                return undo(shared, pod).await;
            }
            // Another has the name.
            Ok(_) => return,
            Err(error) => error,
        };
        if !shared.half_made.another(backoff.delay(), until).await {
            if looked.kind() != ErrorKind::NotFound {
                tracing::warn!(pod = name, "a create whose answer was lost could not be undone");
            }
            return;
        }
    }
}

pub(crate) async fn undo(shared: Arc<Shared>, pod: Pod) {
    let (mut backoff, until) = (Backoff::default(), Instant::now() + UNDO_PATIENCE);
    loop {
        // Nothing of it was started, unless its hold was dropped: then its node ends what runs.
        match attempt(remove(&shared, &pod, 0)).await {
            Ok(_) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                tracing::warn!(pod = pod.metadata.name, %error, "a create could not be undone");
                return;
            }
            Err(error) => tracing::debug!(%error, "a create is being undone"),
        }
        if !shared.half_made.another(backoff.delay(), until).await {
            tracing::warn!(pod = pod.metadata.name, "a create could not be undone");
            return;
        }
    }
}

/// Deletes a pod and what belongs to it. A node gets a grace of so many seconds to end it.
pub(crate) async fn remove(shared: &Shared, pod: &Pod, grace: u64) -> Result<Deleted> {
    let meta = &pod.metadata;
    let deleted = shared.client.delete_pod(&meta.name, &meta.uid, grace).await?;
    remove_belongings(shared, pod).await?;
    Ok(deleted)
}

/// Deletes what belongs to a pod, without waiting for the cluster to do it. The pod owns it, so the
/// cluster deletes it for a caller that may not.
async fn remove_belongings(shared: &Shared, pod: &Pod) -> Result<()> {
    let Some(nonce) = pod.metadata.labels.get(LABEL_NONCE) else { return Ok(()) };
    let name = belonging_name(nonce);
    for belonging in pod.annotation(BELONGINGS).unwrap_or_default().split(',') {
        let deleted = match belonging {
            "secret" => shared.client.delete(SECRETS.0, SECRETS.1, &name).await,
            "budget" => {
                let (api, kind) = budgets(shared);
                shared.client.delete(&api, kind, &name).await
            }
            _ => Ok(()),
        };
        match deleted {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                tracing::debug!(%error, name, "the cluster deletes it with its pod");
            }
            deleted => deleted?,
        }
    }
    Ok(())
}

/// Ports that a create has drawn, and that no other draws until it has ended.
struct Drawn {
    shared: Arc<Shared>,
    ports: Vec<u16>,
}

impl Drawn {
    /// Free ports, as far as is known: none that a container of this scope has or is about to have.
    /// The scheduler finds a node where they are free of other pods; that none is, is then the pod's
    /// trouble.
    async fn draw(shared: &Arc<Shared>, wanted: usize) -> Result<Self> {
        let mut drawn = Self { shared: Arc::clone(shared), ports: Vec::new() };
        if wanted == 0 {
            return Ok(drawn);
        }
        shared.pods.live().await?;
        let nonce = runtime_core::Nonce::random()?;
        let mut random = ports::random(&nonce);
        let mut all = lock(&shared.drawn_ports);
        let mut used = used_ports(shared);
        used.extend(all.iter());
        drawn.ports = ports::draw(&shared.options.host_ports, &used, wanted, &mut random)?;
        all.extend(&drawn.ports);
        drop(all);
        Ok(drawn)
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        let mut all = lock(&self.shared.drawn_ports);
        all.retain(|port| !self.ports.contains(port));
    }
}

fn lock(ports: &Mutex<BTreeSet<u16>>) -> MutexGuard<'_, BTreeSet<u16>> {
    ports.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ports that the containers of this scope have.
fn used_ports(shared: &Shared) -> BTreeSet<u16> {
    let pods = shared.pods.all();
    let ports = pods.iter().filter_map(|seen| seen.pod.container()).flat_map(|c| &c.ports);
    ports.filter_map(|port| port.host_port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use runtime_core::{Capabilities, Scope};

    use crate::capabilities::Server;
    use crate::client::tests::{Answer, slow};
    use crate::connect::KubernetesOptions;

    #[tokio::test]
    async fn creates_that_are_under_way_draw_different_ports() {
        const PODS: &str = r#"{"metadata": {"resourceVersion": "1"}, "items": [{
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "main", "ports": [
                {"containerPort": 1, "hostPort": 20000}]}]}}]}"#;
        let client = crate::client::tests::of(|_, uri| match uri.contains("watch=true") {
            true => (200, ""),
            false => (200, PODS),
        });
        let options = KubernetesOptions::new(Scope::new("t").unwrap()).host_ports(20_000..=20_004);
        let shared =
            Arc::new(Shared::new(client, options, Server::default(), Capabilities::default()));
        let draw = |wanted| Drawn::draw(&shared, wanted);
        let (one, other) = (draw(2).await.unwrap(), draw(2).await.unwrap());
        let mut all = [one.ports.clone(), other.ports.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, [20_001, 20_002, 20_003, 20_004]);
        assert!(draw(1).await.is_err());
        drop(one);
        assert!(draw(2).await.is_ok());
        assert!(draw(3).await.is_err());
    }

    /// A connection to a server that answers nothing.
    fn silent() -> Arc<Shared> {
        let client = slow(|_, _| std::future::pending::<(u16, Answer)>());
        let options = KubernetesOptions::new(Scope::new("t").unwrap());
        Arc::new(Shared::new(client, options, Server::default(), Capabilities::default()))
    }

    fn made(shared: &Arc<Shared>) -> Made {
        let executor = Handle::current();
        Made { shared: Arc::clone(shared), pod: Some(Pod::default()), executor }
    }

    #[tokio::test]
    async fn create_that_is_dropped_outside_of_the_executor_is_undone() {
        let (deleted, mut deletions) = tokio::sync::mpsc::unbounded_channel();
        let client = crate::client::tests::of(move |method, _| {
            if method.as_str() == "DELETE" {
                let _ = deleted.send(());
            }
            (200, "{}")
        });
        let options = KubernetesOptions::new(Scope::new("t").unwrap());
        let shared =
            Arc::new(Shared::new(client, options, Server::default(), Capabilities::default()));
        let made = made(&shared);
        std::thread::spawn(move || drop(made)).join().unwrap();
        let deletion = tokio::time::timeout(Duration::from_secs(30), deletions.recv()).await;
        assert_eq!(deletion.unwrap(), Some(()));
    }

    #[test]
    fn endless_budgets_can_be_added_to_the_present() {
        const MAX: Duration = Duration::MAX;
        let options = KubernetesOptions::new(Scope::new("t").unwrap())
            .pull_budget(MAX)
            .schedule_budget(MAX)
            .start_budget(MAX)
            .node_budget(MAX)
            .session_pings(MAX)
            .bounded();
        for time in [
            options.pull_budget,
            options.schedule_budget,
            options.start_budget,
            options.node_budget,
            options.session_pings,
        ] {
            assert!(std::time::Instant::now().checked_add(time).is_some());
        }
    }

    #[test]
    fn create_can_be_dropped_after_the_executor() {
        let executor = tokio::runtime::Runtime::new().unwrap();
        let (made, shared) = executor.block_on(async {
            let shared = silent();
            (made(&shared), shared)
        });
        drop(executor);
        drop(made);
        // Nothing holds on to what can no longer be undone.
        assert_eq!(Arc::strong_count(&shared), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn undo_without_answers_ends() {
        let begun = Instant::now();
        let undone = undo(silent(), Pod::default());
        tokio::time::timeout(UNDO_PATIENCE * 10, undone).await.unwrap();
        assert!(begun.elapsed() <= UNDO_PATIENCE + ATTEMPT_LIMIT, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn close_does_not_wait_for_answers_that_do_not_arrive() {
        let shared = silent();
        let spec = ContainerSpec::new(runtime_core::Image::new("busybox"));
        let create = tokio::time::timeout(Duration::from_secs(1), run(&shared, &spec));
        create.await.expect_err("the server does not answer");
        let begun = Instant::now();
        shared.close().await;
        assert!(begun.elapsed() <= ATTEMPT_LIMIT * 2, "{:?}", begun.elapsed());

        let shared = silent();
        drop(made(&shared));
        let begun = Instant::now();
        shared.close().await;
        assert!(begun.elapsed() <= ATTEMPT_LIMIT, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn never_that_the_cluster_turns_into_a_pull_is_undone() {
        const POD: &str = r#"{"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [
            {"name": "main", "image": "busybox", "imagePullPolicy": "Always"}],
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"container-runtime/released": "n"}}}]}}}}"#;
        let deleted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&deleted);
        let client = crate::client::tests::of(move |method, _| match method.as_str() {
            "POST" => (201, POD),
            "DELETE" => {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                (200, "{}")
            }
            _ => (200, POD),
        });
        let options = KubernetesOptions::new(Scope::new("t").unwrap());
        let can = crate::capabilities::capabilities(&Server::default(), &options);
        let shared = Arc::new(Shared::new(client, options, Server::default(), can));
        let never = ContainerSpec::new("busybox").pull_policy(runtime_core::PullPolicy::Never);
        let error = run(&shared, &never).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        assert_eq!(error.field(), Some("pull_policy"));
        assert_eq!(deleted.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert!(run(&shared, &ContainerSpec::new("busybox")).await.is_ok());
    }
}
