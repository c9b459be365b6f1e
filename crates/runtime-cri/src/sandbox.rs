//! Making a container with its sandbox and everything else that belongs to it, and unmaking it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    Backoff, Error, ErrorKind, LABEL_NONCE, Nonce, Operation, Result, TcpPortBinding,
};
use runtime_support::ports::{self, PortReservation};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::capabilities::has_groups_of_image;
use crate::client::{Call, too_late};
use crate::error::{at_create, is_port_conflict, port_conflict, was_not_sent};
use crate::generated as cri;
pub(crate) use crate::host_dirs::{clear_host, on_host};
use crate::host_dirs::{prepare_host, write_hosts};
use crate::images;
use crate::notes::{Notes, port_label};
use crate::shared::Shared;
use crate::spec::Plan;

/// How often a removal is tried that the engine refuses without saying why.
const REMOVE_TRIES: usize = 8;

/// A container and its sandbox, as the engine names them.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) container: String,
    pub(crate) sandbox: String,
    pub(crate) name: String,
    pub(crate) notes: Notes,
}

/// Makes all of it or nothing, also when the future is dropped.
pub(crate) async fn create(shared: &Arc<Shared>, plan: Plan) -> Result<Made> {
    check_mount_sources(shared, &plan).await?;
    let (answer, mut caller) = oneshot::channel();
    let work = {
        let shared = shared.clone();
        async move { make_or_undo(shared, plan, answer).await }
    };
    shared.half_made.spawn(work);
    shared
        .unless_closed(async {
            let made = (&mut caller).await;
            let made = made.unwrap_or_else(|_| Err(Error::internal("the create broke off")))?;
            Ok(made.keep())
        })
        .await
}

/// Where the answer of a create goes.
type Answer = oneshot::Sender<Result<Unclaimed>>;

/// A container that nobody has a handle of yet. Dropped, it is undone.
struct Unclaimed {
    shared: Arc<Shared>,
    made: Made,
    nonce: Nonce,
    kept: bool,
    handle: Handle,
}

impl Unclaimed {
    fn keep(mut self) -> Made {
        self.kept = true;
        self.made.clone()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (shared, made, nonce) = (self.shared.clone(), self.made.clone(), self.nonce.clone());
        let undone = async move {
            undo(&shared, &nonce, Some(made.sandbox), &made.notes, Duration::ZERO).await;
        };
        self.shared.half_made.spawn_on(undone, &self.handle);
    }
}

async fn make_or_undo(shared: Arc<Shared>, mut plan: Plan, mut answer: Answer) {
    let mut tries = 0;
    loop {
        let mut progress = Progress::default();
        let error = match make(&shared, &mut plan, &mut answer, &mut progress).await {
            Ok(made) => {
                let (nonce, handle) = (plan.nonce, Handle::current());
                // When nobody waits any more it comes back, and being dropped it is undone.
                drop(answer.send(Ok(Unclaimed { shared, made, nonce, kept: false, handle })));
                return;
            }
            Err(error) => error,
        };
        tries += 1;
        if !progress.sandbox_requested {
            // Nothing was made but on this host.
            clear_after(&shared, &plan).await;
        } else if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) {
            // The engine may be gone, or still at it: what comes of that cannot be waited for.
            let look = try_undo(&shared, &plan.nonce, None);
            let looked = tokio::time::timeout(UNDO_FIRST_LOOK, look).await;
            drop(answer.send(Err(error)));
            let removed = matches!(looked, Ok(Ok(true)));
            let patience = if removed { Duration::ZERO } else { progress.patience };
            return undo(&shared, &plan.nonce, None, &plan.notes, patience).await;
        } else {
            // The caller may end as soon as it has the error, and nothing would undo it then.
            undo(&shared, &plan.nonce, None, &plan.notes, progress.patience).await;
            let again = is_port_conflict(&error) && tries < PORT_TRIES && !answer.is_closed();
            if again {
                tracing::debug!(%error, "a published port is taken: creating with others");
                continue;
            }
        }
        drop(answer.send(Err(error)));
        return;
    }
}

/// How far a create has come.
#[derive(Debug, Default)]
struct Progress {
    sandbox_requested: bool,
    /// How long a sandbox may still come of it.
    patience: Duration,
}

/// How often a create is tried whose published ports turn out to be taken.
const PORT_TRIES: usize = 4;

/// How long the caller of a failed create waits for the first look at what it has left, when the
/// engine may not answer.
const UNDO_FIRST_LOOK: Duration = Duration::from_secs(2);

async fn clear_after(shared: &Shared, plan: &Plan) {
    if let Err(error) = clear_host(shared, &plan.notes).await {
        tracing::warn!(%error, nonce = %plan.nonce, "something of a create was left on the host");
    }
}

/// The error for a create whose caller has gone. Nobody gets to see it.
fn abandoned() -> Error {
    Error::internal("nobody waits for it any more")
}

