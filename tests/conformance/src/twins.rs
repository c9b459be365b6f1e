//! Twins: an engine must refuse each capability that it lacks, and name it.

use std::time::Duration;

use futures_util::StreamExt as _;
use runtime_core::{
    AttachOptions, Capabilities, Capability, ContainerExt as _, ContainerSpec, CopyInOptions,
    CopyOutOptions, EventsOptions, ExecOptions, ExitReason, Follow, Gpus, Interactive, LogOptions,
    LogStream, Mount, PullEvent, PullOptions, ReapOptions, SessionMode, Signal, StopOptions,
    TerminalSize,
};

use crate::expect::{refused, unsupported};
use crate::failure::fail;
use crate::{Case, Context, Outcome};

/// Returns the twin of a capability that the engine lacks. `None` if no field or call requests the
/// capability; the twin of a wider capability then tests the refusal.
pub(crate) fn of(missing: Capability, capabilities: &Capabilities) -> Option<Case> {
    use Capability as C;
    macro_rules! twin {
        ($name:ident, $body:expr) => {
            Some(Case::new(
                concat!("refused::", stringify!($name)),
                &[],
                |t| Box::pin($body(t)),
            ))
        };
        ($name:ident, $body:expr, [$($wider:ident),*]) => {
            if $(capabilities.has(C::$wider))&&* { twin!($name, $body) } else { None }
        };
    }
    macro_rules! field {
        ($name:ident, $capability:ident, $change:expr) => {
            twin!($name, |t: Context| async move {
                let change: fn(&Context, ContainerSpec) -> Result<ContainerSpec, crate::Failure> =
                    $change;
                let spec = change(&t, t.spec())?;
                let refused = t.runtime().create_container(&spec).await;
                let error = unsupported(refused, C::$capability)?;
                if error.field().is_none() {
                    fail!("an unsupported field is named: {error}");
                }
                t.nothing_left().await
            })
        };
    }
    match missing {
        C::PullImage => twin!(pull_image, pull_image),
        C::PullProgress => twin!(pull_progress, pull_progress, [PullImage]),
        C::MemoryLimit => field!(memory_limit, MemoryLimit, |_, spec| Ok(spec.memory(64 << 20))),
        C::SharedMemory => {
            field!(shared_memory, SharedMemory, |_, spec| Ok(spec.shared_memory(32 << 20)))
        }
        C::CpuCount => field!(cpu_count, CpuCount, |_, spec| Ok(spec.cpu_count(0.5))),
        C::CpuShares => field!(cpu_shares, CpuShares, |_, spec| Ok(spec.cpu_shares(512))),
        C::GpusById => {
            field!(gpus_by_id, GpusById, |_, spec| Ok(spec.gpus(Gpus::Ids(vec!["0".into()]))))
        }
        C::GpusByCount => {
            field!(gpus_by_count, GpusByCount, |_, spec| Ok(spec.gpus(Gpus::Count(1))))
        }
        C::EnvNames => field!(env_names, EnvNames, |_, spec| Ok(spec.env("1A", "x"))),
        C::EnvUnset => field!(env_unset, EnvUnset, |_, spec| Ok(spec.unset_env("PATH"))),
        C::User => field!(user, User, |_, spec| Ok(spec.user("1000"))),
        C::UserName => field!(user_name, UserName, |_, spec| Ok(spec.user("alice"))),
        C::GroupName if capabilities.user => {
            field!(group_name, GroupName, |_, spec| Ok(spec.user("1000:video")))
        }
        C::ImageGroup => twin!(image_group, image_group, [User, Wait, Logs]),
        C::SupplementaryGroups => {
            field!(supplementary_groups, SupplementaryGroups, |_, spec| Ok(spec.group("44")))
        }
        C::WorkingDir => field!(working_dir, WorkingDir, |_, spec| Ok(spec.working_dir("/srv"))),
        C::Hostname => field!(hostname, Hostname, |_, spec| Ok(spec.hostname("box"))),
        C::Mounts => field!(mounts, Mounts, |_, spec| Ok(spec.mount(Mount::new("/", "/host")))),
        C::MountsReadOnly if capabilities.mounts => {
            field!(mounts_read_only, MountsReadOnly, |t, spec| Ok(
                spec.mount(Mount::read_only(t.folder()?, "/host"))
            ))
        }
        C::TcpPorts => field!(tcp_ports, TcpPorts, |_, spec| Ok(spec.tcp_port(8080))),
        C::InteractiveStdin => field!(interactive_stdin, InteractiveStdin, |_, spec| Ok(
            spec.interactive(Interactive::Stdin)
        )),
        C::Terminal => {
            field!(terminal, Terminal, |_, spec| Ok(spec.interactive(Interactive::Terminal)))
        }
        C::StopSignal => {
            field!(stop_signal, StopSignal, |_, spec| Ok(spec.stop_signal(Signal::USR1)))
        }
        C::StopGraceOverride => twin!(stop_grace_override, stop_grace_override),
        C::StopImmediately => twin!(stop_immediately, stop_immediately),
        C::Kill => twin!(kill, kill),
        C::OomReason => twin!(oom_reason, oom_reason, [MemoryLimit, Wait]),
        C::Wait => twin!(wait, wait),
        C::ExitWhileAway => {
            twin!(exit_while_away, exit_while_away, [Wait, Mounts]).map(Case::kills_engine)
        }
        C::Logs => twin!(logs, logs),
        C::LogsStreamsApart => twin!(logs_streams_apart, logs_streams_apart, [Logs, Wait]),
        C::LogsExactBytes => twin!(logs_exact_bytes, logs_exact_bytes, [Logs, Wait]),
        C::LogsCarriageReturns => {
            twin!(logs_carriage_returns, logs_carriage_returns, [Logs, Wait])
        }
        C::LogsAtExit => twin!(logs_at_exit, logs_at_exit, [Logs, Wait]),
        C::LogsFollow => twin!(logs_follow, logs_follow, [Logs]),
        C::StatsCpu => twin!(stats_cpu, stats),
        C::StatsMemory => twin!(stats_memory, stats),
        C::StatsNetwork => twin!(stats_network, stats),
        C::StatsBlockIo => twin!(stats_block_io, stats),
        C::BulkStats => twin!(bulk_stats, bulk_stats),
        C::EmptyArguments => field!(empty_arguments, EmptyArguments, |_, spec| Ok(
            spec.arguments(Vec::<String>::new())
        )),
        C::Events => twin!(events, events),
        C::EventsSince => twin!(events_since, events_since, [Events]),
        C::Exec => twin!(exec, exec),
        C::ExecStdinEof => twin!(exec_stdin_eof, exec_stdin_eof, [Exec]),
        C::ExecTerminal => twin!(exec_terminal, exec_terminal, [Exec]),
        C::ExecUser => twin!(exec_user, exec_user, [Exec]),
        C::ExecEnv => twin!(exec_env, exec_env, [Exec]),
        C::ExecWorkingDir => twin!(exec_working_dir, exec_working_dir, [Exec]),
        C::ExecSignal => twin!(exec_signal, exec_signal, [Exec]),
        C::ExecDescendants => twin!(exec_descendants, exec_descendants, [Exec]),
        C::Attach => twin!(attach, attach),
        C::AttachCreated => twin!(attach_created, attach_created, [Attach]),
        C::CopyIn => twin!(copy_in, copy_in),
        C::CopyOut => twin!(copy_out, copy_out),
        C::CopyStopped => twin!(copy_stopped, copy_stopped, [CopyIn, CopyOut]),
        C::Reattach => twin!(reattach, reattach),
        C::Reap => twin!(reap, reap),
        // A pull that is not deferred is tested by the cases of the pull; an OOM score is not a field that
        // could be refused; capabilities newer than this suite have no twin yet.
        _ => None,
    }
}

