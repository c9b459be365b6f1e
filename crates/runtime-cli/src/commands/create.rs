//! `create`, and the creation of containers for `run`.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use runtime_core::{
    Capabilities, Container, ContainerSpec, ErrorKind, PullPolicy, Runtime, Signal,
};

use crate::cli::{Create, SpecArguments};
use crate::connect::with_shutdown_timeout;
use crate::exit_code::{FAILED, coded, killed_by};
use crate::signals::Signals;

/// Drops the names of variables to remove, with a note, if the engine cannot remove any. Scripts
/// pass on variables that may be unset, and an image seldom sets them.
pub(crate) fn drop_unset(names: &mut BTreeSet<String>, can: &Capabilities) {
    if !can.env_unset {
        for name in std::mem::take(names) {
            crate::style::note(format_args!(
                "{name} is not set in this environment; this engine cannot remove it if the image sets it"
            ));
        }
    }
}

/// Creates a container and shows the progress of a pull.
async fn create_with_progress(
    runtime: &dyn Runtime,
    mut spec: ContainerSpec,
    quiet: bool,
) -> Result<Arc<dyn Container>> {
    drop_unset(&mut spec.unset_env, runtime.capabilities());
    let wanted = spec.pull_policy;
    if quiet || !runtime.capabilities().pull_image || wanted == PullPolicy::Never {
        return Ok(runtime.create_container(&spec).await?);
    }
    // The pull is requested only if the image is missing, which costs no extra request otherwise.
    spec.pull_policy = PullPolicy::Never;
    if wanted == PullPolicy::Missing {
        match runtime.create_container(&spec).await {
            Err(error) if error.kind() == ErrorKind::ImageNotFound => {}
            done => return Ok(done?),
        }
    }
    super::pull::show(runtime, &spec.image, wanted).await?;
    Ok(runtime.create_container(&spec).await?)
}

/// Result of [`create_or_signal`].
pub(crate) enum Created {
    /// The container.
    Container(Arc<dyn Container>),
    /// A signal arrived first.
    Interrupted(Signal),
}

/// Creates a container, and undoes that if a signal ends the command.
pub(crate) async fn create_or_signal(
    runtime: &dyn Runtime,
    arguments: &SpecArguments,
    signals: &mut Signals,
) -> Result<Created> {
    let spec = arguments.spec().map_err(|error| coded(FAILED, error))?;
    tokio::select! {
        biased;
        // Dropping the create starts its cleanup, which takes the engine a moment.
        signal = signals.end() => {
            let _ = with_shutdown_timeout(runtime.close()).await;
            Ok(Created::Interrupted(signal))
        }
        made = create_with_progress(runtime, spec, arguments.quiet) => made.map(Created::Container),
    }
}

/// `runtime create`.
pub(crate) async fn create(runtime: Arc<dyn Runtime>, arguments: Create) -> Result<u8> {
    let mut signals = Signals::listen()?;
    let made = create_or_signal(&*runtime, &arguments.spec, &mut signals).await?;
    let container = match made {
        Created::Container(container) => container,
        Created::Interrupted(signal) => return Ok(killed_by(signal.number())),
    };
    crate::format::print(&format!("{}\n", container.id()))?;
    Ok(0)
}
