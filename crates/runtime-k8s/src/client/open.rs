//! Opens the clients of a connection.

use runtime_core::{Error, Result};
use runtime_support::OnExecutor;

use super::environment::Environment;
use super::kubeconfig::Settings;
use super::transport::connections::Clients;
use super::transport::pool::Generation;
use super::transport::{dial, http2};
use crate::options::KubernetesOptions;

/// Returns the clients for a kubeconfig. Its exec plugin is run.
///
/// # Errors
/// As [`KubernetesRuntime::connect`](crate::KubernetesRuntime::connect).
pub(crate) async fn clients(options: &KubernetesOptions) -> Result<OnExecutor<Clients>> {
    let settings = Settings::load(
        options.kubeconfig.as_deref(),
        options.context.as_deref(),
        &Environment::current(),
        options.deadlines.connect,
    )
    .await?;
    let generation = Generation::default();
    let open = move || {
        let all = dial::client(&settings, generation.clone())?;
        let long = http2::client(&settings, generation.clone())?;
        Ok::<_, Error>(Clients { all, long, generation: generation.clone() })
    };
    Ok(OnExecutor::new(open()?, move || open().ok()))
}
