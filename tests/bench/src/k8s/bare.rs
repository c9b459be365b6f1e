//! Bare kube: the cost of the requests themselves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::api::WatchEvent;
use kube::config::{KubeConfigOptions, Kubeconfig};
use runtime_core::{Container, LABEL_NONCE, LABEL_SCOPE, Runtime};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::engine::{Engine, NodeKind};
use crate::common::SCOPE;

/// Scope label of bare pods.
pub(super) const BARE_SCOPE: &str = "bench-bare";

/// Invalid image that ends a container.
const STOPPED: &str = "!stopped";

/// A bare connection.
pub(super) struct Bare {
    client: kube::Client,
    pods: String,
    requests: AtomicU64,
}

impl Bare {
    pub(super) async fn connect(kubeconfig: &Path, namespace: &str) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let mut config =
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        config.read_timeout = None;
        Ok(Self {
            client: kube::Client::try_from(config)?,
            pods: format!("/api/v1/namespaces/{namespace}/pods"),
            requests: AtomicU64::new(0),
        })
    }

    /// Returns the number of requests since the last `take_requests`.
    pub(super) fn take_requests(&self) -> u64 {
        self.requests.swap(0, Ordering::Relaxed)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<http::Request<Vec<u8>>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = http::Request::builder().method(method).uri(path);
        let mut bytes = Vec::new();
        if let Some((kind, body)) = body {
            request = request.header(http::header::CONTENT_TYPE, kind);
            bytes = serde_json::to_vec(body)?;
        }
        Ok(request.body(bytes)?)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<T> {
        Ok(self.client.request(self.request(method, path, body)?).await?)
    }

    pub(super) async fn create(&self, pod: &Value) -> Result<Pod> {
        self.ask(Method::POST, &self.pods, Some(("application/json", pod))).await
    }

    pub(super) async fn get(&self, name: &str) -> Result<Option<Pod>> {
        let path = format!("{}/{name}", self.pods);
        match self.client.request(self.request(Method::GET, &path, None)?).await {
            Ok(pod) => Ok(Some(pod)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn patch(&self, name: &str, patch: &Value) -> Result<Pod> {
        let path = format!("{}/{name}", self.pods);
        self.ask(Method::PATCH, &path, Some(("application/json-patch+json", patch))).await
    }

    /// Releases a held pod, like the library does.
    pub(super) async fn start(&self, name: &str, uid: &str, template: &Template) -> Result<Pod> {
        let nonce = template.nonce(name);
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "test", "path": "/metadata/labels/container-runtime~1released", "value": null},
            {"op": "add", "path": "/metadata/labels/container-runtime~1released", "value": nonce},
            {"op": "add", "path": "/metadata/annotations/container-runtime~1started-at", "value": "1"},
        ]);
        self.patch(name, &patch).await
    }

    pub(super) async fn log(&self, name: &str) -> Result<String> {
        let path = format!("{}/{name}/log?container=main&timestamps=true", self.pods);
        Ok(self.client.request_text(self.request(Method::GET, &path, None)?).await?)
    }

    pub(super) async fn delete(&self, name: &str, uid: &str, grace: u64) -> Result<()> {
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": grace,
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        });
        let path = format!("{}/{name}", self.pods);
        let gone: Value =
            self.ask(Method::DELETE, &path, Some(("application/json", &options))).await?;
        ensure!(gone.is_object(), "the answer is {gone}");
        Ok(())
    }

    /// Watches the pods of a scope from now on.
    pub(super) async fn watch(
        &self,
        scope: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>>> + Unpin + use<>> {
        let list: Value = self.list(scope, "&limit=1").await?;
        let version =
            list["metadata"]["resourceVersion"].as_str().context("the list has no version")?;
        let path = format!(
            "{}?watch=true&resourceVersion={version}&timeoutSeconds=3600&{}",
            self.pods,
            selector(scope)
        );
        let events = self.client.request_events(self.request(Method::GET, &path, None)?).await?;
        Ok(Box::pin(events.map(|event| event.map_err(anyhow::Error::from))))
    }

    async fn list(&self, scope: &str, more: &str) -> Result<Value> {
        let path = format!("{}?{}{more}", self.pods, selector(scope));
        self.ask(Method::GET, &path, None).await
    }

    /// Returns the names of the pods of a scope.
    pub(super) async fn names(&self, scope: &str) -> Result<Vec<String>> {
        let list = self.list(scope, "").await?;
        let items = list["items"].as_array().context("the list has no items")?;
        let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
        Ok(items.iter().filter_map(name).collect())
    }

    /// Ends containers like another client could: with an invalid image.
    pub(super) async fn end(&self, names: &[String]) -> Result<()> {
        let patch = json!([
            {"op": "replace", "path": "/spec/containers/0/image", "value": STOPPED},
        ]);
        let patch = &patch;
        let patches =
            names.iter().map(|name| async move { self.patch(name, patch).await.map(drop) });
        stream::iter(patches.collect::<Vec<_>>()).buffer_unordered(16).try_collect().await
    }

    /// Deletes all pods of the bench, and waits until they are gone.
    pub(super) async fn clear(&self) -> Result<()> {
        for scope in [SCOPE, BARE_SCOPE] {
            let path = format!("{}?gracePeriodSeconds=0&{}", self.pods, selector(scope));
            let _: Value = self.ask(Method::DELETE, &path, None).await?;
            while !self.names(scope).await?.is_empty() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        Ok(())
    }

    /// Returns the server's counters of requests for pods, from all clients.
    pub(super) async fn counted(&self) -> Result<Counted> {
        let text = self.client.request_text(self.request(Method::GET, "/metrics", None)?).await?;
        Counted::read(&text)
    }
}

fn selector(scope: &str) -> String {
    let selector = format!("{LABEL_SCOPE}={scope}");
    form_urlencoded::Serializer::new(String::new()).append_pair("labelSelector", &selector).finish()
}

/// Requests for pods since the start of the server, by verb, without those of nodes for the status
/// and of the scheduler for the binding.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted(BTreeMap<String, u64>);

impl Counted {
    fn read(text: &str) -> Result<Self> {
        let mut by_verb = BTreeMap::new();
        let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        for line in lines {
            let (labels, count) = line.rsplit_once(' ').context("a metric without a value")?;
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split('"').next()
            };
            if label("resource") == Some("pods")
                && matches!(label("subresource"), Some("" | "log"))
                && let Some(verb) = label("verb")
            {
                *by_verb.entry(verb.to_owned()).or_default() += count.parse::<f64>()? as u64;
            }
        }
        ensure!(!by_verb.is_empty(), "the server has no counters of requests for pods");
        Ok(Self(by_verb))
    }

    /// Returns the number of requests since `before`.
    pub(super) fn since(&self, before: &Self) -> u64 {
        let sum = |counted: &Self| counted.0.values().sum::<u64>();
        sum(self) - sum(before)
    }
}

