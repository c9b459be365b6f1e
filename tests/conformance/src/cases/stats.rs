//! Statistics: a container with a known load has matching samples.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, future};
use runtime_core::{
    Container, ContainerId, ContainerStats, ErrorKind, ReapOptions, StatsOptions, StopOptions,
};

use crate::case::cases;
use crate::context::unknown_id;
use crate::expect::{recent, refused};
use crate::failure::fail;
use crate::poll::PATIENCE;
use crate::{Context, Failure, Outcome};

cases! { "stats":
    cpu_of_a_busy_loop_against_its_limit [StatsCpu, CpuCount];
    cpu_of_a_busy_loop_without_limit [StatsCpu];
    cpu_of_an_idle_container [StatsCpu];
    memory_of_a_known_allocation [StatsMemory, MemoryLimit];
    memory_without_limit [StatsMemory];
    memory_without_the_page_cache [StatsMemory];
    network_of_a_known_transfer [StatsNetwork, TcpPorts];
    block_bytes_of_a_known_write [StatsBlockIo];
    stream [StatsCpu];
    stream_ends_with_the_container [StatsMemory];
    stream_from_many [StatsMemory];
    bad_interval [StatsMemory];
    not_running [StatsMemory, Wait];
    bulk [BulkStats, Wait];
    bulk_cpu [BulkStats, StatsCpu, CpuCount];
    bulk_of_nothing [BulkStats];
}

const MIB: u64 = 1 << 20;

/// Samples until `good` returns `true`, and returns the sample. The failure contains the last sample.
async fn until(
    container: &dyn Container,
    what: &str,
    good: impl Fn(&ContainerStats) -> bool,
) -> Result<ContainerStats, Failure> {
    let options = StatsOptions::default().interval(Duration::from_millis(500));
    let mut samples = container.stats(options).await?;
    let mut last = None;
    let found = tokio::time::timeout(PATIENCE, async {
        while let Some(sample) = samples.next().await {
            let sample = sample?;
            if good(&sample) {
                return Ok(sample);
            }
            last = Some(sample);
        }
        fail!("the samples of a running container have ended")
    })
    .await;
    match found {
        Ok(found) => found,
        Err(_) => fail!("{what} did not show; the last sample is {last:?}"),
    }
}

fn percent(sample: &ContainerStats, least: f64, most: f64) -> bool {
    sample.cpu_percent.is_some_and(|percent| (least..=most).contains(&percent))
}

const BUSY: &str = "echo ready; while :; do :; done";

async fn cpu_of_a_busy_loop_against_its_limit(t: Context) -> Outcome {
    let container = t.ready(&t.script(BUSY).cpu_count(0.1)).await?;
    // A busy loop uses 100 % of its limit. A machine under load gives it less for a while, so the sample is
    // retried.
    let sample = until(&*container, "a full limit", |sample| percent(sample, 70.0, 135.0)).await?;
    let Some(before) = sample.cpu_time else { fail!("there is no CPU time") };
    let later = until(&*container, "more CPU time", |later| {
        later.cpu_time.is_some_and(|time| time > before + Duration::from_millis(50))
    })
    .await?;
    let wall = later.time.duration_since(sample.time)?;
    let used = later.cpu_time.unwrap_or_default().saturating_sub(before);
    assert!(used <= wall.mul_f64(0.2), "{used:?} of CPU in {wall:?} with a limit of 0.1");
    Ok(())
}

async fn cpu_of_a_busy_loop_without_limit(t: Context) -> Outcome {
    let container = t.ready(&t.script(BUSY)).await?;
    // One loop uses at most one CPU; the percentage is relative to the whole host.
    let sample = until(&*container, "some CPU", |sample| percent(sample, 1.0, f64::MAX)).await?;
    let percent = sample.cpu_percent.unwrap_or_default();
    assert!(percent <= 105.0, "{percent} % of the host");
    // Stopped now, because it takes a CPU from all others.
    container.remove().await?;
    Ok(())
}

async fn cpu_of_an_idle_container(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    until(&*container, "no CPU use", |sample| percent(sample, 0.0, 1.0)).await?;
    Ok(())
}

