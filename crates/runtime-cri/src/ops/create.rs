//! See [`Runtime::create_container`](runtime_core::Runtime::create_container).
//!
//! A create makes files on this host, a sandbox, and a container in it.

mod mounts;
mod ports;
#[cfg(test)]
mod tests;
mod undo;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    ContainerId, Error, ErrorKind, LABEL_NONCE, Nonce, Operation, PreparedSpec, Result,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::mounts::check_mount_sources;
use self::ports::{check_ports, reserve_ports};
use self::undo::{UNDO_PATIENCE, may_appear, try_undo, undo};
use crate::client::{Request, too_late};
use crate::error::{at_create, is_port_conflict};
use crate::generated as cri;
use crate::model::capabilities::has_groups_of_image;
use crate::model::container::CriContainer;
use crate::model::spec::Plan;
use crate::ops::pull;
use crate::state::CriBackend;
use crate::state::connection::Connection;

/// Creates a container with its sandbox and its files. If the create fails or is dropped, it is
/// undone.
pub(crate) async fn create(backend: &Arc<CriBackend>, spec: PreparedSpec) -> Result<CriContainer> {
    let connection = &backend.connection;
    let plan = Plan::new(spec, &connection.context.scope, &connection.settings);
    let created = create_planned(connection, plan).await?;
    backend.poller.poll_now();
    Ok(created)
}

async fn create_planned(connection: &Arc<Connection>, plan: Plan) -> Result<CriContainer> {
    check_mount_sources(connection, &plan).await?;
    let (reply, result) = oneshot::channel();
    let work = make_or_undo(Arc::clone(connection), plan, reply);
    connection.context.half_made.spawn(work);
    let made = result.await.unwrap_or_else(|_| Err(Error::internal("the create panicked")))?;
    Ok(made.keep())
}

/// Sends the result of a create to its caller.
type Reply = oneshot::Sender<Result<Unclaimed>>;

/// Container without a handle yet, whose create is undone when dropped.
struct Unclaimed {
    connection: Arc<Connection>,
    made: CriContainer,
    nonce: Nonce,
    kept: bool,
    handle: Handle,
}

impl Unclaimed {
    /// Returns the container, and disarms the undo.
    fn keep(mut self) -> CriContainer {
        self.kept = true;
        self.made.clone()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (connection, made, nonce) =
            (self.connection.clone(), self.made.clone(), self.nonce.clone());
        let undone = async move {
            undo(&connection, &nonce, Some(&*made.sandbox), &made.annotations, Duration::ZERO)
                .await;
        };
        self.connection.context.half_made.spawn_on(undone, &self.handle);
    }
}

async fn make_or_undo(connection: Arc<Connection>, mut plan: Plan, mut reply: Reply) {
    let mut attempts = 0;
    loop {
        let mut progress = Progress::default();
        let error = match make(&connection, &mut plan, &mut reply, &mut progress).await {
            Ok(made) => {
                let (nonce, handle) = (plan.nonce, Handle::current());
                // If the caller is gone, the send fails, and the dropped container is undone.
                drop(reply.send(Ok(Unclaimed { connection, made, nonce, kept: false, handle })));
                return;
            }
            Err(error) => error,
        };
        attempts += 1;
        if !progress.sandbox_requested {
            // There are only files on this host.
            clear_after(&connection, &plan).await;
        } else if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) {
            // The engine may be down or still at work: the caller does not wait for the full undo.
            let undone = try_undo(&connection, &plan.nonce, None);
            let undone = tokio::time::timeout(FIRST_UNDO_TIMEOUT, undone).await;
            drop(reply.send(Err(error)));
            let removed = matches!(undone, Ok(Ok(true)));
            let patience = if removed { Duration::ZERO } else { progress.patience };
            return undo(&connection, &plan.nonce, None, &plan.annotations, patience).await;
        } else {
            // The undo precedes the error, because the process may exit after it has the error.
            undo(&connection, &plan.nonce, None, &plan.annotations, progress.patience).await;
            let again = is_port_conflict(&error) && attempts < PORT_ATTEMPTS && !reply.is_closed();
            if again {
                tracing::debug!(%error, "a published port is taken: retrying with others");
                continue;
            }
        }
        drop(reply.send(Err(error)));
        return;
    }
}

/// Progress of a create.
#[derive(Debug, Default)]
struct Progress {
    sandbox_requested: bool,
    /// Time for which the sandbox may still appear.
    patience: Duration,
}

