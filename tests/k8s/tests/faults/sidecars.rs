//! Pods to which a webhook adds containers.

use futures_util::TryStreamExt as _;
use runtime_conformance::BoxError;
use runtime_core::{
    Container, ContainerStatus, ErrorKind, ExecOptions, ExitReason, LogOptions, Runtime as _,
    StartOutcome, StopOptions, StopOutcome,
};
use runtime_k8s::KubernetesRuntime;
use serde_json::json;
use test_support::Connection as _;

use super::support::{Outcome, Subject};

async fn log(container: &dyn Container) -> Result<String, BoxError> {
    let records: Vec<_> = container.logs(LogOptions::default()).await?.try_collect().await?;
    let bytes = records.iter().flat_map(|record| record.bytes.to_vec()).collect();
    Ok(String::from_utf8(bytes)?)
}

/// All operations use the container that was created, no matter which others run or exit in its pod, and
/// which hold the pod has.
#[tokio::test(flavor = "multi_thread")]
async fn injected_sidecars_are_not_the_container() -> Outcome {
    let subject = Subject::new().await?;
    tokio::try_join!(
        lives_beside_sidecars(&subject, false),
        lives_beside_sidecars(&subject, true)
    )?;
    subject.finish().await
}

async fn lives_beside_sidecars(subject: &Subject, gates: bool) -> Outcome {
    let environment = &subject.environment;
    let image = format!("{}/test/busybox:1", environment.registry.address);
    let sidecar = |name: &str, script: &str| json!({"name": name, "image": image, "command": ["sh", "-c", script]});
    let sidecars =
        vec![sidecar("stays", "echo stays; sleep 3600"), sidecar("ends", "echo ends; exit 9")];
    let kubeconfig = environment.with_sidecars(sidecars, gates).await?;
    let options = environment.options(subject.runtime.scope()).kubeconfig(kubeconfig.to_path_buf());
    let runtime = KubernetesRuntime::connect(options).await?;
    let ends = runtime.create_container(&subject.script("echo out; sleep 1; exit 3")).await?;
    let obeys = "trap 'echo told; exit 5' TERM; echo ready; sleep 3600 & wait";
    let stopped = runtime.create_container(&subject.script(obeys)).await?;
    for container in [&ends, &stopped] {
        let info = container.info().await?;
        assert_eq!((info.status, info.started_at), (ContainerStatus::Created, None), "{info:?}");
    }
    let (first, second) = tokio::join!(ends.start(), stopped.start());
    assert_eq!((first?, second?), (StartOutcome::Started, StartOutcome::Started));
    let exit = ends.wait().await?;
    assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(3)), "{exit:?}");
    assert_eq!(ends.info().await?.exit, Some(exit));
    assert_eq!(log(&*ends).await?, "out\n");

    assert_eq!(stopped.info().await?.status, ContainerStatus::Running);
    if !gates {
        // The proxy with gates does not forward sessions.
        let exec = ExecOptions::new(["grep", "-q", "told", "/proc/1/cmdline"]);
        let session = stopped.exec(exec).await?;
        assert_eq!(session.control.wait().await?.code, 0, "it runs in the container");
    }
    let outcome = stopped.stop(StopOptions::default()).await?;
    let StopOutcome::Stopped(exit) = outcome else { panic!("{outcome:?}") };
    assert_eq!((exit.reason, exit.code), (ExitReason::StoppedByUs, Some(5)), "{exit:?}");
    assert_eq!(log(&*stopped).await?, "ready\ntold\n");
    for container in [ends, stopped] {
        container.remove().await?;
        let error = container.info().await.expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    }
    Ok(runtime.close().await?)
}
