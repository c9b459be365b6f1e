//! Checks of a pod after the admission chain of the cluster.

use k8s_openapi::api::core::v1::Container;
use runtime_core::{Error, ErrorKind, Result};

use crate::model::api::Pod;
use crate::model::spec::Plan;

/// Checks that a created pod still complies with its spec.
///
/// # Errors
/// `PermissionDenied` if the cluster pulls an image that must not be pulled.
pub(crate) fn check(plan: &Plan, pod: &Pod) -> Result<()> {
    let sent = main(plan).and_then(|container| container.image_pull_policy.as_deref());
    let kept = pod.container().map(|container| container.image_pull_policy.as_str());
    match (sent, kept) {
        (Some(sent), Some(kept)) if !kept.is_empty() && kept != sent => {
            let message = format!(
                "a policy of the cluster replaces the pull policy {sent} with {kept}, as the admission \
                 plugin AlwaysPullImages does"
            );
            if sent == "Never" {
                return Err(Error::new(ErrorKind::PermissionDenied)
                    .with_field("pull_policy")
                    .with_message(message));
            }
            tracing::warn!(pod = pod.metadata.name, "{message}");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Adds the field to a refusal of a request that is too large: the largest one.
pub(crate) fn with_field(error: Error, plan: &Plan) -> Error {
    if error.kind() != ErrorKind::InvalidArgument || error.field().is_some() {
        return error;
    }
    let container = main(plan);
    let length = |words: Option<&Vec<String>>| words.into_iter().flatten().map(String::len).sum();
    let env = container.and_then(|container| container.env.as_ref()).into_iter().flatten();
    let annotations = plan.pod.metadata.annotations.iter().flatten();
    let sizes: [(usize, &str); 4] = [
        (env.map(|e| e.name.len() + e.value.as_ref().map_or(0, String::len)).sum(), "env"),
        (length(container.and_then(|container| container.args.as_ref())), "arguments"),
        (length(container.and_then(|container| container.command.as_ref())), "command"),
        (annotations.map(|(key, value)| key.len() + value.len()).sum(), "labels"),
    ];
    match sizes.into_iter().max() {
        Some((size, field)) if size > 0 => error.with_field(field),
        _ => error,
    }
}

fn main(plan: &Plan) -> Option<&Container> {
    plan.pod.spec.as_ref()?.containers.first()
}

#[cfg(test)]
mod tests {
    use super::*;

    use runtime_core::{Capabilities, ContainerSpec, PullPolicy, Scope};
    use serde_json::json;

    use crate::model::capabilities::{Server, capabilities};
    use crate::options::KubernetesOptions;

    fn plan(spec: &ContainerSpec) -> Plan {
        let options = KubernetesOptions::new(Scope::new("t").unwrap());
        let can: Capabilities = capabilities(&Server::default(), &options);
        let prepared = spec.prepare(&options.scope, &can).unwrap();
        crate::model::spec::plan(
            prepared,
            &options,
            crate::model::pod::gate::StartGate::SchedulingGate,
            &[],
            None,
        )
        .unwrap()
    }

    #[test]
    fn policy_never_replaced_by_cluster_is_refused() {
        let pod = |policy: &str| -> Pod {
            let container = json!({"name": "main", "image": "i", "imagePullPolicy": policy});
            serde_json::from_value(json!({"spec": {"containers": [container]}})).unwrap()
        };
        let never = plan(&ContainerSpec::new("busybox").pull_policy(PullPolicy::Never));
        let error = check(&never, &pod("Always")).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::PermissionDenied, Some("pull_policy"))
        );
        assert!(error.message().is_some_and(|message| message.contains("AlwaysPullImages")));
        assert!(check(&never, &pod("Never")).is_ok());
        assert!(check(&never, &Pod::default()).is_ok());
        let missing = plan(&ContainerSpec::new("busybox").pull_policy(PullPolicy::Missing));
        assert!(check(&missing, &pod("Always")).is_ok(), "it is only logged");
    }

    #[test]
    fn too_large_request_names_largest_field() {
        let large = || Error::new(ErrorKind::InvalidArgument).with_message("too large");
        let spec = ContainerSpec::new("busybox").env("A", "x".repeat(5000));
        assert_eq!(with_field(large(), &plan(&spec)).field(), Some("env"));
        let spec = ContainerSpec::new("busybox").arguments(["x".repeat(5000)]);
        assert_eq!(with_field(large(), &plan(&spec)).field(), Some("arguments"));
        let other = Error::invalid("memory", "m");
        assert_eq!(with_field(other, &plan(&spec)).field(), Some("memory"));
    }
}