async fn make(
    shared: &Shared,
    plan: &mut Plan,
    answer: &mut Answer,
    progress: &mut Progress,
) -> Result<Made> {
    let bring =
        images::bring(shared, Operation::Create, &plan.image, plan.auth.clone(), plan.pull_policy);
    let image = tokio::select! {
        image = bring => image?,
        () = answer.closed() => return Err(abandoned()),
    };
    plan.set_image(&image, has_groups_of_image(&shared.engine))?;
    let until = Instant::now() + shared.deadlines.create;
    if answer.is_closed() || shared.closed.is_cancelled() {
        return Err(abandoned());
    }
    let reserved = reserve_ports(shared, plan, until).await?;
    prepare_host(shared, plan).await?;
    progress.sandbox_requested = true;
    let (sandbox, addresses) = run_sandbox(shared, plan, until).await.inspect_err(|error| {
        if may_come(error) {
            progress.patience = UNDO_PATIENCE;
        }
    })?;
    check_ports(shared, plan, until).await?;
    // From here on the ports lead to the container.
    drop(reserved);
    if answer.is_closed() {
        return Err(abandoned());
    }
    write_hosts(shared, plan, &addresses).await?;
    create_in(shared, plan, sandbox, until).await
}

/// Returns the id of the new sandbox and its addresses.
async fn run_sandbox(
    shared: &Shared,
    plan: &Plan,
    until: Instant,
) -> Result<(String, Vec<String>)> {
    let request = cri::RunPodSandboxRequest {
        config: Some(plan.sandbox()),
        runtime_handler: shared.settings.runtime_handler.clone().unwrap_or_default(),
    };
    let id = ask(shared, until, request).await?.pod_sandbox_id;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = ask(shared, until, request).await?.status.unwrap_or_default();
    must_be_ours(&status.labels, plan)?;
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|address| address.ip);
    let addresses = [network.ip].into_iter().chain(more).filter(|address| !address.is_empty());
    Ok((id, addresses.collect()))
}

async fn create_in(shared: &Shared, plan: &Plan, sandbox: String, until: Instant) -> Result<Made> {
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(plan.container()),
        sandbox_config: Some(plan.sandbox()),
    };
    let container = ask(shared, until, request).await.map_err(at_create)?.container_id;
    let request = cri::ContainerStatusRequest { container_id: container.clone(), verbose: false };
    let status = ask(shared, until, request).await?.status.unwrap_or_default();
    must_be_ours(&status.labels, plan)?;
    Ok(Made { container, sandbox, name: plan.name.clone(), notes: plan.notes.clone() })
}

/// Checks that what the engine has returned carries the nonce of this create: CRI-O returns the
/// existing sandbox or container for a name that is taken.
fn must_be_ours(labels: &BTreeMap<String, String>, plan: &Plan) -> Result<()> {
    if labels.get(LABEL_NONCE).is_some_and(|nonce| nonce == plan.nonce.as_str()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::AlreadyExists)
        .with_message(format!("the name {} is taken on this engine", plan.name)))
}

/// One call of a create. It is not given up when the runtime is closed: what it makes has to be
/// known to be undone.
async fn ask<C: Call>(shared: &Shared, until: Instant, question: C) -> Result<C::Answer> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(too_late(Operation::Create, shared.deadlines.create));
    }
    shared.client.ask(Operation::Create, left, question).await
}

/// Binds a free port for each one to publish, and holds it.
///
/// The engine does not keep the ports of its sandboxes bound: packets are led to the sandbox by
/// rules. So a port that can be bound may lead to a container. Each sandbox carries its ports as
/// labels, by which the engine is asked while the port is held: whoever held it before has its
/// sandbox already, or has given it up.
async fn reserve_ports(
    shared: &Shared,
    plan: &mut Plan,
    until: Instant,
) -> Result<Option<PortReservation>> {
    if plan.tcp_ports.is_empty() {
        return Ok(None);
    }
    let mut random = ports::random(&Nonce::random()?);
    let range = shared.settings.host_ports.clone();
    let mut reserved = PortReservation::new(range, plan.tcp_ports.len(), &mut random)?;
    let mut free = BTreeSet::new();
    loop {
        let mut taken = None;
        for port in reserved.ports().filter(|port| !free.contains(port)).collect::<Vec<_>>() {
            if with_port(shared, port, until).await? == 0 {
                free.insert(port);
            } else {
                taken = Some(port);
                break;
            }
        }
        match taken {
            Some(taken) => reserved.replace(|port| port == taken, &mut random)?,
            None => break,
        }
    }
    let bindings = plan.tcp_ports.iter().zip(reserved.ports());
    let bindings: Vec<_> = bindings
        .map(|(&container_port, host_port)| TcpPortBinding { host_port, container_port })
        .collect();
    plan.set_ports(bindings);
    Ok(Some(reserved))
}

