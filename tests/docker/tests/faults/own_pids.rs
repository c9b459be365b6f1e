//! An engine in a PID namespace of its own, behind a relay: its PIDs name other processes here.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use runtime_conformance::BoxError;
use runtime_core::{
    Capability, Deadlines, ErrorKind, ExecOptions, Runtime, SessionMode, Signal, StopOptions,
};
use runtime_docker::{DockerOptions, DockerRuntime};
use serde_json::Value;
use test_support::{Connection as _, Own, relay, until};

use super::support::{Engine, Outcome, scope};

/// Number of processes of this host that get the PIDs which the engine uses next.
const BYSTANDERS: usize = 200;

/// Processes of this host that must not be signaled.
struct Bystanders(Vec<Child>);

impl Bystanders {
    fn start() -> Result<Self, BoxError> {
        let sleep = |_| Command::new("sleep").arg("1000").spawn();
        Ok(Self((0..BYSTANDERS).map(sleep).collect::<Result<_, _>>()?))
    }

    fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    fn ended(&mut self) -> Result<Vec<u32>, BoxError> {
        let mut ended = Vec::new();
        for child in &mut self.0 {
            if child.try_wait()?.is_some() {
                ended.push(child.id());
            }
        }
        Ok(ended)
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sets the last PID of the engine's namespace, so that its next processes have the PIDs of the
/// bystanders.
fn set_last_pid(engine: u32, last: u32) -> Outcome {
    let script = format!("echo {last} > /proc/sys/kernel/ns_last_pid");
    let target = format!("--target={engine}");
    let set = Command::new("nsenter")
        .args([target.as_str(), "--pid", "--mount", "sh", "-c", &script])
        .status()?;
    if set.success() { Ok(()) } else { Err("failed to set the last PID".into()) }
}

/// Returns the PID of the process that `unshare` has started: the first of the engine's namespace.
fn first_child(parent: i32) -> Result<u32, BoxError> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let first = children.split_ascii_whitespace().next().ok_or("unshare has no child")?;
    Ok(first.parse()?)
}

/// Returns the PIDs of the running execs of a container, as the engine reports them.
fn exec_pids(engine: &Engine, container: &str) -> Result<Vec<u32>, BoxError> {
    let get = |path: String| -> Result<Value, BoxError> {
        let (status, body) = engine.raw.request("GET", &path)?;
        if status != 200 {
            return Err(format!("{path}: {status}").into());
        }
        Ok(serde_json::from_slice(&body)?)
    };
    let inspect = get(format!("/v1.41/containers/{container}/json"))?;
    let mut pids = Vec::new();
    for id in inspect["ExecIDs"].as_array().into_iter().flatten() {
        let exec = get(format!("/v1.41/exec/{}/json", id.as_str().ok_or("no id")?))?;
        pids.extend(exec["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()));
    }
    Ok(pids)
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_with_own_pids_behind_relay_signals_no_process_of_this_host() -> Outcome {
    let own = Own::up(test_engines::Engine::DockerOwnPids).await?;
    let mut bystanders = Bystanders::start()?;
    let pids = bystanders.pids();
    let (lowest, highest) = (pids[0], pids[BYSTANDERS - 1]);
    let first = first_child(own.process().pid)?;
    let directory = tempfile::tempdir()?;
    let behind_relay = relay(directory.path(), &own.host()?)?;
    for host in [own.host()?, behind_relay] {
        let engine = Engine::of_own(&own, scope(), Deadlines::default()).await?;
        let options = DockerOptions::new(engine.runtime.scope().clone()).host(&host);
        let far = DockerRuntime::connect(options).await?;
        let can = far.capabilities();
        assert!(!can.exec_signal && !can.exec_descendants, "{host}");
        let container = engine.start(&engine.idle()).await?;
        let same = far.container(container.id()).await?;

        set_last_pid(first, lowest)?;
        let session = same.exec(ExecOptions::new(["sh", "-c", "sleep 301 & sleep 302"])).await?;
        until("an exec with the PID of a bystander", async || {
            let running = exec_pids(&engine, container.id().as_str())?;
            Ok(running.iter().any(|pid| (lowest..=highest).contains(pid)))
        })
        .await?;
        let error = session.control.signal(Signal::KILL).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert_eq!(error.capability(), Some(Capability::ExecSignal), "{error:?}");
        drop(session);

        set_last_pid(first, lowest)?;
        drop(same.exec(ExecOptions::new(["cat"]).mode(SessionMode::Stdin)).await?);
        same.kill(Signal::USR1).await?;
        same.stop(StopOptions::default().grace(Duration::ZERO)).await?;
        far.close().await?;
        assert_eq!(bystanders.ended()?, Vec::<u32>::new(), "{host}: processes of this host ended");
        engine.finish().await?;
    }
    Ok(())
}
