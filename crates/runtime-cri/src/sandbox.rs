//! Making a container with its sandbox and everything else that belongs to it, and unmaking it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    Backoff, Error, ErrorKind, LABEL_NONCE, Nonce, Operation, Result, TcpPortBinding,
};
use runtime_support::ports::PortReservation;
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::BACKEND;
use crate::capabilities::has_groups_of_image;
use crate::client::{Call, too_late};
use crate::error::{at_create, was_not_sent};
use crate::generated as cri;
use crate::images;
use crate::notes::Notes;
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
    let mut patience = Duration::ZERO;
    match make(&shared, &mut plan, &mut answer, &mut patience).await {
        Ok(made) => {
            let (nonce, handle) = (plan.nonce, Handle::current());
            // When nobody waits any more it comes back, and being dropped it is undone.
            drop(answer.send(Ok(Unclaimed { shared, made, nonce, kept: false, handle })));
        }
        Err(error) => {
            drop(answer.send(Err(error)));
            undo(&shared, &plan.nonce, None, &plan.notes, patience).await;
        }
    }
}

/// The error for a create whose caller has gone. Nobody gets to see it.
fn abandoned() -> Error {
    Error::internal("nobody waits for it any more")
}

/// Sets how long a sandbox may still come of it when it fails.
async fn make(
    shared: &Shared,
    plan: &mut Plan,
    answer: &mut Answer,
    patience: &mut Duration,
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
    let sandbox = run_sandbox(shared, plan, until).await.inspect_err(|error| {
        if may_come(error) {
            *patience = UNDO_PATIENCE;
        }
    })?;
    // From here on the ports lead to the container.
    drop(reserved);
    if answer.is_closed() {
        return Err(abandoned());
    }
    create_in(shared, plan, sandbox, until).await
}

async fn run_sandbox(shared: &Shared, plan: &Plan, until: Instant) -> Result<String> {
    let request = cri::RunPodSandboxRequest {
        config: Some(plan.sandbox()),
        runtime_handler: shared.settings.runtime_handler.clone().unwrap_or_default(),
    };
    Ok(ask(shared, until, request).await?.pod_sandbox_id)
}

async fn create_in(shared: &Shared, plan: &Plan, sandbox: String, until: Instant) -> Result<Made> {
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(plan.container()),
        sandbox_config: Some(plan.sandbox()),
    };
    let answer = ask(shared, until, request).await.map_err(at_create)?;
    Ok(Made {
        container: answer.container_id,
        sandbox,
        name: plan.name.clone(),
        notes: plan.notes.clone(),
    })
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
/// The engine does not keep the ports of its sandboxes bound, so the kernel may give out one that
/// leads to a container. That is found out while the port is held: then whoever had it before has
/// its sandbox already, or has given it up. Nor does the engine bind them: it has packets led to the
/// sandbox by rules, and so it never finds a port taken, not even by us.
async fn reserve_ports(
    shared: &Shared,
    plan: &mut Plan,
    until: Instant,
) -> Result<Option<PortReservation>> {
    if plan.tcp_ports.is_empty() {
        return Ok(None);
    }
    let failed = |error: io::Error| {
        Error::new(ErrorKind::ResourceExhausted)
            .with_message("no free port can be reserved")
            .with_source(error)
    };
    let mut reserved = PortReservation::new(plan.tcp_ports.len()).map_err(failed)?;
    let all = cri::ListPodSandboxRequest { filter: None };
    let sandboxes = ask(shared, until, all).await?.items;
    let taken = |port: u16| {
        sandboxes
            .iter()
            .filter_map(|sandbox| Notes::read(&sandbox.annotations))
            .any(|notes| notes.ports.iter().any(|binding| binding.host_port == port))
    };
    while reserved.ports().any(taken) {
        reserved.replace(taken).map_err(failed)?;
    }
    let bindings = plan.tcp_ports.iter().zip(reserved.ports());
    let bindings: Vec<_> = bindings
        .map(|(&container_port, host_port)| TcpPortBinding { host_port, container_port })
        .collect();
    plan.set_ports(bindings);
    Ok(Some(reserved))
}

/// Makes the folder of the logs, and mounts the container's /dev/shm.
async fn prepare_host(shared: &Shared, plan: &Plan) -> Result<()> {
    let (logs, shm) = (plan.notes.logs.clone(), plan.notes.shared_memory.clone());
    let size = plan.shared_memory;
    let peer = shared.client.peer().clone();
    on_host(move || {
        if let Some(logs) = logs {
            make_folder(&logs).map_err(|error| about_path("make the log folder", &logs, error))?;
        }
        if let (Some(shm), Some(size)) = (shm, size) {
            peer.among_its_mounts(|| {
                make_folder(&shm)?;
                if is_mounted(&shm) {
                    return Ok(());
                }
                let options = std::ffi::CString::new(format!("size={size},mode=1777"))?;
                let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                Ok(rustix::mount::mount("shm", &shm, "tmpfs", flags, options.as_c_str())?)
            })
            .map_err(|error| about_path("mount a /dev/shm", &shm, error))?;
        }
        Ok(())
    })
    .await
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
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
    let until = Instant::now() + shared.deadlines.remove;
    let mut backoff = Backoff::default();
    let mut tries = 0;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match shared.client.ask(operation, left, request.clone()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // Two at once get into each other's way, and the engine says so without a code.
            Err(error) if error.kind() == ErrorKind::Internal && tries < REMOVE_TRIES => {
                tracing::debug!(%error, sandbox, "a sandbox could not be removed: trying again");
                tries += 1;
                tokio::time::sleep(backoff.delay()).await;
            }
            done => return done.map(drop),
        }
    }
}