async fn pull_image(t: Context) -> Outcome {
    let image = t.image(t.subject().images().busybox);
    unsupported(
        t.runtime().pull_image(&image, PullOptions::default()).await,
        Capability::PullImage,
    )?;
    Ok(())
}

async fn pull_progress(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let mut events = t.runtime().pull_image(&image, PullOptions::default()).await?;
    let mut done = false;
    while let Some(event) = events.next().await {
        match event? {
            PullEvent::Layer { id, .. } => fail!("progress of layer {id} without the capability"),
            PullEvent::Done(_) => done = true,
            _ => {}
        }
    }
    assert!(done, "the pull ended without an outcome");
    Ok(())
}

async fn stop_grace_override(t: Context) -> Outcome {
    let container = t.ready(&t.graceful().stop_grace(Duration::from_secs(5))).await?;
    let other = StopOptions::default().grace(Duration::from_secs(60));
    unsupported(container.stop(other).await, Capability::StopGraceOverride)?;
    assert_eq!(container.info().await?.exit, None, "a refused stop stops nothing");
    Ok(())
}

/// Grace zero is rounded up to the minimum grace, and the process has that time.
async fn stop_immediately(t: Context) -> Outcome {
    assert!(
        t.capabilities().limits.minimum_stop_grace.is_some_and(|grace| !grace.is_zero()),
        "an engine that cannot stop at once says its least grace"
    );
    let container = t.ready(&t.graceful().stop_grace(Duration::ZERO)).await?;
    container.stop(StopOptions::default().grace(Duration::ZERO)).await?;
    assert!(t.text(&*container).await?.contains("bye"), "the process has the least grace");
    Ok(())
}

