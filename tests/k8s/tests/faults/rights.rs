//! Missing rights of the Role.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use k8s_tests::{Environment, Raw};
use runtime_conformance::BoxError;
use runtime_core::{
    AttachOptions, ContainerSpec, Error, ErrorKind, ExecOptions, Interactive, LABEL_SCOPE,
    ListOptions, LogOptions, Result, Runtime as _, StopOptions, StopOutcome,
};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime, VoluntaryEviction};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::support::{Namespace, Outcome, scope};

/// Time limit of each operation: nothing hangs without a right.
const LIMIT: Duration = Duration::from_secs(30);

/// Operation that fails without a right, and the right.
type Failure = (&'static str, &'static str);

/// Rights that are removed together, because none hides the lack of another, and the operations that fail
/// then.
const GROUPS: &[(&[&str], &[Failure])] = &[
    (&["create pods"], &[("create", "create pods")]),
    (&["get pods"], &[]),
    (&["list pods"], &[("list", "list pods"), ("start", "list pods")]),
    (&["watch pods"], &[]),
    (&["patch pods"], &[("start", "patch pods")]),
    (&["create secrets"], &[("create", "create secrets")]),
    (&["create poddisruptionbudgets.policy"], &[("create", "create poddisruptionbudgets.policy")]),
    (
        &["delete pods", "get pods/log", "create pods/exec", "create pods/attach"],
        &[
            ("exec", "create pods/exec"),
            ("attach", "create pods/attach"),
            ("logs", "get pods/log"),
            ("remove", "delete pods"),
        ],
    ),
    // A server of 1.20 does not use them, or all operations succeed without them.
    (
        &[
            "get pods/exec",
            "get pods/attach",
            "delete secrets",
            "list events",
            "delete poddisruptionbudgets.policy",
            "get pods.metrics.k8s.io",
            "list pods.metrics.k8s.io",
        ],
        &[],
    ),
];

/// Right of one verb on one resource.
#[derive(Debug, Clone, PartialEq)]
struct Right {
    group: String,
    resource: String,
    verb: String,
}

impl Right {
    fn name(&self) -> String {
        match &*self.group {
            "" => format!("{} {}", self.verb, self.resource),
            group => format!("{} {}.{group}", self.verb, self.resource),
        }
    }

    fn rule(&self) -> Value {
        json!({"apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb]})
    }
}

/// Returns the rights of a Role.
fn rights(role: &Value) -> Vec<Right> {
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().into_iter().flatten();
        texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    let (group, resource) = (group.clone(), resource.clone());
                    rights.push(Right { group, resource, verb });
                }
            }
        }
    }
    rights
}

/// Returns a Role with these rights, and its binding to a user of the same name.
fn role(name: &str, rights: &[Right]) -> [Value; 2] {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let rules: Vec<Value> = rights.iter().map(Right::rule).collect();
    let api = format!("{GROUP}/v1");
    [
        json!({"apiVersion": api, "kind": "Role", "metadata": {"name": name}, "rules": rules}),
        json!({
            "apiVersion": api, "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": GROUP, "kind": "User", "name": name}],
        }),
    ]
}

/// Operations from create to remove, with their results.
type Life = Vec<(&'static str, Result<()>)>;

async fn within<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let called = timeout(LIMIT, call).await;
    called.unwrap_or_else(|_| Err(Error::internal("the operation hangs")))
}

