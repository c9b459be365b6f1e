//! Selects the files, and the cluster and the user in them.

use std::io;
use std::path::{Path, PathBuf};

use runtime_core::{Error, ErrorKind, Result};

use super::schema::{Cluster, Context, Exec, File, User, bad};
use crate::client::environment::Environment;

/// A cluster, and the identity and namespace to use there.
pub(super) struct Selected {
    pub(super) cluster: Cluster,
    pub(super) user: User,
    pub(super) namespace: String,
}

/// The source of the configuration.
pub(super) enum Source {
    Kubeconfig(Box<Selected>),
    /// The service account of the pod that this process runs in.
    Pod,
}

/// Selects a cluster and a user.
///
/// The identity of the pod is used only if no kubeconfig has anything in it and no context is
/// requested.
///
/// # Errors
/// `InvalidArgument` if a file or the context cannot be used; `Unavailable` if there is neither a
/// kubeconfig nor a service account.
pub(super) fn select(
    path: Option<&Path>,
    context: Option<&str>,
    environment: &Environment,
) -> Result<Source> {
    let files = match path {
        Some(path) => read(path)?,
        None => merged(environment)?,
    };
    // An empty name is an absent one.
    let requested = context.filter(|name| !name.is_empty());
    if files.is_empty() && requested.is_none() {
        if path.is_none() && is_pod(environment) {
            return Ok(Source::Pod);
        }
        return Err(match path {
            Some(path) => bad(format!("{} is empty", path.display())),
            None => Error::new(ErrorKind::Unavailable)
                .with_message(
                    "no kubeconfig in KUBECONFIG or ~/.kube/config, and this is not a pod of a \
                     cluster",
                )
                .with_retryable(false),
        });
    }
    chosen(files, requested).map(|selected| Source::Kubeconfig(Box::new(selected)))
}

