//! Known differences of a cluster from the suite, asserted.

use std::time::Duration;

use futures_util::StreamExt as _;
use runtime_conformance::{Context, Difference, Failure, Outcome};
use runtime_core::{Bytes, ExecOptions, SessionMode};

/// Returns the differences of a cluster whose nodes run containerd.
pub(crate) fn all() -> Vec<Difference> {
    vec![
        Difference::adds_groups_of_the_image(),
        Difference {
            case: "fields::env_is_not_added_to",
            reason: "every kubelet tells every container where the API server is",
            instead: |t| Box::pin(env_with_the_api_server(t)),
        },
        Difference {
            case: "fields::cpu_shares",
            reason: "a pod that asks for no CPU has the least weight that there is",
            instead: |t| Box::pin(the_least_weight_without_shares(t)),
        },
        Difference {
            case: "fields::oom_score_adj",
            reason: "the kubelet scores by what share of the node's memory a pod has asked for",
            instead: |t| Box::pin(evictable_is_the_first_to_die(t)),
        },
    ]
}

/// Returns the differences of the session code of a current API server.
pub(crate) fn translated() -> Vec<Difference> {
    let unread = Difference {
        case: "exec::unread_input_does_not_hide_the_end",
        reason: "Kubernetes' own client, which the API server speaks to the node with, waits for the \
                 end of the input that it cannot send, as `kubectl exec` does",
        instead: |t| Box::pin(unread_input_hides_the_end(t)),
    };
    all().into_iter().chain([unread]).collect()
}

/// The session stays open until it is dropped, and the container accepts other sessions.
async fn unread_input_hides_the_end(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let exec = |script: &str| ExecOptions::new(["sh", "-c", script]);
    let options = exec("sleep 0.5; exit 3").mode(SessionMode::Stdin);
    let mut session = container.exec(options).await?;
    let Some(mut stdin) = session.stdin.take() else {
        return Err(Failure::new("the session has no standard input"));
    };
    let write = async {
        for _ in 0..64 {
            stdin.write(Bytes::from(vec![b'x'; 1 << 20])).await?;
        }
        Ok::<_, runtime_core::Error>(())
    };
    let all = async { tokio::join!(write, session.stdout.count(), session.control.wait()) };
    let ended = tokio::time::timeout(Duration::from_secs(10), all).await;
    assert!(ended.is_err(), "the session ends: {:?}", ended.map(|ended| ended.2));
    drop(stdin);
    let after = container.exec(exec("exit 4")).await?;
    assert_eq!(after.control.wait().await?.code, 4);
    Ok(())
}

/// The only additional variables are those of the one service whose links cannot be disabled.
async fn env_with_the_api_server(t: Context) -> Outcome {
    let spec = t.spec().command(["cat", "/proc/self/environ"]).env("MINE", "1");
    let text = t.output(&spec).await?;
    let variables: Vec<&str> = text.split('\0').filter(|word| !word.is_empty()).collect();
    for expected in ["MINE=1", "NVIDIA_VISIBLE_DEVICES=none"] {
        assert!(variables.contains(&expected), "{variables:?}");
    }
    for variable in variables {
        let name = variable.split('=').next().unwrap_or_default();
        assert!(
            ["PATH", "HOME", "HOSTNAME", "TERM", "MINE", "NVIDIA_VISIBLE_DEVICES"].contains(&name)
                || name.starts_with("KUBERNETES_SERVICE_")
                || name.starts_with("KUBERNETES_PORT"),
            "{variable} was added"
        );
    }
    Ok(())
}

async fn the_least_weight_without_shares(t: Context) -> Outcome {
    let script = t.script(
        "if [ -e /sys/fs/cgroup/cpu/cpu.shares ]; then cat /sys/fs/cgroup/cpu/cpu.shares; \
         else cat /sys/fs/cgroup/cpu.weight; fi",
    );
    let mut weights: Vec<u64> = Vec::new();
    for spec in [script.clone(), script.clone().cpu_shares(512), script.cpu_shares(2048)] {
        weights.push(t.output(&spec).await?.trim().parse()?);
    }
    // Shares on cgroup v1; runc's conversion of them on v2.
    assert!(weights[0] <= 2, "{weights:?}");
    assert!(weights[1..] == [512, 2048] || weights.is_sorted(), "{weights:?}");
    assert!(weights[0] < weights[1] && weights[1] < weights[2], "{weights:?}");
    Ok(())
}

async fn evictable_is_the_first_to_die(t: Context) -> Outcome {
    let spec = t.spec().command(["cat", "/proc/self/oom_score_adj"]);
    let evictable: i32 = t.output(&spec).await?.trim().parse()?;
    assert_eq!(evictable, spec.oom_score_adj());
    let sized: i32 = t.output(&spec.memory(64 << 20)).await?.trim().parse()?;
    assert!(sized < evictable, "{sized} {evictable}");
    Ok(())
}