/// Runs a container with everything that a create can make, from create to remove.
async fn live(options: KubernetesOptions, spec: &ContainerSpec) -> Result<Life> {
    let runtime = within(KubernetesRuntime::connect(options)).await?;
    let mut life = Life::new();
    let created = within(runtime.create_container(spec)).await;
    match created {
        Err(error) => life.push(("create", Err(error))),
        Ok(container) => {
            life.push(("create", Ok(())));
            let listed = within(runtime.list_containers(ListOptions::default())).await;
            life.push(("list", listed.map(|listed| assert_eq!(listed.len(), 1))));
            let started = within(container.start()).await;
            let runs = started.is_ok();
            life.push(("start", started.map(drop)));
            if runs {
                life.push(("info", within(container.info()).await.map(drop)));
                let again = within(runtime.container(container.id())).await;
                life.push(("reattach", again.map(drop)));
                let exec = async {
                    let session = container.exec(ExecOptions::new(["sh", "-c", "exit 7"])).await?;
                    session.control.wait().await
                };
                let exec = within(exec).await;
                life.push(("exec", exec.map(|exit| assert_eq!(exit.code, 7))));
                let attached = within(container.attach(AttachOptions::default())).await;
                life.push(("attach", attached.map(drop)));
                let logs = async {
                    let records = container.logs(LogOptions::default()).await?;
                    records.try_collect::<Vec<_>>().await
                };
                let logs = within(logs).await;
                life.push(("logs", logs.map(|records| assert_eq!(records[0].bytes, "ready\n"))));
                let stopped = within(container.stop(StopOptions::default())).await;
                let ended = stopped.is_ok();
                let code = |outcome| match outcome {
                    StopOutcome::Stopped(exit) => exit.code,
                    other => panic!("{other:?}"),
                };
                life.push(("stop", stopped.map(|outcome| assert_eq!(code(outcome), Some(5)))));
                if ended {
                    let exit = within(container.wait()).await;
                    life.push(("wait", exit.map(|exit| assert_eq!(exit.code, Some(5)))));
                }
            }
            life.push(("remove", within(container.remove()).await));
        }
    }
    within(runtime.close()).await?;
    Ok(life)
}

/// An operation that needs a missing right is refused with the name of the right; nothing hangs, all other
/// operations succeed, and nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn missing_right_is_named_and_only_what_needs_it_fails() -> Outcome {
    let environment = Environment::read()?;
    let raw = Raw::new(&environment.kubeconfig_admin, &environment.namespace).await?;
    let api = "/apis/rbac.authorization.k8s.io/v1";
    let all = rights(
        &raw.get(&format!("{api}/namespaces/{}/roles/runtime", environment.namespace)).await?,
    );
    let mut names: Vec<String> = all.iter().map(Right::name).collect();
    let mut known: Vec<&str> = GROUPS.iter().flat_map(|(rights, _)| *rights).copied().collect();
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known, "each right of the Role is in one group");

    let user = |at: usize| format!("without-{at}");
    let objects = GROUPS.iter().enumerate().flat_map(|(at, (missing, _))| {
        let has = |right: &&Right| !missing.contains(&&*right.name());
        role(&user(at), &all.iter().filter(has).cloned().collect::<Vec<_>>())
    });
    let namespace = Namespace::new(objects.collect()).await?;
    let folder = tempfile::tempdir()?;
    let admin: Value = serde_json::from_slice(&std::fs::read(&environment.kubeconfig_admin)?)?;
    let spec = namespace
        .script("trap 'exit 5' TERM; echo ready; sleep 3600 & wait")
        .interactive(Interactive::Stdin);
    let mut lives = Vec::new();
    for at in 0..GROUPS.len() {
        let mut config = admin.clone();
        config["users"][0]["user"]["as"] = json!(user(at));
        let path = folder.path().join(user(at));
        std::fs::write(&path, config.to_string())?;
        let scope = scope();
        let options = environment
            .options(&scope)
            .kubeconfig(path)
            .namespace(&namespace.name)
            .eviction(VoluntaryEviction::Refused);
        let spec = &spec;
        lives.push(async move { Ok::<_, BoxError>((live(options, spec).await?, scope)) });
    }
    let lives = try_join_all(lives).await?;
    for ((missing, failing), (life, scope)) in GROUPS.iter().zip(lives) {
        let mut failed = Vec::new();
        for (operation, result) in life {
            let Err(error) = result else { continue };
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{missing:?}: {error:?}");
            let words = error.message().unwrap_or_default();
            let right = words.strip_prefix("the right to ").and_then(|w| w.split_once(" in "));
            let Some((right, _)) = right else { panic!("{missing:?}: {error:?}") };
            failed.push((operation, right.to_owned()));
        }
        let failed: Vec<_> = failed.iter().map(|(call, right)| (*call, &**right)).collect();
        assert_eq!(failed, *failing, "without {missing:?}");
        let left = usize::from(missing.contains(&"delete pods"));
        let selector = format!("{LABEL_SCOPE}={scope}");
        test_support::until("removal", async || {
            Ok(namespace.raw.listing(&selector).await?.len() == left)
        })
        .await?;
    }
    namespace.finish().await
}