async fn kill(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    unsupported(container.kill(Signal::KILL).await, Capability::Kill)?;
    assert_eq!(container.info().await?.exit, None);
    Ok(())
}

async fn oom_reason(t: Context) -> Outcome {
    let (_, exit) = t.run(&t.spec().command(["tail", "/dev/zero"]).memory(16 << 20)).await?;
    assert_ne!(exit.reason, ExitReason::OutOfMemory, "without the capability it is not guessed");
    assert!(!exit.success());
    Ok(())
}

async fn wait(t: Context) -> Outcome {
    let container = t.start(&t.script("exit 0")).await?;
    unsupported(container.wait().await, Capability::Wait)?;
    Ok(())
}

async fn logs(t: Context) -> Outcome {
    let container = t.start(&t.script("echo out")).await?;
    unsupported(container.logs(LogOptions::default()).await, Capability::Logs)?;
    unsupported(container.raw_logs().await.map(drop), Capability::Logs)?;
    Ok(())
}

async fn logs_streams_apart(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("echo out; echo err >&2")).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.stream == LogStream::Unknown));
    Ok(())
}

/// The exit is reported as unknown, and not with the code that the engine sets.
async fn exit_while_away(t: Context) -> Outcome {
    let exit = crate::cases::recovery::end_while_away(&t).await?;
    assert_eq!((exit.code, exit.reason), (None, runtime_core::ExitReason::Unknown));
    Ok(())
}

/// Valid UTF-8 is unchanged, and each other byte is the replacement character.
async fn logs_exact_bytes(t: Context) -> Outcome {
    let (container, _) = t.run(&t.spec().command(["printf", "a\\377\\000ä\\300\\n"])).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    assert_eq!(crate::context::text_of(&records), "a\u{fffd}\0ä\u{fffd}\n");
    Ok(())
}

/// The process has the group 0, or the group of a user in the spec.
async fn image_group(t: Context) -> Outcome {
    let script = ["sh", "-c", "echo $(id -u) $(id -g)"];
    let spec = ContainerSpec::new(t.image(t.subject().images().grouped)).command(script);
    assert_eq!(t.output(&spec).await?, "1234 0\n");
    assert_eq!(t.output(&spec.user("1234:5678")).await?, "1234 5678\n");
    Ok(())
}

