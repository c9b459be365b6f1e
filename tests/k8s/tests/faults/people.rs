//! Interventions of other clients while containers run.

use std::time::Duration;

use runtime_core::{
    ContainerId, ContainerStatus, ErrorKind, ExitReason, LABEL_SCOPE, ListOptions, Runtime,
};
use runtime_k8s::{KubernetesRuntime, VoluntaryEviction};
use serde_json::{Value, json};
use test_engines::Component;
use test_support::{Connection as _, PATIENCE};
use tokio::time::Instant;

use super::support::{Outcome, Subject, Waiter, scope};

/// Number of containers that are deleted at once. Some exit in the second of the deletion, and some in the
/// next.
const TAKEN: usize = 8;

/// Time limit for the cluster to delete the Secrets of a removed pod: its controllers are late if their
/// server has just restarted.
const COLLECTED: Duration = Duration::from_secs(120);

/// Script that exits with 0 on TERM, at once or a little later.
const OBEDIENT: &str =
    "trap 'sleep 0.$((RANDOM % 10)); exit 0' TERM; echo ready; sleep 3600 & wait";

/// A pod that another client deletes is reported as removed and not as a success, although its process exits
/// with 0 on TERM: for a connection that has watched it, for a later one, and for one that polls.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_deleted_by_somebody_else() -> Outcome {
    let subject = Subject::new().await?;
    let held = subject.runtime.create_container(&subject.script("true")).await?;
    let mut containers = vec![held];
    for _ in 0..TAKEN {
        containers.push(subject.start(&subject.script(OBEDIENT)).await?);
    }
    let waiters: Vec<Waiter> = containers.iter().map(Waiter::of).collect();
    let options = subject.environment.options(subject.runtime.scope());
    // Without a wait the connection has no watch, so each list is a request to the server.
    let asking = KubernetesRuntime::connect(options.clone()).await?;
    let (namespace, selector) = (
        subject.environment.namespace.clone(),
        format!("container-runtime/scope={}", subject.runtime.scope()),
    );
    subject
        .work(move |cluster| {
            let delete = ["-n", &namespace, "delete", "pods", "-l", &selector, "--wait=false"];
            Ok(cluster.kubectl(&delete)?)
        })
        .await?;
    let late = KubernetesRuntime::connect(options).await?;
    let mut late_waiters = Vec::new();
    let end = Instant::now() + Duration::from_secs(180);
    loop {
        let listed = asking.list_containers(ListOptions::default()).await?;
        for listed in &listed {
            let exit = listed.info.exit.as_ref();
            assert!(exit.is_none_or(|exit| exit.reason == ExitReason::Removed), "{exit:?}");
            if let Ok(container) = late.container(listed.container.id()).await
                && late_waiters.len() < 3 * TAKEN
            {
                late_waiters.push(Waiter::of(&container));
            }
        }
        if listed.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "pods that were deleted are still there");
    }
    for waiter in waiters {
        let exit = waiter.answer(180).await??;
        assert_eq!((exit.reason, exit.code), (ExitReason::Removed, None), "{exit:?}");
    }
    for waiter in late_waiters {
        match waiter.answer(180).await? {
            Ok(exit) => assert_eq!((exit.reason, exit.code), (ExitReason::Removed, None)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}"),
        }
    }
    for container in &containers {
        for runtime in [&subject.runtime, &late, &asking] {
            let error = match runtime.container(container.id()).await {
                Ok(container) => container.info().await.expect_err("it is gone"),
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        }
        for error in [container.info().await.err(), container.remove().await.err()] {
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::NotFound));
        }
    }
    for runtime in [asking, late] {
        runtime.close().await?;
    }
    subject.until_left(0, COLLECTED).await
}

