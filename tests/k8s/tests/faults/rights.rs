//! Accounts without one of the rights of the Role: what works without it works, and what does not says
//! at once which right is missing.

use std::time::Duration;

use runtime_conformance::BoxError;
use runtime_core::{
    ContainerExt as _, ErrorKind, ExecOptions, Image, ListOptions, LogOptions, Mount, ReapOptions,
    RegistryAuth, Runtime, StopOptions,
};
use runtime_k8s::KubernetesRuntime;
use serde_json::{Value, json};
use test_support::Connection as _;

use super::support::{Outcome, Subject, scope};

/// Longer than any of it takes, and shorter than what it took to give up a watch.
const AT_MOST: Duration = Duration::from_secs(40);

/// Connects with the Role, but without one verb on one resource.
async fn without(
    subject: &Subject,
    resource: &str,
    verb: &str,
) -> Result<KubernetesRuntime, BoxError> {
    let name = scope().to_string();
    let namespace = subject.environment.namespace.clone();
    let (account, of) = (name.clone(), namespace.clone());
    let (kubeconfig, role) = subject
        .work(move |cluster| {
            let kubeconfig = cluster.add_account(&account)?;
            let role = cluster.kubectl(&["-n", &of, "get", "role", "runtime", "-o", "json"])?;
            cluster.kubectl(&["-n", &of, "delete", "rolebinding", &account])?;
            Ok((kubeconfig, role))
        })
        .await?;
    let role: Value = serde_json::from_str(&role)?;
    let mut rules = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for named in rule["resources"].as_array().into_iter().flatten() {
            let verbs = rule["verbs"].as_array().into_iter().flatten();
            let verbs: Vec<_> = verbs.filter(|&v| named != resource || v != verb).collect();
            if !verbs.is_empty() {
                rules.push(
                    json!({"apiGroups": rule["apiGroups"], "resources": [named], "verbs": verbs}),
                );
            }
        }
    }
    let metadata = json!({"name": name, "namespace": namespace});
    let api = "rbac.authorization.k8s.io";
    subject
        .create(&json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": metadata, "rules": rules},
            {
                "apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": metadata,
                "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            },
        ]}))
        .await?;
    let options = subject.environment.options(subject.runtime.scope()).kubeconfig(kubeconfig);
    let runtime = KubernetesRuntime::connect(options).await?;
    // The authorizer reads a binding a moment after it was written.
    test_support::until("account with rights", async || {
        Ok(runtime.list_containers(ListOptions::default()).await.is_ok())
    })
    .await?;
    Ok(runtime)
}

/// The life of a container from its creation to its removal.
async fn life(subject: &Subject, runtime: &KubernetesRuntime) -> Outcome {
    let spec = subject.script("echo said; exit 7");
    let work = async {
        let container = runtime.create_container(&spec).await?;
        container.start().await?;
        assert_eq!(container.wait().await?.code, Some(7));
        container.remove().await
    };
    Ok(tokio::time::timeout(AT_MOST, work).await??)
}

fn is_named(result: runtime_core::Result<()>, right: &str) {
    let error = result.expect_err(right);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    let words = format!("the right to {right}");
    assert!(error.message().is_some_and(|message| message.starts_with(&words)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn optional_right_is_not_needed() -> Outcome {
    let subject = Subject::new().await?;
    for (resource, verb) in [("pods", "watch"), ("events", "list")] {
        let runtime = without(&subject, resource, verb).await?;
        life(&subject, &runtime).await?;
        runtime.close().await?;
    }
    // The cluster removes the Secret with its pod.
    let runtime = without(&subject, "secrets", "delete").await?;
    let registry = &subject.environment.registry;
    let auth = RegistryAuth::new(&registry.username, &registry.password);
    let mut spec = subject.script("exit 0");
    spec.image = Image::new(spec.image.reference.clone()).auth(auth);
    let container = runtime.create_container(&spec).await?;
    container.remove().await?;
    runtime.reap(ReapOptions::default()).await?;
    runtime.close().await?;
    subject.until_empty().await?;
    subject.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_right_is_named_at_once() -> Outcome {
    let subject = Subject::new().await?;
    let running = subject.start(&subject.idle()).await?;
    let work = async {
        let other = without(&subject, "pods/log", "get").await?;
        let container = other.container(running.id()).await?;
        is_named(container.logs(LogOptions::default()).await.map(drop), "get pods/log");
        let follow = LogOptions::default().follow(runtime_core::Follow::Yes);
        is_named(container.logs(follow).await.map(drop), "get pods/log");
        other.close().await?;

        let other = without(&subject, "pods", "patch").await?;
        let held = other.create_container(&subject.idle()).await?;
        is_named(held.start().await.map(drop), "patch pods");
        held.remove().await?;
        is_named(
            other.container(running.id()).await?.stop(StopOptions::default()).await.map(drop),
            "patch pods",
        );
        other.close().await?;

        let other = without(&subject, "pods", "create").await?;
        is_named(other.create_container(&subject.idle()).await.map(drop), "create pods");
        other.close().await?;

        let other = without(&subject, "pods", "delete").await?;
        is_named(other.container(running.id()).await?.remove().await, "delete pods");
        other.close().await?;

        let other = without(&subject, "pods/exec", "create").await?;
        let container = other.container(running.id()).await?;
        let exec = container.exec(ExecOptions::new(["true"])).await.map(drop);
        let error = exec.expect_err("exec");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        other.close().await?;

        let other = without(&subject, "events", "list").await?;
        let spec = subject.idle().mount(Mount::new("/etc", "/mounted"));
        let error = other.create_container(&spec).await.map(drop).expect_err("events");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        assert!(error.message().is_some_and(|words| words.contains("list events")), "{error:?}");
        other.close().await?;
        Ok::<_, BoxError>(())
    };
    tokio::time::timeout(8 * AT_MOST, work).await??;
    running.remove().await?;
    subject.finish().await
}
