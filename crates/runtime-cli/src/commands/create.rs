//! `create`, and creating a container for `run`.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use runtime_core::{
    Capabilities, Container, ContainerSpec, ErrorKind, PullPolicy, Runtime, Signal,
};

use crate::cli::{Create, SpecArguments};
use crate::connect::soon;
use crate::exit_code::{FAILED, coded, killed_by};
use crate::signals::Signals;

/// Drops names of variables to remove if the engine cannot remove any, with a note. Scripts pass
/// on variables that may be unset, and an image seldom sets them.
pub(crate) fn drop_unset(names: &mut BTreeSet<String>, can: &Capabilities) {
    if !can.env_unset {
        for name in std::mem::take(names) {
            crate::style::note(format_args!(
                "{name} is not set here; this engine cannot remove it if the image sets it"
            ));
        }
    }
}

/// Creates a container, with the progress of the pull where there is one.
async fn make(
    runtime: &dyn Runtime,
    mut spec: ContainerSpec,
    quiet: bool,
) -> Result<Arc<dyn Container>> {
    drop_unset(&mut spec.unset_env, runtime.capabilities());
    let wanted = spec.pull_policy;
    if quiet || !runtime.capabilities().pull_image || wanted == PullPolicy::Never {
        return Ok(runtime.create_container(&spec).await?);
    }
    // The engine is asked for the image only when it lacks it: that costs no request.
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

/// What comes of making a container.
pub(crate) enum Made {
    /// It.
    Container(Arc<dyn Container>),
    /// Nothing: this signal came first.
    Told(Signal),
}

/// The same, undone when a signal wants the end.
pub(crate) async fn make_unless_told(
    runtime: &dyn Runtime,
    arguments: &SpecArguments,
    signals: &mut Signals,
) -> Result<Made> {
    let spec = arguments.spec().map_err(|error| coded(FAILED, error))?;
    tokio::select! {
        biased;
        // Dropping a create undoes it, which takes the engine a moment.
        signal = signals.end() => {
            let _ = soon(runtime.close()).await;
            Ok(Made::Told(signal))
        }
        made = make(runtime, spec, arguments.quiet) => made.map(Made::Container),
    }
}

/// `runtime create`.
pub(crate) async fn create(runtime: Arc<dyn Runtime>, arguments: Create) -> Result<u8> {
    let mut signals = Signals::listen()?;
    let made = make_unless_told(&*runtime, &arguments.spec, &mut signals).await?;
    let container = match made {
        Made::Container(container) => container,
        Made::Told(signal) => return Ok(killed_by(signal.number())),
    };
    crate::format::print(&format!("{}\n", container.id()))?;
    Ok(0)
}
