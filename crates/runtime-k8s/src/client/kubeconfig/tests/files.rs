//! Which files are read.

use std::path::Path;

use runtime_core::ErrorKind;

use super::super::Settings;
use super::{LIMIT, load_at};
use crate::client::environment::Environment;
use crate::client::proxy::fake::{certificate, certificate_pem};

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn named(context: &str, server: &str) -> String {
    format!(
        "{{current-context: {context}, clusters: [{{name: k, cluster: {{server: {server}}}}}], \
         contexts: [{{name: c, context: {{cluster: k, namespace: {server}}}}}]}}"
    )
}

async fn server(
    context: Option<&str>,
    environment: &Environment,
) -> Result<String, runtime_core::Error> {
    let settings = Settings::load(None, context, environment, LIMIT).await?;
    Ok(settings.config.cluster_url.host().unwrap().to_owned())
}

#[tokio::test]
async fn files_are_merged_and_first_entry_wins() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let empty_current = write(at, "empty-current", &named("''", "first"));
    let current = write(at, "current", &named("c", "second"));
    let nothing = write(at, "nothing", "");
    let missing = at.join("missing").to_str().unwrap().to_owned();
    let malformed = write(at, "malformed", "a: [");
    for (list, expected) in [
        (vec![&*current], Ok("second")),
        (vec![&empty_current, &current], Ok("first")),
        (vec![&current, &empty_current], Ok("second")),
        (vec![&missing, "", &nothing, &current, &missing], Ok("second")),
        (vec![&current, &current], Ok("second")),
        (vec![&current, &malformed], Err(ErrorKind::InvalidArgument)),
        (vec![at.to_str().unwrap(), &current], Err(ErrorKind::InvalidArgument)),
        (vec![&missing], Err(ErrorKind::Unavailable)),
        (vec!["", ""], Err(ErrorKind::Unavailable)),
        (vec![&empty_current], Err(ErrorKind::InvalidArgument)),
    ] {
        let list = list.join(":");
        // The file in the home directory is not read if there is a list.
        let home = at.join("home");
        write(at, "home/.kube/config", &named("c", "home"));
        let environment =
            Environment::of([("KUBECONFIG", &*list), ("HOME", home.to_str().unwrap())]);
        let found = server(None, &environment).await;
        assert_eq!(found.as_deref().map_err(|e| e.kind()), expected, "{list}");
    }
    let home = at.join("home");
    let environment = Environment::of([("KUBECONFIG", ""), ("HOME", home.to_str().unwrap())]);
    assert_eq!(server(None, &environment).await.unwrap(), "home");
    let error = load_at(Path::new(&missing), &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("kubeconfig")));
}

#[tokio::test]
async fn relative_paths_are_resolved_against_directory_of_file() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "one/token", "t\n");
    let text = "{current-context: c, clusters: [{name: k, cluster: {server: x}}], \
                users: [{name: u, user: {tokenFile: ../one/token}}], \
                contexts: [{name: c, context: {cluster: k, user: u}}]}";
    let path = write(directory.path(), "two/config", text);
    load_at(Path::new(&path), &[]).await.unwrap();
}

#[tokio::test]
async fn pod_identity_is_used_only_without_any_kubeconfig() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let account = at.join("account");
    write(at, "account/token", "t\n");
    write(at, "account/ca.crt", &certificate_pem(&certificate()));
    write(at, "account/namespace", "of-the-pod\n");
    let good = write(at, "good", &named("c", "cluster"));
    let bad_context = write(at, "bad-context", &named("nope", "cluster"));
    let no_current = write(at, "no-current", &named("''", "cluster"));
    let malformed = write(at, "malformed", "a: [");
    let nothing = write(at, "nothing", "");
    let missing = at.join("missing").to_str().unwrap().to_owned();
    for (list, context, expected) in [
        (&*good, None, Ok("cluster")),
        (&good, Some("c"), Ok("cluster")),
        (&good, Some("nope"), Err(ErrorKind::InvalidArgument)),
        (&bad_context, None, Err(ErrorKind::InvalidArgument)),
        (&bad_context, Some("c"), Ok("cluster")),
        (&no_current, None, Err(ErrorKind::InvalidArgument)),
        (&malformed, None, Err(ErrorKind::InvalidArgument)),
        (&missing, Some("c"), Err(ErrorKind::InvalidArgument)),
        (&missing, Some(""), Ok("10.0.0.1")),
        (&missing, None, Ok("10.0.0.1")),
        (&nothing, None, Ok("10.0.0.1")),
    ] {
        let environment = Environment::of([
            ("KUBECONFIG", list),
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ]);
        let environment = environment.with_service_account(&account);
        let found = server(context, &environment).await;
        assert_eq!(found.as_deref().map_err(|e| e.kind()), expected, "{list} {context:?}");
    }
    for (variables, namespace, url) in [
        (vec![("KUBERNETES_SERVICE_HOST", "fd00::1")], "of-the-pod", "https://[fd00::1]:6443/"),
        (
            vec![("KUBERNETES_SERVICE_HOST", "api"), ("POD_NAMESPACE", "n")],
            "n",
            "https://api:6443/",
        ),
    ] {
        let fixed = [("KUBECONFIG", &*missing), ("KUBERNETES_SERVICE_PORT", "6443")];
        let environment = Environment::of(fixed.into_iter().chain(variables));
        let environment = environment.with_service_account(&account);
        let settings = Settings::load(None, None, &environment, LIMIT).await.unwrap();
        assert_eq!(settings.config.default_namespace, namespace);
        assert_eq!(settings.config.cluster_url.to_string(), url);
    }
    // This is not a pod.
    let environment = Environment::of([("KUBECONFIG", &*missing)]).with_service_account(&account);
    assert_eq!(server(None, &environment).await.unwrap_err().kind(), ErrorKind::Unavailable);
}