/// A node gets a taint that no pod tolerates: its pods are evicted.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_a_taint() -> Outcome {
    const TAINT: &str = "container-runtime-test=taken:NoExecute";
    let subject = Subject::new().await?;
    let mut waiters = Vec::new();
    for _ in 0..3 {
        waiters.push(Waiter::of(&subject.start(&subject.script(OBEDIENT)).await?));
    }
    let node = subject.environment.node.clone();
    subject.work(move |cluster| Ok(cluster.kubectl(&["taint", "node", &node, TAINT])?)).await?;
    let mut exits = Vec::new();
    for waiter in waiters {
        exits.push(waiter.answer(180).await);
    }
    let node = subject.environment.node.clone();
    subject
        .work(move |cluster| {
            Ok(cluster.kubectl(&["taint", "node", &node, &format!("{TAINT}-")])?)
        })
        .await?;
    for exit in exits {
        let exit = exit??;
        assert_eq!((exit.reason, exit.code), (ExitReason::Evicted, None), "{exit:?}");
        assert!(exit.message.as_deref().is_some_and(|words| words.contains("aint")), "{exit:?}");
    }
    subject.until_left(0, COLLECTED).await
}

/// A drain leaves a container with a budget alone. A container without one is evicted, which is not a
/// success, although its process exits with 0 on TERM.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_refuses_eviction() -> Outcome {
    let subject = Subject::with(|_, options| options.eviction(VoluntaryEviction::Refused)).await?;
    let spec = subject.script("trap 'exit 0' TERM; echo ready; sleep 3600 & wait");
    let kept = subject.start(&spec).await?;
    let options = subject.environment.options(subject.runtime.scope());
    let plain = KubernetesRuntime::connect(options).await?;
    let other = plain.create_container(&spec).await?;
    other.start().await?;
    let waiters = [Waiter::of(&kept), Waiter::of(&other)];

    let refusal = evict(&subject, kept.id()).await?.expect_err("its budget refuses that");
    assert!(refusal.contains("disruption budget"), "{refusal}");
    evict(&subject, other.id()).await?.map_err(|refusal| format!("no budget: {refusal}"))?;
    let [kept_waiter, other_waiter] = waiters;
    let exit = other_waiter.answer(180).await??;
    // Newer servers report the reason of a pod's removal.
    assert!(matches!(exit.reason, ExitReason::Removed | ExitReason::Evicted), "{exit:?}");
    assert!(!exit.success(), "{exit:?}");
    assert!(!kept_waiter.is_done());
    assert_eq!(kept.info().await?.status, ContainerStatus::Running);
    plain.close().await?;
    subject.finish().await
}

/// A cancelled create is undone with its budget: a listing includes pods, Secrets and budgets.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_create_leaves_no_budget() -> Outcome {
    const CREATES: u32 = 40;
    let subject = Subject::with(|_, options| options.eviction(VoluntaryEviction::Refused)).await?;
    let spec = subject.idle();
    let begun = Instant::now();
    let whole = subject.runtime.create_container(&spec).await?;
    let span = begun.elapsed();
    let [line] = &subject.left().await?[..] else { panic!("one create is one line") };
    for kind in ["pods", "secrets", "poddisruptionbudgets"] {
        assert!(line.contains(kind), "{line}");
    }
    whole.remove().await?;
    let mut kept = 0;
    for part in 0..CREATES {
        let create = subject.runtime.create_container(&spec);
        if let Ok(created) = tokio::time::timeout(span * part / CREATES, create).await {
            created?;
            kept += 1;
        }
    }
    assert!(kept < CREATES as usize, "none was dropped in {span:?}");
    subject.until_left(kept, PATIENCE).await?;
    subject.finish().await
}

/// Requests the eviction of a pod, like `kubectl drain`. The inner error is the server's refusal.
async fn evict(
    subject: &Subject,
    id: &ContainerId,
) -> Result<Result<String, String>, runtime_conformance::BoxError> {
    let namespace = subject.environment.namespace.clone();
    let selector = format!("{LABEL_SCOPE}={}", subject.runtime.scope());
    let id = id.to_string();
    subject
        .work(move |cluster| {
            let names = "jsonpath={range .items[*]}{.metadata.uid}={.metadata.name}{'\\n'}{end}";
            let list = ["-n", &namespace, "get", "pods", "-l", &selector, "-o", names];
            let pods = cluster.kubectl(&list)?;
            let pod = pods.lines().find_map(|line| line.strip_prefix(&id)?.strip_prefix('='));
            let pod = pod.ok_or("no such pod")?;
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
            let eviction = json!({
                "apiVersion": "policy/v1beta1",
                "kind": "Eviction",
                "metadata": {"name": pod, "namespace": namespace},
            });
            let create = ["create", "--raw", &path, "-f", "-"];
            let answer = cluster.kubectl_as("admin", &create, &eviction.to_string());
            Ok(answer.map_err(|error| format!("{error:#}")))
        })
        .await
}

