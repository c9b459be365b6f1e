//! What other people do to the cluster while containers run.

use std::time::Duration;

use runtime_core::{ErrorKind, ExitReason, ListOptions, Runtime};
use runtime_k8s::KubernetesRuntime;
use test_support::Connection as _;
use tokio::time::Instant;

use super::support::{Outcome, Subject, Waiter, scope};

/// A pod that somebody else deletes was removed, and is no success although its process obeys and
/// ends with 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_deleted_by_somebody_else() -> Outcome {
    let subject = Subject::new().await?;
    let script = "trap 'exit 0' TERM; echo ready; sleep 3600 & wait";
    let container = subject.start(&subject.script(script)).await?;
    let held = subject.runtime.create_container(&subject.script("true")).await?;
    let waiters = [Waiter::of(&container), Waiter::of(&held)];
    let (namespace, selector) = (
        subject.environment.namespace.clone(),
        format!("container-runtime/scope={}", subject.runtime.scope()),
    );
    subject
        .work(move |cluster| {
            Ok(cluster.kubectl(&["-n", &namespace, "delete", "pods", "-l", &selector])?)
        })
        .await?;
    for waiter in waiters {
        let exit = waiter.answer(60).await??;
        assert_eq!((exit.reason, exit.success()), (ExitReason::Removed, false), "{exit:?}");
    }
    let error = container.remove().await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    // The Secrets go with the pods, by the cluster itself.
    subject.until_empty().await
}

/// A namespace is deleted with all that runs in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_deleted() -> Outcome {
    let namespace = scope().to_string();
    let subject = Subject::new().await?;
    let name = namespace.clone();
    subject
        .work(move |cluster| {
            cluster.kubectl(&["create", "namespace", &name])?;
            // A pod is refused until a controller has made the account that it has by default.
            let end = std::time::Instant::now() + Duration::from_secs(30);
            while cluster.kubectl(&["-n", &name, "get", "serviceaccount", "default"]).is_err() {
                assert!(std::time::Instant::now() < end, "no default account");
            }
            Ok(())
        })
        .await?;
    let options =
        subject.environment.options(&scope()).kubeconfig(subject.admin()).namespace(&namespace);
    let runtime = KubernetesRuntime::connect(options).await?;
    let container = runtime.create_container(&subject.script("sleep 3600")).await?;
    container.start().await?;
    let waiter = Waiter::of(&container);
    subject
        .work(move |cluster| {
            Ok(cluster.kubectl(&["delete", "namespace", &namespace, "--wait=false"])?)
        })
        .await?;
    let exit = waiter.answer(90).await??;
    assert_eq!((exit.reason, exit.success()), (ExitReason::Removed, false), "{exit:?}");
    let Err(error) = runtime.create_container(&subject.script("true")).await else {
        panic!("a pod was made in a namespace that goes")
    };
    assert!(!error.is_retryable(), "{error:?}");
    // As long as it goes, and once it is gone.
    assert!(matches!(error.kind(), ErrorKind::InvalidState | ErrorKind::NotFound), "{error:?}");
    let end = Instant::now() + Duration::from_secs(60);
    while !runtime.list_containers(ListOptions::default()).await?.is_empty() {
        assert!(Instant::now() < end, "there are pods in a namespace that has gone");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    runtime.close().await?;
    subject.finish().await
}

/// A token is taken back: calls say that the caller is not known any more, and that trying again
/// does not help.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_revoked() -> Outcome {
    let subject = Subject::new().await?;
    let account = scope().to_string();
    let name = account.clone();
    let kubeconfig = subject.work(move |cluster| Ok(cluster.add_account(&name)?)).await?;
    let options = subject.environment.options(subject.runtime.scope()).kubeconfig(kubeconfig);
    let runtime = KubernetesRuntime::connect(options).await?;
    let container = runtime.create_container(&subject.script("sleep 3600")).await?;
    container.start().await?;
    let waiter = Waiter::of(&container);
    subject.work(move |cluster| Ok(cluster.revoke_account(&account)?)).await?;
    let end = Instant::now() + Duration::from_secs(30);
    let error = loop {
        match runtime.create_container(&subject.script("true")).await {
            Err(error) => break error,
            // The server remembers for a while that the token was good.
            Ok(created) => created.remove().await?,
        }
        assert!(Instant::now() < end, "the token is still good");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(!error.is_retryable(), "{error:?}");
    // It runs on, and who waits for it says no end that nobody has seen.
    assert!(!waiter.is_done(), "the container runs on");
    runtime.close().await?;
    assert!(waiter.answer(10).await?.is_err());
    subject.finish().await
}