async fn memory_of_a_known_allocation(t: Context) -> Outcome {
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null; echo ready; sleep 3600";
    let container = t.ready(&t.script(script).memory(128 * MIB)).await?;
    // A sample may be some seconds old.
    let sample = t
        .until("the memory in a sample", || async {
            let sample = container.stats_once().await?;
            Ok(sample.memory_bytes.is_some_and(|bytes| bytes >= 40 * MIB).then_some(sample))
        })
        .await?;
    recent("the time of the sample", Some(sample.time))?;
    let Some(bytes) = sample.memory_bytes else { fail!("there is no memory use") };
    assert!((40 * MIB..64 * MIB).contains(&bytes), "{bytes} bytes for 40 MiB");
    let percent = sample.memory_percent.unwrap_or_default();
    let wanted = bytes as f64 / (128 * MIB) as f64 * 100.0;
    assert!((percent - wanted).abs() < 0.5, "{percent} % of a limit of 128 MiB, not {wanted}");
    Ok(())
}

async fn memory_without_limit(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let sample = container.stats_once().await?;
    let Some(bytes) = sample.memory_bytes else { fail!("there is no memory use") };
    assert!((1..32 * MIB).contains(&bytes), "{bytes} bytes for a shell that sleeps");
    // Relative to the memory of the whole host: a shell uses a small part of it.
    let percent = sample.memory_percent.unwrap_or(100.0);
    assert!(percent > 0.0 && percent < 10.0, "{percent} % of the host");
    Ok(())
}

/// Files that the kernel has read or written and could drop do not count.
async fn memory_without_the_page_cache(t: Context) -> Outcome {
    let script = "dd if=/dev/zero of=/var/tmp/x bs=1M count=48 conv=fsync 2>/dev/null; \
                  echo ready; sleep 3600";
    let container = t.ready(&t.script(script)).await?;
    let sample = until(&*container, "memory without the cache", |sample| {
        sample.memory_bytes.is_some_and(|bytes| bytes < 24 * MIB)
    })
    .await?;
    assert!(sample.memory_bytes > Some(0));
    Ok(())
}

async fn network_of_a_known_transfer(t: Context) -> Outcome {
    const IN: usize = 4 << 20;
    const OUT: u64 = 3 << 20;
    let script = "exec nc -ll -p 8080 -e sh -c 'read word; if [ $word = ready ]; then echo yes; \
                  else head -c 4194304 >/dev/null; head -c 3145728 /dev/zero; fi'";
    let container = t.start(&t.script(script).tcp_port(8080)).await?;
    let port = t.host_port(&*container, 8080).await?;
    assert_eq!(t.talk(port, b"ready\n").await?, b"yes\n");
    let before = container.stats_once().await?;
    let answer = t.talk_once(port, &[b"go\n", &vec![b'x'; IN][..]].concat()).await?;
    assert_eq!(answer.len() as u64, OUT);
    let (rx, tx) = (before.network_rx_bytes, before.network_tx_bytes);
    let (Some(rx), Some(tx)) = (rx, tx) else { fail!("there is no network use: {before:?}") };
    until(&*container, "the transfer", |sample| {
        let rx = sample.network_rx_bytes.unwrap_or_default() - rx;
        let tx = sample.network_tx_bytes.unwrap_or_default() - tx;
        (IN as u64..IN as u64 * 3 / 2).contains(&rx) && (OUT..OUT * 3 / 2).contains(&tx)
    })
    .await?;
    Ok(())
}

async fn block_bytes_of_a_known_write(t: Context) -> Outcome {
    let script = "dd if=/dev/zero of=/var/tmp/x bs=1M count=16 oflag=direct 2>/dev/null; \
                  dd if=/var/tmp/x of=/dev/null bs=1M iflag=direct 2>/dev/null; \
                  echo ready; sleep 3600";
    let container = t.ready(&t.script(script)).await?;
    let known = 16 * MIB..24 * MIB;
    until(&*container, "the write and the read", |sample| {
        sample.block_write_bytes.is_some_and(|bytes| known.contains(&bytes))
            && sample.block_read_bytes.is_some_and(|bytes| known.contains(&bytes))
    })
    .await?;
    Ok(())
}