/// Only the last carriage return before a line end is missing.
async fn logs_carriage_returns(t: Context) -> Outcome {
    let spec = t.spec().command(["printf", crate::cases::logs::CARRIAGE_RETURNS]);
    let (container, _) = t.run(&spec).await?;
    assert_eq!(t.text(&*container).await?, "a\n\rb\n\nc\r\n");
    Ok(())
}

/// The end may be missing, but nothing before it, and the exit is unchanged.
async fn logs_at_exit(t: Context) -> Outcome {
    let (container, exit) = t.run(&t.script(crate::cases::logs::LAST_WORDS)).await?;
    assert_eq!(exit.code, Some(7));
    let text = t.text(&*container).await?;
    let all = crate::cases::logs::last_words();
    assert!(all.starts_with(&text), "{} of {} bytes, which are others", text.len(), all.len());
    Ok(())
}

async fn logs_follow(t: Context) -> Outcome {
    let container = t.start(&t.script("echo out")).await?;
    let follow = LogOptions::default().follow(Follow::Yes);
    unsupported(container.logs(follow).await, Capability::LogsFollow)?;
    Ok(())
}

/// Values that the engine does not report are absent. If it reports none, the call is refused.
async fn stats(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let can = t.capabilities();
    if !(can.stats_cpu || can.stats_memory || can.stats_network || can.stats_block_io) {
        refused(container.stats_once().await, runtime_core::ErrorKind::Unsupported)?;
        return Ok(());
    }
    let stats = container.stats_once().await?;
    if !can.stats_cpu {
        assert_eq!((stats.cpu_percent, stats.cpu_time), (None, None));
    }
    if !can.stats_memory {
        assert_eq!((stats.memory_bytes, stats.memory_percent), (None, None));
    }
    if !can.stats_network {
        assert_eq!((stats.network_rx_bytes, stats.network_tx_bytes), (None, None));
    }
    if !can.stats_block_io {
        assert_eq!((stats.block_read_bytes, stats.block_write_bytes), (None, None));
    }
    Ok(())
}

async fn bulk_stats(t: Context) -> Outcome {
    let container = t.start(&t.idle()).await?;
    let refused = t.runtime().stats(std::slice::from_ref(container.id())).await;
    unsupported(refused, Capability::BulkStats)?;
    Ok(())
}

async fn events(t: Context) -> Outcome {
    unsupported(t.runtime().events(EventsOptions::default()).await, Capability::Events)?;
    Ok(())
}

async fn events_since(t: Context) -> Outcome {
    let options = EventsOptions::default().since(std::time::SystemTime::now());
    unsupported(t.runtime().events(options).await, Capability::EventsSince)?;
    Ok(())
}

async fn exec(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    unsupported(container.exec(ExecOptions::new(["true"])).await, Capability::Exec)?;
    Ok(())
}

async fn exec_stdin_eof(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let options = ExecOptions::new(["cat"]).mode(SessionMode::Stdin);
    let mut session = container.exec(options).await?;
    let Some(stdin) = session.stdin.as_mut() else { fail!("there is no standard input") };
    unsupported(stdin.close().await, Capability::ExecStdinEof)?;
    Ok(())
}

async fn exec_refused(t: Context, options: ExecOptions, capability: Capability) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    unsupported(container.exec(options).await, capability)?;
    Ok(())
}

async fn exec_terminal(t: Context) -> Outcome {
    let size = TerminalSize { rows: 24, columns: 80 };
    let options = ExecOptions::new(["true"]).mode(SessionMode::Terminal(size));
    exec_refused(t, options, Capability::ExecTerminal).await
}

async fn exec_user(t: Context) -> Outcome {
    exec_refused(t, ExecOptions::new(["true"]).user("1000"), Capability::ExecUser).await
}