/// Checks that no other sandbox has got a port of this one meanwhile: a process in another network
/// namespace cannot see that a port is held.
async fn check_ports(shared: &Shared, plan: &Plan, until: Instant) -> Result<()> {
    for binding in &plan.notes.ports {
        if with_port(shared, binding.host_port, until).await? > 1 {
            return Err(port_conflict(binding.host_port));
        }
    }
    Ok(())
}

/// Returns how many sandboxes publish a port, whatever their scope.
async fn with_port(shared: &Shared, port: u16, until: Instant) -> Result<usize> {
    let filter =
        cri::PodSandboxFilter { label_selector: [port_label(port)].into(), ..Default::default() };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    Ok(ask(shared, until, request).await?.items.len())
}

/// How long an engine that has not answered may take to make what it was asked for.
const UNDO_PATIENCE: Duration = Duration::from_secs(120);

/// Whether the engine may still be at it: it has not answered, or was stopped.
fn may_come(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) && !was_not_sent(error)
}

/// Removes everything that a create made, and for as long as `patience` also what may still come of
/// it. Gives up when the engine is away for long: then a reap finds it by its labels.
async fn undo(
    shared: &Shared,
    nonce: &Nonce,
    sandbox: Option<String>,
    notes: &Notes,
    patience: Duration,
) {
    let mut backoff = Backoff::default();
    let begun = Instant::now();
    let (until, looks_until) = (begun + shared.deadlines.remove, begun + patience);
    loop {
        match try_undo(shared, nonce, sandbox.as_deref()).await {
            Ok(found) => {
                if let Err(error) = clear_host(shared, notes).await {
                    tracing::warn!(%error, %nonce, "something of a create was left on the host");
                }
                let half_made = &shared.half_made;
                if found || !half_made.another(backoff.delay(), looks_until).await {
                    return;
                }
            }
            Err(error) if error.is_retryable() && Instant::now() < until.max(looks_until) => {
                tokio::time::sleep(backoff.delay()).await;
            }
            Err(error) => {
                tracing::warn!(%error, %nonce, "a create could not be undone");
                return;
            }
        }
    }
}

/// Gives whether there was something.
async fn try_undo(shared: &Shared, nonce: &Nonce, sandbox: Option<&str>) -> Result<bool> {
    if let Some(sandbox) = sandbox {
        return remove_sandbox(shared, Operation::Create, sandbox).await.map(|()| true);
    }
    let filter = cri::PodSandboxFilter {
        label_selector: [(LABEL_NONCE.to_owned(), nonce.to_string())].into(),
        ..Default::default()
    };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let query = shared.deadlines.query;
    let found = shared.client.ask(Operation::Create, query, request).await?;
    for sandbox in &found.items {
        remove_sandbox(shared, Operation::Create, &sandbox.id).await?;
    }
    Ok(!found.items.is_empty())
}

/// Kills what runs in a sandbox, and removes it with all that is in it. One that is gone is no
/// error.
pub(crate) async fn remove_sandbox(
    shared: &Shared,
    operation: Operation,
    sandbox: &str,
) -> Result<()> {
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
    let until = Instant::now() + shared.deadlines.remove;
    let mut backoff = Backoff::default();
    let mut tries = 0;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // CRI-O crashes when two remove a sandbox that was not stopped.
        let removed = match shared.client.ask(operation, left, stop.clone()).await {
            Ok(_) => {
                let left = until.saturating_duration_since(Instant::now());
                shared.client.ask(operation, left, request.clone()).await.map(drop)
            }
            failed => failed.map(drop),
        };
        match removed {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // Two at once get into each other's way, and the engine says so without a code.
            Err(error) if error.kind() == ErrorKind::Internal && tries < REMOVE_TRIES => {
                tracing::debug!(%error, sandbox, "a sandbox could not be removed: trying again");
                tries += 1;
                tokio::time::sleep(backoff.delay()).await;
            }
            done => return done,
        }
    }
}

/// Checks that the sources of mounts are there, and of the kinds that the spec requires. Some engines
/// create a directory if a source is missing, and none has a field for the kind.
async fn check_mount_sources(shared: &Shared, plan: &Plan) -> Result<()> {
    if plan.mounts.is_empty() {
        return Ok(());
    }
    let peer = shared.client.peer().clone();
    let mounts = plan.mounts.clone();
    on_host(move || {
        let checked = peer.among_its_mounts(|| {
            let mut mounts = mounts.iter().enumerate();
            Ok(mounts.try_for_each(|(at, mount)| check_mount_source(at, mount)))
        });
        // Where the engine's files cannot be seen, the engine has to say it.
        checked.unwrap_or(Ok(()))
    })
    .await
}

fn check_mount_source(at: usize, mount: &runtime_core::Mount) -> Result<()> {
    let source = &mount.source;
    if fs::symlink_metadata(source).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let words = format!("there is no {}", source.display());
        return Err(Error::invalid(format!("mounts[{at}].source"), words));
    }
    match fs::metadata(source) {
        Ok(metadata) => runtime_support::check_mount_kind(at, mount, metadata.file_type()),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