/// A namespace is deleted with all containers in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_deleted() -> Outcome {
    let namespace = scope().to_string();
    let subject = Subject::new().await?;
    let name = namespace.clone();
    subject
        .work(move |cluster| {
            cluster.kubectl(&["create", "namespace", &name])?;
            // A pod is refused until a controller has created the default account.
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
    // The kind depends on whether the namespace is still being deleted or is gone.
    assert!(matches!(error.kind(), ErrorKind::InvalidState | ErrorKind::NotFound), "{error:?}");
    let end = Instant::now() + Duration::from_secs(60);
    while !runtime.list_containers(ListOptions::default()).await?.is_empty() {
        assert!(Instant::now() < end, "there are pods in a namespace that has gone");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    runtime.close().await?;
    subject.finish().await
}

/// A token is revoked: calls fail as unauthenticated and not retryable.
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
        // The server caches the valid token for a while, and may drop it in between.
        let refused = match runtime.create_container(&subject.script("true")).await {
            Ok(created) => created.remove().await,
            Err(error) => Err(error),
        };
        if let Err(error) = refused {
            break error;
        }
        assert!(Instant::now() < end, "the token is still good");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(!error.is_retryable(), "{error:?}");
    // The container continues to run, and its waiter does not return an exit that was not observed.
    assert!(!waiter.is_done(), "the container runs on");
    runtime.close().await?;
    assert!(waiter.answer(10).await?.is_err());
    subject.finish().await
}

/// A token is revoked and another is written to its file, as a cluster does for the programs in its pods: a
/// waiter continues although the server has refused it meanwhile, and a create succeeds again.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_survived() -> Outcome {
    let subject = Subject::new().await?;
    let [old, new] = [scope().to_string(), scope().to_string()];
    let names = [old.clone(), new];
    let kubeconfigs = subject
        .work(move |cluster| {
            Ok(names.iter().map(|name| cluster.add_account(name)).collect::<Result<Vec<_>, _>>()?)
        })
        .await?;
    let folder = tempfile::tempdir()?;
    let (file, kubeconfig) = (folder.path().join("token"), folder.path().join("kubeconfig"));
    let mut tokens = Vec::new();
    for path in &kubeconfigs {
        let mut config: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let user = &mut config["users"][0]["user"];
        tokens.push(user["token"].as_str().ok_or("no token")?.to_owned());
        *user = json!({"tokenFile": file});
        std::fs::write(&kubeconfig, config.to_string())?;
    }
    std::fs::write(&file, &tokens[0])?;
    let options = subject.environment.options(subject.runtime.scope()).kubeconfig(kubeconfig);
    let runtime = KubernetesRuntime::connect(options).await?;
    let container = runtime.create_container(&subject.script("sleep 20; exit 7")).await?;
    container.start().await?;
    let waiter = Waiter::of(&container);

    // An open watch stays open, so the server is restarted to force a new request.
    subject
        .work(move |cluster| {
            cluster.revoke_account(&old)?;
            cluster.kill(Component::ApiServer)?;
            cluster.restart(Component::ApiServer)?;
            Ok(cluster.wait_until_ready()?)
        })
        .await?;
    let refused = runtime.create_container(&subject.script("true")).await;
    let error = refused.map(drop).expect_err("the token is not good any more");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    std::fs::write(&file, &tokens[1])?;
    let exit = waiter.answer(120).await??;
    assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(7)), "{exit:?}");
    runtime.create_container(&subject.script("true")).await?.remove().await?;
    runtime.close().await?;
    subject.finish().await
}