/// Removes what lies outside of the engine. What is not there is no error.
pub(crate) async fn clear_host(shared: &Shared, notes: &Notes) -> Result<()> {
    let peer = shared.client.peer().clone();
    // Only what lies where this runtime puts such things: notes can be written by anyone who can
    // speak to the engine.
    let own = |folder: &Option<PathBuf>, root: &Path| {
        let root = root.join(shared.scope.as_str());
        folder.clone().filter(|folder| {
            folder.starts_with(&root) && folder != &root && !folder.components().any(is_dots)
        })
    };
    let logs = own(&notes.logs, &shared.settings.log_dir);
    let shm = own(&notes.shared_memory, &shared.settings.state_dir);
    on_host(move || {
        if let Some(shm) = shm {
            peer.among_its_mounts(|| {
                while is_mounted(&shm) {
                    rustix::mount::unmount(&shm, UnmountFlags::DETACH)?;
                }
                remove_folder(&shm)?;
                prune(&shm)
            })
            .map_err(|error| about_path("unmount", &shm, error))?;
        }
        if let Some(logs) = logs {
            remove_folder(&logs)
                .and_then(|()| prune(&logs))
                .map_err(|error| about_path("remove the log folder", &logs, error))?;
        }
        Ok(())
    })
    .await
}

fn is_dots(part: std::path::Component<'_>) -> bool {
    part == std::path::Component::ParentDir
}

/// Does what may block where that is allowed.
pub(crate) async fn on_host<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::internal("the work on the host broke off").with_source(error).on(BACKEND))
    })
}

fn about_path(what: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Internal,
    };
    Error::new(kind)
        .with_message(format!("cannot {what} {}", path.display()))
        .with_source(error)
        .on(BACKEND)
}

/// Makes a folder and those above it. One above may be removed by someone else meanwhile, because
/// it was empty.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::create_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 20 => tries += 1,
            done => return done,
        }
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes the folders above, up to the scope's, that are empty now.
fn prune(folder: &Path) -> io::Result<()> {
    for above in folder.ancestors().skip(1).take(if folder.ends_with("shm") { 2 } else { 1 }) {
        match fs::remove_dir(above) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
            done => done?,
        }
    }
    Ok(())
}

/// Whether something is mounted right there: its device is not that of the folder above.
fn is_mounted(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|file| file.dev()).ok();
    folder.parent().is_some_and(|above| {
        device(folder).is_some_and(|own| device(above).is_some_and(|above| own != above))
    })
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
mod tests {
    use runtime_core::Scope;

    use super::*;
    use crate::connect::{CriOptions, LogRotation};
    use crate::fake::{Fake, Says};
    use crate::runtime::CriRuntime;
    use crate::shared::Whose;

    const MINUTE: Duration = Duration::from_secs(60);

    /// An engine that has nothing and does everything.
    async fn connected() -> (Fake, Arc<Shared>) {
        let fake = Fake::start(Says::Empty);
        let options = CriOptions::new(Scope::new("s").unwrap())
            .endpoint(fake.endpoint().to_string())
            .log_dir(fake.folder.path().join("logs"))
            .state_dir(fake.folder.path().join("state"))
            .log_rotation(LogRotation::Off);
        let shared = CriRuntime::open(options, Whose::Ours).await.unwrap();
        (fake, shared)
    }

    #[tokio::test]
    async fn a_container_that_nobody_takes_is_undone() {
        let (_fake, shared) = connected().await;
        let unclaimed = |name: &str| {
            let logs = shared.settings.log_dir.join("s").join(name);
            fs::create_dir_all(&logs).unwrap();
            let notes = Notes { logs: Some(logs.clone()), ..Notes::default() };
            let (container, sandbox) = ("c".to_owned(), "s".to_owned());
            let made = Made { container, sandbox, name: name.to_owned(), notes };
            let (nonce, handle) = (Nonce::random().unwrap(), Handle::current());
            (Unclaimed { shared: shared.clone(), made, nonce, kept: false, handle }, logs)
        };
        let (taken, kept) = unclaimed("taken");
        let (lost, gone) = unclaimed("lost");
        assert_eq!(taken.keep().name, "taken");
        // The answer was given, and whoever waited for it went away before it was looked at.
        let (answer, caller) = oneshot::channel::<Result<Unclaimed>>();
        assert!(answer.send(Ok(lost)).is_ok());
        drop(caller);
        shared.half_made.close(MINUTE).await;
        assert!(kept.exists() && !gone.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_still_come_is_looked_for() {
        let (_fake, shared) = connected().await;
        let nonce = Nonce::random().unwrap();
        let looks = async |patience| {
            let before = shared.client.requests_sent();
            undo(&shared, &nonce, None, &Notes::default(), patience).await;
            shared.client.requests_sent() - before
        };
        assert_eq!(looks(Duration::ZERO).await, 1);
        let begun = Instant::now();
        assert!(looks(MINUTE).await > 10);
        assert!(begun.elapsed() > MINUTE / 2);
        // Whoever closes waits for one look, not for all.
        shared.half_made.close(MINUTE).await;
        assert_eq!(looks(MINUTE).await, 1);
    }

    #[test]
    fn only_a_sandbox_without_an_answer_may_still_come() {
        let unavailable = || Error::new(ErrorKind::Unavailable);
        let because = |kind: io::ErrorKind| unavailable().with_source(io::Error::from(kind));
        for (error, may) in [
            (Error::new(ErrorKind::Timeout), true),
            (unavailable(), true),
            (because(io::ErrorKind::ConnectionReset), true),
            (because(io::ErrorKind::ConnectionRefused), false),
            (Error::new(ErrorKind::AlreadyExists), false),
            (Error::new(ErrorKind::Internal), false),
        ] {
            assert_eq!(may_come(&error), may, "{error:?}");
        }
    }
}
