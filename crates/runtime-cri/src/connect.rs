//! Connection to the first engine that responds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Error, ErrorKind, Operation, Result};
use runtime_support::ExitHub;
use runtime_support::backend::Context;
use runtime_support::locality::Locality;

use crate::client::Client;
use crate::client::engine::identify;
use crate::host::blocking::run_blocking;
use crate::host::directory_watcher::DirectoryWatcher;
use crate::host::peer::ENGINE_PROCESS_NAMES;
use crate::host::{exec_process, private_files};
use crate::model::capabilities::{self, EngineLocation};
use crate::model::log_directory::KUBELET_LOG_ROOT;
use crate::model::spec::Settings;
use crate::options::{CriOptions, Endpoint, LogRotation, candidates};
use crate::state::CriBackend;
use crate::state::connection::{Connection, Ownership};
use crate::state::exec_locks::ExecLocks;
use crate::state::exits::PolledExits;
use crate::state::journal::Journal;
use crate::state::poller::Poller;
use crate::state::rotation::Rotator;
use crate::state::samples::StatsSamples;

/// Delay between two checks of all containers that are waited for, regardless of the poller.
const EXIT_RECHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Connects to the first engine that responds.
pub(crate) async fn open(options: CriOptions, ownership: Ownership) -> Result<Arc<CriBackend>> {
    options.check()?;
    let candidates = candidates(options.endpoint.as_deref())?;
    let several = candidates.len() > 1;
    let mut failures = Vec::new();
    for endpoint in candidates {
        let name = endpoint.to_string();
        match open_at(&options, &ownership, endpoint).await {
            Ok(backend) => return Ok(backend),
            Err(error) if !several => return Err(at_endpoint(error, &name)),
            Err(error) => failures.push(at_endpoint(error, &name)),
        }
    }
    let tried: Vec<_> = failures.iter().filter_map(Error::message).map(str::to_owned).collect();
    // A failure of a socket that exists is more useful than that of one that does not.
    let kinds = [ErrorKind::PermissionDenied, ErrorKind::Timeout, ErrorKind::Unsupported];
    let kind = kinds.into_iter().find(|kind| failures.iter().any(|f| f.kind() == *kind));
    Err(Error::new(kind.unwrap_or(ErrorKind::Unavailable)).with_message(format!(
        "no engine was found, and CONTAINER_RUNTIME_ENDPOINT is not set; tried: {}",
        tried.join("; ")
    )))
}

async fn open_at(
    options: &CriOptions,
    ownership: &Ownership,
    endpoint: Endpoint,
) -> Result<Arc<CriBackend>> {
    let deadlines = options.deadlines.clone().bounded();
    let client = Client::new(endpoint, deadlines.connect);
    let (engine, _) = identify(&client, Operation::Connect, deadlines.connect).await?;
    let peer = client.peer().clone();
    let (log_dir, state_dir) = (options.log_dir.clone(), options.state_dir.clone());
    let is_managed = *ownership == Ownership::Managed;
    let (logs, root) = run_blocking(move || {
        let root = rustix::process::geteuid().is_root();
        if !is_managed {
            let is_shared = peer.sees_as(Path::new(KUBELET_LOG_ROOT), &log_dir);
            return Ok((is_shared == Some(true), root));
        }
        let made = private_files::create_dir_all(&log_dir);
        if let Err(error) = &made {
            tracing::warn!(
                %error,
                directory = %log_dir.display(),
                "failed to create the log directory: no logs"
            );
        }
        if let Err(error) = private_files::create_dir_all(&state_dir) {
            tracing::debug!(
                %error,
                directory = %state_dir.display(),
                "failed to create the state directory"
            );
        }
        // The PID of an engine in another PID namespace is not visible. Its socket is mounted here,
        // so the directory is assumed to be mounted as well; a log without files is an error then.
        // The directory of an engine behind a relay is unknown.
        let is_shared = peer.sees_the_same(&log_dir).unwrap_or_else(|| !peer.is_relay());
        let logs = made.is_ok() && is_shared;
        Ok((logs, root))
    })
    .await?;
    let locality = Locality::of_socket(&client.endpoint().socket, &ENGINE_PROCESS_NAMES).await;
    let location = EngineLocation {
        root,
        shares_pids: locality.shares_pids(),
        sees_mounts: client.peer().shares_namespace("mnt").is_some(),
        lists_children: exec_process::is_supported(),
    };
    let capabilities = capabilities::of(&engine, &location, logs);
    let events = options.engine_events && capabilities::has_events(&engine);
    let settings = Settings {
        log_dir: options.log_dir.clone(),
        state_dir: options.state_dir.clone(),
        logs,
        hosts: location.root && location.sees_mounts,
        runtime_handler: options.runtime_handler.clone(),
        cgroup_parent: options.cgroup_parent.clone(),
        gpu_kind: options.gpu_kind.clone(),
        host_ports: options.host_ports.clone(),
        events,
    };
    let rotates = is_managed && capabilities.logs;
    let rotation = if rotates { options.log_rotation } else { LogRotation::Off };
    let connection = Arc::new(Connection {
        context: Context::new(options.scope.clone(), deadlines, capabilities),
        client,
        engine,
        ownership: ownership.clone(),
        settings,
        kernel_log: Default::default(),
    });
    let watcher = DirectoryWatcher::default();
    let poller = Poller::new(Arc::clone(&connection), watcher.clone());
    let backend = CriBackend {
        exits: ExitHub::new(PolledExits::new(poller.clone()), EXIT_RECHECK_INTERVAL),
        connection,
        poller,
        rotator: Rotator::new(rotation),
        journal: Journal::new(&options.state_dir, &options.scope),
        samples: StatsSamples::default(),
        exec_locks: ExecLocks::default(),
        watcher,
    };
    backend.rotator.ensure_running(&backend.connection);
    Ok(Arc::new(backend))
}

/// Adds the endpoint to the message of an error.
fn at_endpoint(error: Error, endpoint: &str) -> Error {
    match error.message().map(str::to_owned) {
        Some(message) if message.contains(endpoint) => error,
        Some(message) => error.with_message(format!("{message}: {endpoint}")),
        None => error.with_message(endpoint),
    }
}
