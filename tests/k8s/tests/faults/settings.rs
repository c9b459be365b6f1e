//! Options that only a Kubernetes connection has, and the detection of a cluster.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_tests::{Environment, Raw};
use runtime_core::{ContainerExt as _, ContainerStatus, LABEL_SCOPE, Runtime};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime};
use serde_json::{Value, json};
use test_support::{Connection as _, busybox};
use tokio::process::Command;

use super::support::{Outcome, Subject, scope};

/// Each option is set in the pod, which runs with it: the account and the runtime class have to exist, or the
/// API server refuses the pod.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_the_options_of_its_connection() -> Outcome {
    let class = scope().to_string();
    let account = class.clone();
    let subject = Subject::with(|environment, options| {
        options
            .runtime_class(class.clone())
            .service_account(account.clone())
            .annotation("example.com/team", "ours")
            .node_label("kubernetes.io/hostname", environment.node.clone())
    })
    .await?;
    let namespace = subject.environment.namespace.clone();
    let made = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": class},
            "handler": "runc",
        },
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace},
        },
    ]});
    subject.create(&made).await?;
    let container = subject.start(&subject.idle()).await?;
    assert_eq!(container.info().await?.status, ContainerStatus::Running);

    let pod = subject.pod().await?;
    assert_eq!(pod["spec"]["runtimeClassName"], class, "{pod}");
    assert_eq!(pod["spec"]["serviceAccountName"], account, "{pod}");
    assert_eq!(pod["metadata"]["annotations"]["example.com/team"], "ours", "{pod}");
    let node = &pod["spec"]["nodeSelector"]["kubernetes.io/hostname"];
    assert_eq!(*node, subject.environment.node, "{pod}");
    // A container does not get the rights of its account.
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false, "{pod}");

    container.remove().await?;
    subject.delete(&made).await?;
    subject.finish().await
}

/// Environment variable that is set if this program runs as a program in a pod.
const IN_A_POD: &str = "RUNTIME_TEST_IN_A_POD";

/// Directory of a pod with the token of its account, the authority of its cluster, and its namespace.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Without a kubeconfig a program in a pod uses the account of its pod, in the pod's namespace.
///
/// This program acts as that program, in a mount namespace that contains the files of the account.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_in_a_pod_finds_its_cluster() -> Outcome {
    let environment = Environment::read()?;
    if std::env::var_os(IN_A_POD).is_some() {
        return in_a_pod(&environment).await;
    }
    let subject = Subject::new().await?;
    let kubeconfig: Value = serde_json::from_slice(&std::fs::read(&environment.kubeconfig)?)?;
    let user = &kubeconfig["users"][0]["user"];
    let cluster = &kubeconfig["clusters"][0]["cluster"];
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("a kubeconfig without it");
    let server = text(&cluster["server"])?;
    let (host, port) = server
        .strip_prefix("https://")
        .and_then(|address| address.split_once(':'))
        .ok_or("a server without a port")?;
    let folder = tempfile::tempdir()?;
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
    put("token", &text(&user["token"])?)?;
    put("ca.base64", &text(&cluster["certificate-authority-data"])?)?;
    put("namespace", &environment.namespace)?;

    // /var/run links to /run, which this file system hides here.
    let script = format!(
        "set -e; mount -t tmpfs none /run; mkdir -p {ACCOUNT}; cp {0}/token {0}/namespace {ACCOUNT}; \
         base64 -d {0}/ca.base64 > {ACCOUNT}/ca.crt; exec \"$@\"",
        folder.path().display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe()?)
        .args(["--exact", "--nocapture", "faults::settings::a_program_in_a_pod_finds_its_cluster"])
        .env(IN_A_POD, "yes")
        .env("KUBERNETES_SERVICE_HOST", host)
        .env("KUBERNETES_SERVICE_PORT", port)
        .env("HOME", folder.path())
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), output).await??;
    assert!(output.status.success(), "{output:#?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:#?}");
    subject.finish().await
}

async fn in_a_pod(environment: &Environment) -> Outcome {
    assert!(Path::new(ACCOUNT).join("ca.crt").exists());
    let runtime = KubernetesRuntime::connect(KubernetesOptions::new(scope())).await?;
    let spec = busybox(&environment.registry).command(["echo", "from a pod"]);
    let container = runtime.create_container(&spec).await?;
    let exit = container.run().await?;
    assert!(exit.success(), "{exit:?}");
    // Logs use a connection of their own.
    let mut log = container.raw_logs().await?;
    let piece = log.next().await.ok_or("no log")??;
    assert_eq!(piece.bytes, "from a pod\n");
    let raw = Raw::new(&environment.kubeconfig_admin, &environment.namespace).await?;
    let selector = format!("{LABEL_SCOPE}={}", runtime.scope());
    assert_eq!(raw.listing(&selector).await?.len(), 1, "it is in the pod's namespace");
    container.remove().await?;
    runtime.close().await?;
    Ok(())
}
