//! Who may do what: the namespace of the tests, and accounts with exactly the rights that the
//! backend's own manifest names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::kubeconfig::{self, Proof};
use super::kubectl;
use super::layout::{Layout, NAMESPACE, Ports};
use crate::poll;

/// The account that has the rights of the Role and no others.
pub(crate) const ACCOUNT: &str = "runtime";

/// The account that may read the statistics of nodes besides.
pub(crate) const STATS_ACCOUNT: &str = "runtime-stats";

/// The names in the manifest.
const ROLE: &str = "runtime";
const STATS_ROLE: &str = "runtime-node-stats";

/// The rights that the backend needs, as its users apply them.
fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/runtime-k8s/role.yaml")
}

/// Makes the namespace, applies the backend's manifest and makes the two accounts.
pub(crate) fn prepare(layout: &Layout, ports: Ports) -> Result<()> {
    apply(
        layout,
        &json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE},
        }),
    )?;
    apply_manifest(layout)?;
    add(layout, ports, ACCOUNT, false)?;
    add(layout, ports, STATS_ACCOUNT, true)?;
    // A pod is refused until a controller has made the account that it has by default.
    poll::until(Duration::from_secs(30), "the default account of the namespace", || {
        let found = kubectl::admin(layout)?
            .arguments(["-n", NAMESPACE, "get", "serviceaccount", "default", "-o", "name"])
            .arguments(["--ignore-not-found"])
            .run()?;
        Ok((!found.trim().is_empty()).then_some(()))
    })
}

/// Applies the backend's manifest as it is now.
pub(crate) fn apply_manifest(layout: &Layout) -> Result<()> {
    kubectl::admin(layout)?
        .arguments(["-n", NAMESPACE, "apply", "--validate=true", "-f"])
        .arguments([manifest()])
        .run()
        .map(drop)
}

/// Makes an account with the rights of the Role, and a kubeconfig for it.
///
/// Its token lives as long as the Secret of the account's name, and no longer.
pub(crate) fn add(layout: &Layout, ports: Ports, name: &str, stats: bool) -> Result<PathBuf> {
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    let subjects = json!([{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]);
    let role = |kind: &str, name: &str| json!({"apiGroup": RBAC, "kind": kind, "name": name});
    let mut items = vec![
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": role("Role", ROLE),
            "subjects": subjects,
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {
                "name": secret(name),
                "namespace": NAMESPACE,
                "annotations": {"kubernetes.io/service-account.name": name},
            },
        }),
    ];
    if stats {
        items.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": role("ClusterRole", STATS_ROLE),
            "subjects": subjects,
        }));
    }
    apply(layout, &json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
    let token = poll::until(Duration::from_secs(30), "a token", || {
        let found = kubectl::admin(layout)?
            .arguments(["-n", NAMESPACE, "get", "secret", &secret(name)])
            .arguments(["-o", "jsonpath={.data.token}"])
            .run()?;
        Ok((!found.is_empty()).then_some(found))
    })?;
    let token = String::from_utf8(STANDARD.decode(token.trim())?).context("a garbled token")?;
    let path = layout.kubeconfig(name);
    kubeconfig::write(&path, &ports.server(), &layout.pki(), NAMESPACE, &Proof::Token(&token))?;
    Ok(path)
}

/// Takes the token of an account back. The API server believes it for ten seconds more.
pub(crate) fn revoke(layout: &Layout, name: &str) -> Result<()> {
    kubectl::admin(layout)?
        .arguments(["-n", NAMESPACE, "delete", "secret", &secret(name)])
        .run()
        .map(drop)
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn secret(account: &str) -> String {
    format!("{account}-token")
}

fn apply(layout: &Layout, what: &Value) -> Result<()> {
    kubectl::admin(layout)?
        .arguments(["apply", "--validate=false", "-f", "-"])
        .input(serde_json::to_vec(what)?)
        .run()
        .map(drop)
}
