//! Access control: the namespace of the tests, and accounts with exactly the rights of the
//! backend's manifest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::kubeconfig::{self, Credentials};
use super::kubectl;
use super::layout::{Layout, NAMESPACE, Ports};
use crate::poll;

/// Account with only the rights of the Role.
pub(crate) const ACCOUNT: &str = "runtime";

/// Account that can also read the statistics of nodes.
pub(crate) const STATS_ACCOUNT: &str = "runtime-stats";

/// Names in the manifest.
const ROLE: &str = "runtime";
const STATS_ROLE: &str = "runtime-node-stats";

/// Returns the manifest with the rights of the backend, which users apply.
fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/runtime-k8s/role.yaml")
}

/// Creates the namespace and the two accounts, and applies the manifest.
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
    // Pods are refused until a controller has created the default account.
    poll::until(Duration::from_secs(30), "the default account of the namespace", || {
        let found = kubectl::admin(layout)?
            .arguments(["-n", NAMESPACE, "get", "serviceaccount", "default", "-o", "name"])
            .arguments(["--ignore-not-found"])
            .run()?;
        Ok((!found.trim().is_empty()).then_some(()))
    })
}

/// Applies the current manifest.
pub(crate) fn apply_manifest(layout: &Layout) -> Result<()> {
    kubectl::admin(layout)?
        .arguments(["-n", NAMESPACE, "apply", "--validate=true", "-f"])
        .arguments([manifest()])
        .run()
        .map(drop)
}

/// Creates an account with the rights of the Role, and its kubeconfig.
///
/// The token is valid as long as the Secret with the account's name exists.
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
    let token = String::from_utf8(STANDARD.decode(token.trim())?).context("invalid token")?;
    let path = layout.kubeconfig(name);
    kubeconfig::write(
        &path,
        &ports.server(),
        &layout.pki(),
        NAMESPACE,
        &Credentials::Token(&token),
    )?;
    Ok(path)
}

/// Revokes the token of an account. The API server accepts it for ten more seconds.
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