/// Number of attempts of a create whose published ports are taken.
const PORT_ATTEMPTS: usize = 4;

/// Time for which the caller of a failed create waits for the first attempt of its undo, if the
/// engine may not respond.
const FIRST_UNDO_TIMEOUT: Duration = Duration::from_secs(2);

async fn clear_after(connection: &Connection, plan: &Plan) {
    if let Err(error) = connection.container_dirs().clear(&plan.annotations).await {
        tracing::warn!(%error, nonce = %plan.nonce, "failed to remove the files of a create");
    }
}

/// Returns the error of a create whose caller is gone.
fn abandoned() -> Error {
    Error::internal("the caller is gone")
}

async fn make(
    connection: &Connection,
    plan: &mut Plan,
    reply: &mut Reply,
    progress: &mut Progress,
) -> Result<CriContainer> {
    let ensure = pull::ensure(
        connection,
        Operation::Create,
        &plan.image,
        plan.auth.clone(),
        plan.pull_policy,
    );
    let image = tokio::select! {
        image = ensure => image?,
        () = reply.closed() => return Err(abandoned()),
    };
    plan.set_image(&image, has_groups_of_image(&connection.engine))?;
    let until = Instant::now() + connection.context.deadlines.create;
    if reply.is_closed() || connection.context.closed.is_cancelled() {
        return Err(abandoned());
    }
    let reserved = reserve_ports(connection, plan, until).await?;
    connection.container_dirs().prepare(&plan.annotations, plan.shared_memory).await?;
    progress.sandbox_requested = true;
    let (sandbox, addresses) = run_sandbox(connection, plan, until).await.inspect_err(|error| {
        if may_appear(error) {
            progress.patience = UNDO_PATIENCE;
        }
    })?;
    check_ports(connection, plan, until).await?;
    // From here on the ports belong to the sandbox.
    drop(reserved);
    if reply.is_closed() {
        return Err(abandoned());
    }
    if let Some(hosts) = plan.annotations.hosts.clone() {
        connection.container_dirs().write_hosts(hosts, plan.hosts(&addresses)).await?;
    }
    create_in(connection, plan, sandbox, until).await
}

/// Runs the sandbox, and returns its id and its addresses.
async fn run_sandbox(
    connection: &Connection,
    plan: &Plan,
    until: Instant,
) -> Result<(String, Vec<String>)> {
    let request = cri::RunPodSandboxRequest {
        config: Some(plan.sandbox()),
        runtime_handler: connection.settings.runtime_handler.clone().unwrap_or_default(),
    };
    let id = call(connection, until, request).await?.pod_sandbox_id;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = call(connection, until, request).await?.status.unwrap_or_default();
    check_nonce(&status.labels, plan)?;
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|address| address.ip);
    let addresses = [network.ip].into_iter().chain(more).filter(|address| !address.is_empty());
    Ok((id, addresses.collect()))
}

/// Creates the container in its sandbox.
async fn create_in(
    connection: &Connection,
    plan: &Plan,
    sandbox: String,
    until: Instant,
) -> Result<CriContainer> {
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(plan.container()),
        sandbox_config: Some(plan.sandbox()),
    };
    let container = call(connection, until, request).await.map_err(at_create)?.container_id;
    let request = cri::ContainerStatusRequest { container_id: container.clone(), verbose: false };
    let status = call(connection, until, request).await?.status.unwrap_or_default();
    check_nonce(&status.labels, plan)?;
    Ok(CriContainer {
        id: ContainerId::new(container),
        name: plan.name.as_str().into(),
        sandbox: sandbox.into(),
        annotations: Arc::new(plan.annotations.clone()),
    })
}

/// Checks the nonce of a returned sandbox or container, because CRI-O returns the existing one for
/// a name that is taken.
fn check_nonce(labels: &BTreeMap<String, String>, plan: &Plan) -> Result<()> {
    if labels.get(LABEL_NONCE).is_some_and(|nonce| nonce == plan.nonce.as_str()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::AlreadyExists)
        .with_message(format!("the name {} is taken on this engine", plan.name)))
}

/// Sends a request of a create. A close of the runtime does not cancel it, because the undo needs
/// the result.
async fn call<R: Request>(
    connection: &Connection,
    until: Instant,
    request: R,
) -> Result<R::Response> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(too_late(Operation::Create, connection.context.deadlines.create));
    }
    connection.client.call(Operation::Create, left, request).await
}
