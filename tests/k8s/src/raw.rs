//! Raw access to the API server without the code under test, as an administrator.

use std::collections::BTreeMap;
use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use runtime_conformance::BoxError;
use runtime_core::LABEL_NONCE;
use serde_json::Value;

/// Raw client of the API server.
#[derive(Clone)]
pub struct Raw {
    client: kube::Client,
    namespace: String,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Raw {
    /// Creates a client with the rights of this kubeconfig, for one namespace.
    ///
    /// # Errors
    /// If the kubeconfig is invalid.
    pub async fn new(kubeconfig: &Path, namespace: &str) -> Result<Self, BoxError> {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let config =
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Self { client: kube::Client::try_from(config)?, namespace: namespace.to_owned() })
    }

    /// Sends a GET request and returns the response.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses the request.
    pub async fn get(&self, path: &str) -> Result<Value, BoxError> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(self.client.request(request).await?)
    }

    /// Lists the pods, Secrets and disruption budgets that match a selector, with one line for each
    /// container: the objects of one create share a nonce.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses the request.
    pub async fn listing(&self, selector: &str) -> Result<Vec<String>, BoxError> {
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("labelSelector", selector)
            .finish();
        let version = self.get("/version").await?;
        let old = version["minor"].as_str().is_some_and(|minor| minor.starts_with("20"));
        let policy = if old { "v1beta1" } else { "v1" };
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (api, kind) in [
            ("/api/v1".to_owned(), "pods"),
            ("/api/v1".to_owned(), "secrets"),
            (format!("/apis/policy/{policy}"), "poddisruptionbudgets"),
        ] {
            let list =
                self.get(&format!("{api}/namespaces/{}/{kind}?{query}", self.namespace)).await?;
            for item in list["items"].as_array().into_iter().flatten() {
                let (meta, status) = (&item["metadata"], &item["status"]);
                let name = meta["name"].as_str().unwrap_or_default();
                // An object without a nonce gets a line of its own.
                let nonce = meta["labels"][LABEL_NONCE].as_str().unwrap_or(name);
                let mut words = vec![kind, name];
                words.extend(status["phase"].as_str());
                words.extend(meta["deletionTimestamp"].as_str().map(|_| "terminating"));
                found.entry(nonce.to_owned()).or_default().push(words.join(" "));
            }
        }
        Ok(found.into_values().map(|things| things.join(", ")).collect())
    }
}