/// Reads the files of `KUBECONFIG`, or the one in the home directory. Files that do not exist are
/// skipped.
fn merged(environment: &Environment) -> Result<File> {
    let paths: Vec<PathBuf> = match environment.os("KUBECONFIG") {
        Some(list) => std::env::split_paths(list).collect(),
        None => environment.home().map(|home| home.join(".kube/config")).into_iter().collect(),
    };
    let mut files = File::default();
    for path in paths.iter().filter(|path| !path.as_os_str().is_empty()) {
        match read(path) {
            Ok(file) => files.merge(file),
            Err(error) if is_missing(&error) => {
                tracing::debug!(path = %path.display(), "skipped a kubeconfig that does not exist");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

fn is_missing(error: &Error) -> bool {
    runtime_support::find_source::<io::Error>(error)
        .is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
}

fn read(path: &Path) -> Result<File> {
    let failed = |source: io::Error| {
        bad(format!("failed to read {}: {source}", path.display())).with_source(source)
    };
    let bytes = std::fs::read(path).map_err(failed)?;
    let absolute = std::path::absolute(path).map_err(failed)?;
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    File::parse(&bytes, directory).map_err(|error| {
        bad(format!("{}: {}", path.display(), error.message().unwrap_or_default()))
    })
}

fn is_pod(environment: &Environment) -> bool {
    environment.os("KUBERNETES_SERVICE_HOST").is_some()
        && environment.os("KUBERNETES_SERVICE_PORT").is_some()
        && environment.service_account().join("token").is_file()
}

fn chosen(mut files: File, requested: Option<&str>) -> Result<Selected> {
    let name = match requested {
        Some(name) => name.to_owned(),
        None if files.current_context.is_empty() => {
            return Err(bad("has no current-context, and no context was requested"));
        }
        None => std::mem::take(&mut files.current_context),
    };
    let Context { cluster: cluster_name, user: user_name, namespace } =
        files.contexts.remove(&name).ok_or_else(|| {
            let message = format!("there is no context {name:?} in the kubeconfig");
            Error::invalid(if requested.is_some() { "context" } else { "kubeconfig" }, message)
        })?;
    if cluster_name.is_empty() {
        return Err(bad(format!("context {name:?} names no cluster")));
    }
    let cluster = files.clusters.remove(&cluster_name).ok_or_else(|| {
        bad(format!("there is no cluster {cluster_name:?}, which context {name:?} names"))
    })?;
    let user = match files.users.remove(&user_name) {
        Some(user) => user,
        None => {
            if !user_name.is_empty() {
                tracing::warn!(
                    user = user_name,
                    context = name,
                    "the kubeconfig has no such user: requests carry no credentials"
                );
            }
            User::default()
        }
    };
    check_cluster(&cluster_name, &cluster)?;
    check_user(&user_name, &user)?;
    Ok(Selected { cluster, user, namespace })
}

fn check_cluster(name: &str, cluster: &Cluster) -> Result<()> {
    if cluster.server.is_empty() {
        return Err(bad(format!("cluster {name:?} has no server")));
    }
    let has_data = !cluster.certificate_authority_data.0.is_empty();
    if has_data && !cluster.certificate_authority.is_empty() {
        return Err(bad(format!(
            "cluster {name:?} has both certificate-authority and certificate-authority-data"
        )));
    }
    Ok(())
}

fn check_user(name: &str, user: &User) -> Result<()> {
    let refuse = |what: &str| Err(bad(format!("user {name:?} {what}")));
    let has_basic = !user.username.is_empty() || !user.password.is_empty();
    if has_basic && !user.token.is_empty() {
        return refuse("has both a token and a username or password");
    }
    if !user.username.is_empty() && !user.token_file.is_empty() {
        return refuse("has both a tokenFile and a username");
    }
    let has_certificate_data = !user.client_certificate_data.0.is_empty();
    let has_key_data = !user.client_key_data.0.is_empty();
    if !user.client_certificate.is_empty() && has_certificate_data {
        return refuse("has both client-certificate and client-certificate-data");
    }
    if has_certificate_data || !user.client_certificate.is_empty() {
        if !user.client_key.is_empty() && has_key_data {
            return refuse("has both client-key and client-key-data");
        }
        if user.client_key.is_empty() && !has_key_data {
            return refuse("has a client certificate and no key for it");
        }
    }
    let impersonates = !user.impersonate_uid.is_empty()
        || !user.impersonate_groups.is_empty()
        || !user.impersonate_extra.is_empty();
    if impersonates && user.impersonate.is_empty() {
        return refuse("has as-uid, as-groups or as-user-extra without as");
    }
    if let Some(provider) = &user.auth_provider {
        if user.exec.is_some() {
            return refuse("has both auth-provider and exec");
        }
        return refuse(&format!(
            "has the auth-provider {:?}: auth providers were removed from Kubernetes in 1.26, \
             use an exec plugin",
            provider.name
        ));
    }
    user.exec.as_ref().map_or(Ok(()), |exec| check_exec(name, exec))
}

fn check_exec(name: &str, exec: &Exec) -> Result<()> {
    let refuse = |what: String| Err(bad(format!("the exec plugin of user {name:?} {what}")));
    if exec.command.is_empty() {
        return refuse("has no command".into());
    }
    let is_v1 = match exec.api_version.as_str() {
        "client.authentication.k8s.io/v1" => true,
        "client.authentication.k8s.io/v1beta1" => false,
        "" => return refuse("has no apiVersion".into()),
        other => return refuse(format!("has the unknown apiVersion {other:?}")),
    };
    if exec.env.iter().any(|variable| variable.name.is_empty()) {
        return refuse("has an environment variable without a name".into());
    }
    match exec.interactive_mode.as_str() {
        "Never" | "IfAvailable" | "Always" => Ok(()),
        "" if !is_v1 => Ok(()),
        "" => refuse("has no interactiveMode".into()),
        other => refuse(format!("has the unknown interactiveMode {other:?}")),
    }
}
