//! Connects to an engine.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Capabilities, Operation, Result, ResultExt};
use runtime_support::ExitHub;
use runtime_support::backend::Context;

use crate::client::connector::Connector;
use crate::client::deadline::within;
use crate::client::http::{Http, bollard};
use crate::client::identify::identify;
use crate::error::BACKEND;
use crate::model::capabilities::capabilities;
use crate::model::engine::{Engine, Flavour};
use crate::options::DockerOptions;
use crate::state::DockerBackend;
use crate::state::containers::ContainerStates;
use crate::state::exits::DockerExits;
use crate::state::samples::Samples;

/// Returns how often awaited containers are checked independently of events. The engines have no
/// event for a start that failed in another process, and Podman's events can be disabled.
const fn recheck_interval(flavour: Flavour) -> Duration {
    match flavour {
        Flavour::Docker => Duration::from_secs(30),
        Flavour::Podman => Duration::from_secs(5),
    }
}

/// Opens a connection: resolves the endpoint, identifies the engine, and negotiates the version of
/// the API.
pub(crate) async fn connect(options: DockerOptions) -> Result<DockerBackend> {
    let endpoint = options.endpoint()?;
    let DockerOptions { scope, deadlines, .. } = options;
    let deadlines = deadlines.bounded();
    let connector = Connector::new(&endpoint, deadlines.connect)?;
    let address = endpoint.to_string();
    let mut http = Http::new(endpoint, connector);
    let identity = identify(&mut http);
    let engine = within(Operation::Connect, deadlines.connect, identity).await.about(address)?;
    let context = Context::new(scope, deadlines, with_signals(&engine, &http).await);
    let http = Arc::new(http);
    let docker = bollard(&http)?;
    let containers = Arc::new(ContainerStates::default());
    let exits = DockerExits {
        http: Arc::clone(&http),
        deadlines: context.deadlines.clone(),
        scope: context.scope.clone(),
        flavour: engine.flavour,
        clock: engine.clock,
        // Shared PIDs prove the same kernel, and so the same clock.
        same_clock: context.capabilities.exec_signal,
        containers: Arc::clone(&containers),
    };
    let exits = ExitHub::new(exits, recheck_interval(engine.flavour));
    tracing::debug!(backend = BACKEND, engine = %engine, "connected");
    let samples = Samples::default();
    Ok(DockerBackend { context, http, docker, engine, containers, exits, samples })
}

/// Returns the capabilities of the engine, and those that this process adds to them on the engine's
/// host: signals to the process of an exec.
///
/// The engine has no request for such a signal, but reports the PID. Without cgroups nothing proves
/// that a process belongs to the container.
async fn with_signals(engine: &Engine, http: &Http) -> Capabilities {
    let mut capabilities = capabilities(engine);
    let locality = http.endpoint().locality().await;
    capabilities.exec_signal = locality.shares_pids()
        && runtime_support::process::is_root()
        && engine.info.cgroup_driver != "none";
    capabilities.exec_descendants = capabilities.exec_signal;
    capabilities
}
