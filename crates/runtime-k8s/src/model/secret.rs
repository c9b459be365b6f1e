//! The Secret with the login of a registry.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::spec::PullSecret;

/// Returns the Secret, which the cluster deletes with its owner.
pub(crate) fn object(
    name: &str,
    labels: &BTreeMap<String, String>,
    owner: &Value,
    secret: &PullSecret,
) -> Value {
    // The kubelet uses the name of Docker Hub in Docker's configuration.
    let server = match secret.registry.as_str() {
        "docker.io" => "https://index.docker.io/v1/",
        server => server,
    };
    let config = json!({"auths": {server: {
        "username": secret.auth.username,
        "password": secret.auth.password(),
    }}});
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config.to_string()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use runtime_core::RegistryAuth;

    #[test]
    fn secret_has_docker_config() {
        for (registry, key) in
            [("docker.io", "https://index.docker.io/v1/"), ("127.0.0.1:5000", "127.0.0.1:5000")]
        {
            let secret =
                PullSecret { registry: registry.into(), auth: RegistryAuth::new("u", "p\"w") };
            let owner = json!({"uid": "u"});
            let object = object("s", &BTreeMap::new(), &owner, &secret);
            let config: Value =
                serde_json::from_str(object["stringData"][".dockerconfigjson"].as_str().unwrap())
                    .unwrap();
            assert_eq!(config["auths"][key], json!({"username": "u", "password": "p\"w"}));
            assert_eq!(object["metadata"]["ownerReferences"], json!([owner]));
        }
    }
}