async fn stream(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let mut samples = container.stats(StatsOptions::default()).await?;
    let mut taken = Vec::new();
    for _ in 0..3 {
        match tokio::time::timeout(PATIENCE, samples.next()).await {
            Ok(Some(sample)) => taken.push(sample?),
            Ok(None) => fail!("the samples of a running container have ended"),
            Err(_) => fail!("no sample has come"),
        }
    }
    assert!(taken.is_sorted_by(|a, b| a.time < b.time), "{taken:?}");
    assert!(taken.is_sorted_by_key(|sample| sample.cpu_time), "{taken:?}");
    assert!(taken[1..].iter().all(|sample| sample.cpu_percent.is_some()), "{taken:?}");
    let json = serde_json::to_string(&taken[2])?;
    let back: ContainerStats = serde_json::from_str(&json)?;
    assert_eq!(back.memory_bytes, taken[2].memory_bytes);
    assert_eq!(back.time, taken[2].time);
    Ok(())
}

async fn stream_ends_with_the_container(t: Context) -> Outcome {
    let container = t.ready(&t.graceful()).await?;
    let options = StatsOptions::default().interval(Duration::from_millis(300));
    let mut samples = container.stats(options).await?;
    match samples.next().await {
        Some(sample) => sample?,
        None => fail!("the samples of a running container have ended"),
    };
    container.stop(StopOptions::default()).await?;
    let ends = async {
        while let Some(sample) = samples.next().await {
            sample?;
        }
        Ok::<_, Failure>(())
    };
    match tokio::time::timeout(PATIENCE, ends).await {
        Ok(ended) => ended,
        Err(_) => fail!("the samples of an ended container go on"),
    }
}

async fn stream_from_many(t: Context) -> Outcome {
    let containers =
        future::try_join_all((0..4).map(|_| async { t.ready(&t.idle()).await })).await?;
    let samples = future::try_join_all(containers.iter().map(|c| c.stats_once())).await?;
    assert!(samples.iter().all(|sample| sample.memory_bytes.is_some()));
    Ok(())
}

async fn bad_interval(t: Context) -> Outcome {
    let container = t.shared().await?;
    for interval in [Duration::ZERO, Duration::from_millis(9)] {
        let options = StatsOptions::default().interval(interval);
        let measured = container.stats(options).await.map(drop);
        let error = refused(measured, ErrorKind::InvalidArgument)?;
        assert_eq!(error.field(), Some("interval"), "{error:?}");
    }
    Ok(())
}

async fn not_running(t: Context) -> Outcome {
    let created = t.create(&t.idle()).await?;
    refused(created.stats_once().await, ErrorKind::NotStarted)?;
    refused(created.stats(StatsOptions::default()).await, ErrorKind::NotStarted)?;
    let (exited, _) = t.run(&t.script("exit 0")).await?;
    refused(exited.stats_once().await, ErrorKind::InvalidState)?;
    refused(exited.stats(StatsOptions::default()).await, ErrorKind::InvalidState)?;
    Ok(())
}

/// Many containers in one call; containers that do not run or do not exist are left out.
async fn bulk(t: Context) -> Outcome {
    let running = future::try_join_all((0..8).map(|_| async { t.ready(&t.idle()).await })).await?;
    let created = t.create(&t.idle()).await?;
    let (exited, _) = t.run(&t.script("exit 0")).await?;
    let wanted: BTreeSet<ContainerId> =
        running.iter().map(|container| container.id().clone()).collect();
    let mut asked: Vec<_> = wanted.iter().cloned().collect();
    asked.extend([created.id().clone(), exited.id().clone(), unknown_id()]);
    let stats = t.runtime().stats(&asked).await?;
    let seen: BTreeSet<_> = stats.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!((seen, stats.len()), (wanted, 8));
    for (_, sample) in stats {
        recent("the time of a sample", Some(sample.time))?;
        if t.capabilities().stats_memory {
            assert!(sample.memory_bytes > Some(0));
        }
    }
    if t.capabilities().reap {
        t.runtime().reap(ReapOptions::default()).await?;
        assert!(t.runtime().stats(&asked).await?.is_empty());
    }
    Ok(())
}

async fn bulk_cpu(t: Context) -> Outcome {
    let container = t.ready(&t.script(BUSY).cpu_count(0.1)).await?;
    let ids = [container.id().clone()];
    t.until("a full limit", || async {
        let stats = t.runtime().stats(&ids).await?;
        let [(_, sample)] = &stats[..] else { fail!("{stats:?}") };
        Ok(percent(sample, 70.0, 135.0).then_some(()))
    })
    .await
}

async fn bulk_of_nothing(t: Context) -> Outcome {
    assert!(t.runtime().stats(&[]).await?.is_empty());
    assert!(t.runtime().stats(&[unknown_id()]).await?.is_empty());
    Ok(())
}
