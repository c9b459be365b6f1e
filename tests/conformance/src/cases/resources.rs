//! Resources of a spec, checked against the kernel's counters.

use runtime_core::{ContainerSpec, Gpus};

use crate::case::cases;
use crate::failure::fail;
use crate::{Context, Failure, Outcome};

cases! { "fields":
    shared_memory [SharedMemory, Wait, Logs];
    memory [MemoryLimit, Wait, Logs];
    cpu_count [CpuCount, Wait, Logs];
    cpu_shares [CpuShares, Wait, Logs];
    cpu_shares_before_cpu_count [CpuShares, CpuCount, Wait, Logs];
    oom_score_adj [OomScoreAdj, MemoryLimit, Wait, Logs];
    gpus_by_id [GpusById, Wait, Logs];
    gpus_by_count [GpusByCount, Wait, Logs];
}

/// Reads a setting of the container's own cgroup: the file of v1, or that of v2.
pub(super) fn cgroup(v1: &str, v2: &str) -> String {
    format!("cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}")
}

/// Script that prints the CPU quota and its period.
pub(super) const QUOTA: &str = "(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us \
     2>/dev/null || cat /sys/fs/cgroup/cpu.max) | tr '\\n' ' '";

/// Returns the numbers in a text.
pub(super) fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

async fn shared_memory(t: Context) -> Outcome {
    let script = "df -k /dev/shm | tail -n 1 | awk '{print $2}'; echo x > /dev/shm/x && echo ok";
    assert_eq!(t.output(&t.script(script).shared_memory(48 << 20)).await?, "49152\nok\n");
    Ok(())
}

/// The limit holds, and swap is not added to it.
async fn memory(t: Context) -> Outcome {
    let script = format!(
        "{}; echo; cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null || \
         cat /sys/fs/cgroup/memory.swap.max 2>/dev/null || echo none",
        cgroup("memory/memory.limit_in_bytes", "memory.max")
    );
    let (container, _) = t.run(&t.script(&script).memory(96 << 20)).await?;
    let text = t.text(&*container).await?;
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words[0], "100663296");
    // The sum on cgroup v1, swap alone on v2, nothing if the kernel does not count swap.
    assert!(["100663296", "0", "none"].contains(&words[1]), "swap is added: {text}");
    assert_eq!(container.info().await?.memory, Some(96 << 20));
    Ok(())
}

async fn cpu_count(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script(QUOTA).cpu_count(0.25)).await?;
    let text = t.text(&*container).await?;
    let quota = numbers(&text);
    assert_eq!(quota.len(), 2, "{text}");
    assert_eq!(quota[0] / quota[1], 0.25, "{text}");
    assert_eq!(container.info().await?.cpu_count, Some(0.25));
    Ok(())
}

/// Returns the weight of a cgroup: shares on v1, a weight of 1 to 10000 on v2.
async fn weight(t: &Context, spec: ContainerSpec) -> Result<f64, Failure> {
    let text =
        t.output(&spec.command(["sh", "-c", &cgroup("cpu/cpu.shares", "cpu.weight")])).await?;
    match numbers(&text).first() {
        Some(weight) => Ok(*weight),
        None => fail!("no weight in {text:?}"),
    }
}

async fn cpu_shares(t: Context) -> Outcome {
    let default = weight(&t, t.spec()).await?;
    let half = weight(&t, t.spec().cpu_shares(512)).await?;
    let double = weight(&t, t.spec().cpu_shares(2048)).await?;
    assert!(half < double, "{half} {double}");
    // The conversion of shares to a weight differs between versions of the engine's runtime; their value on
    // v1 and their order do not.
    if double == 2048.0 {
        assert_eq!((half, default), (512.0, 1024.0));
    } else {
        assert!(
            half < default && default < double || default == 100.0,
            "{half} {default} {double}"
        );
    }
    Ok(())
}

async fn cpu_shares_before_cpu_count(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script(QUOTA).cpu_shares(512).cpu_count(0.25)).await?;
    let text = t.text(&*container).await?;
    assert!(text.starts_with("-1 ") || text.starts_with("max "), "there is a quota: {text}");
    assert_eq!(container.info().await?.cpu_count, None);
    Ok(())
}

async fn oom_score_adj(t: Context) -> Outcome {
    let spec = t.spec().command(["cat", "/proc/self/oom_score_adj"]);
    for spec in [spec.clone(), spec.memory(64 << 20)] {
        let text = t.output(&spec).await?;
        assert_eq!(text.trim(), spec.oom_score_adj().to_string());
    }
    Ok(())
}

async fn gpus(t: &Context, gpus: impl FnOnce(Vec<String>) -> Gpus) -> Outcome {
    let Some(proof) = t.subject().gpus() else {
        fail!("the engine has the capability, and the subject no device to show it with");
    };
    let spec = t.script(&proof.command);
    let (_, without) = t.run(&spec).await?;
    assert!(!without.success(), "a container without GPUs has one");
    t.output(&spec.gpus(gpus(proof.ids))).await?;
    Ok(())
}

async fn gpus_by_id(t: Context) -> Outcome {
    gpus(&t, |ids| Gpus::Ids(ids.into_iter().take(1).collect())).await
}

async fn gpus_by_count(t: Context) -> Outcome {
    gpus(&t, |_| Gpus::Count(1)).await
}