async fn exec_env(t: Context) -> Outcome {
    exec_refused(t, ExecOptions::new(["true"]).env("A", "b"), Capability::ExecEnv).await
}

async fn exec_working_dir(t: Context) -> Outcome {
    exec_refused(t, ExecOptions::new(["true"]).working_dir("/srv"), Capability::ExecWorkingDir)
        .await
}

async fn exec_signal(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let session = container.exec(ExecOptions::new(["sleep", "60"])).await?;
    unsupported(session.control.signal(Signal::TERM).await, Capability::ExecSignal)?;
    Ok(())
}

/// Children of a process outlive its session and continue to run in the container.
async fn exec_descendants(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let script = "sleep 4326 & echo ready; sleep 4327";
    let mut session = container.exec(ExecOptions::new(["sh", "-c", script])).await?;
    assert!(session.stdout.next().await.is_some(), "the script has ended");
    if t.has(Capability::ExecSignal) {
        session.control.signal(Signal::KILL).await?;
        session.control.wait().await?;
    }
    drop(session);
    let left = ExecOptions::new(["sh", "-c", "ps -o args | grep -c '^sleep 4326'"]);
    let mut session = container.exec(left).await?;
    let count = session.stdout.next().await.transpose()?.unwrap_or_default();
    assert_eq!(String::from_utf8_lossy(&count).trim(), "1", "the child is left");
    Ok(())
}

async fn attach(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    unsupported(container.attach(AttachOptions::default()).await, Capability::Attach)?;
    Ok(())
}

async fn attach_created(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    let refused = container.attach(AttachOptions::default()).await;
    unsupported(refused, Capability::AttachCreated)?;
    Ok(())
}

async fn copy_stopped(t: Context) -> Outcome {
    let created = t.create(&t.idle()).await?;
    let (exited, _) = t.run(&t.script("exit 0")).await?;
    for container in [created, exited] {
        let content = Box::pin(futures_util::stream::empty());
        let copied = container.copy_in("/srv", content, CopyInOptions::default()).await;
        unsupported(copied, Capability::CopyStopped)?;
        let copied = container.copy_out("/etc/passwd", CopyOutOptions::default()).await;
        unsupported(copied, Capability::CopyStopped)?;
    }
    Ok(())
}

async fn copy_in(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    let content = Box::pin(futures_util::stream::empty());
    unsupported(
        container.copy_in("/srv", content, CopyInOptions::default()).await,
        Capability::CopyIn,
    )?;
    Ok(())
}

async fn copy_out(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    let refused = container.copy_out("/etc/passwd", CopyOutOptions::default()).await;
    unsupported(refused, Capability::CopyOut)?;
    Ok(())
}

async fn reattach(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    unsupported(t.connect().await?.container(container.id()).await, Capability::Reattach)?;
    Ok(())
}

async fn reap(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    unsupported(t.runtime().reap(ReapOptions::default()).await, Capability::Reap)?;
    container.ensure_removed().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_a_twin_or_a_reason_to_have_none() {
        let mut all = Capabilities::default();
        for &capability in Capability::ALL {
            all.set(capability, true);
        }
        for &capability in Capability::ALL {
            let mut lacking = all.clone();
            lacking.set(capability, false);
            match (of(capability, &lacking), capability) {
                (None, Capability::DeferredPull | Capability::OomScoreAdj) => {}
                (None, _) => panic!("{capability} has no twin"),
                (Some(twin), _) => assert_eq!(twin.name(), format!("refused::{capability}")),
            }
        }
    }

    #[test]
    fn a_twin_that_needs_what_is_missing_too_is_left_to_the_wider_one() {
        let nothing = Capabilities::default();
        assert!(of(Capability::ExecUser, &nothing).is_none());
        assert!(of(Capability::Exec, &nothing).is_some());
    }
}
