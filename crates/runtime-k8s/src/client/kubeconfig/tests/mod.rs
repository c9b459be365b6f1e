//! The configuration, field by field, compared with the observed behaviour of kubectl 1.32.

mod credentials;
mod files;
mod schema;

use std::path::Path;
use std::time::Duration;

use runtime_core::Result;

use super::Settings;
use crate::client::environment::Environment;

const LIMIT: Duration = Duration::from_secs(60);

/// Returns a kubeconfig with one cluster and one user, whose fields are YAML flow mappings.
fn one(cluster: &str, user: &str) -> String {
    format!(
        "current-context: c\n\
         clusters: [{{name: k, cluster: {cluster}}}]\n\
         users: [{{name: u, user: {user}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n"
    )
}

/// Loads one file.
async fn load(text: impl AsRef<[u8]>) -> Result<Settings> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    load_at(file.path(), &[]).await
}

async fn load_at(path: &Path, variables: &[(&str, &str)]) -> Result<Settings> {
    let environment = Environment::of(variables.iter().copied());
    Settings::load(Some(path), None, &environment, LIMIT).await
}