/// Template of the library's pod, from which bare pods are created.
pub(super) struct Template {
    text: String,
    pod_name: String,
    nonce: String,
}

impl Template {
    /// Creates a pod with this library, reads it, and removes it.
    pub(super) async fn take(engine: &Engine, place: NodeKind, script: &str) -> Result<Self> {
        let ours = engine.ours(place).await?;
        let spec = engine.spec(script);
        let container = ours.create_container(&spec).await?;
        let bare = engine.bare().await?;
        let names = bare.names(SCOPE).await?;
        let mut made = None;
        for name in names {
            let pod: Value = bare.ask(Method::GET, &format!("{}/{name}", bare.pods), None).await?;
            if pod["metadata"]["uid"] == container.id().as_str() {
                made = Some(pod);
            }
        }
        container.remove().await?;
        let mut pod = made.context("the pod is not listed")?;
        let meta = pod["metadata"].as_object_mut().context("the pod has no metadata")?;
        let nonce =
            meta["labels"][LABEL_NONCE].as_str().context("the pod has no nonce")?.to_owned();
        let pod_name = meta["name"].as_str().context("the pod has no name")?.to_owned();
        for server in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "selfLink"] {
            meta.remove(server);
        }
        meta["labels"][LABEL_SCOPE] = BARE_SCOPE.into();
        pod.as_object_mut().context("the pod is not an object")?.remove("status");
        Ok(Self { text: pod.to_string(), pod_name, nonce })
    }

    /// Returns such a pod with this name.
    pub(super) fn pod(&self, name: &str) -> Result<Value> {
        // The name can contain the nonce.
        let text = self.text.replace(&self.pod_name, name);
        Ok(serde_json::from_str(&text.replace(&self.nonce, &self.nonce(name)))?)
    }

    /// Returns a nonce of the original length, different for each name.
    fn nonce(&self, name: &str) -> String {
        format!("{name:x>width$}", width = self.nonce.len())
    }
}

/// Returns the exit code of a pod's container, if it has exited.
pub(super) fn exit_code(pod: &Pod) -> Option<i32> {
    let state = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?;
    Some(state.terminated.as_ref()?.exit_code)
}

/// Waits in a watch until the container of a pod has exited.
pub(super) async fn until_ended(
    watch: &mut (impl Stream<Item = Result<WatchEvent<Value>>> + Unpin),
    uid: &str,
) -> Result<i32> {
    while let Some(event) = watch.next().await {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event? else { continue };
        if pod["metadata"]["uid"] == uid
            && let Some(code) = exit_code(&serde_json::from_value(pod)?)
        {
            return Ok(code);
        }
    }
    bail!("the watch ended")
}
