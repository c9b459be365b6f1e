//! kube and nothing else: what the requests themselves cost.

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

use super::engine::{Engine, Place};
use crate::common::SCOPE;

/// What bare pods have in place of the scope.
pub(super) const BARE_SCOPE: &str = "bench-bare";

/// In place of an image after the end.
const STOPPED: &str = "!stopped";

/// A connection.
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

    /// How many requests were sent since the last look.
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

    /// Lets a held pod go, as ours does.
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

    /// The pods of a scope as the server shows them, from now on.
    pub(super) async fn watch(
        &self,
        scope: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>>> + Unpin + use<>> {
        let list: Value = self.list(scope, "&limit=1").await?;
        let version = list["metadata"]["resourceVersion"].as_str().context("no version")?;
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

    /// The names of the pods of a scope.
    pub(super) async fn names(&self, scope: &str) -> Result<Vec<String>> {
        let list = self.list(scope, "").await?;
        let items = list["items"].as_array().context("no list")?;
        let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
        Ok(items.iter().filter_map(name).collect())
    }

    /// Ends containers as anybody may: with an image that cannot be.
    pub(super) async fn end(&self, names: &[String]) -> Result<()> {
        let patch = json!([
            {"op": "replace", "path": "/spec/containers/0/image", "value": STOPPED},
        ]);
        let patch = &patch;
        let patches =
            names.iter().map(|name| async move { self.patch(name, patch).await.map(drop) });
        stream::iter(patches.collect::<Vec<_>>()).buffer_unordered(16).try_collect().await
    }

    /// Deletes all pods of the bench, and waits until none is left.
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

    /// What the server has counted of requests for pods, by everyone.
    pub(super) async fn counted(&self) -> Result<Counted> {
        let text = self.client.request_text(self.request(Method::GET, "/metrics", None)?).await?;
        Counted::read(&text)
    }
}

fn selector(scope: &str) -> String {
    let selector = format!("{LABEL_SCOPE}={scope}");
    form_urlencoded::Serializer::new(String::new()).append_pair("labelSelector", &selector).finish()
}

/// Requests for pods since the server began, by verb; those of nodes for the status and of the
/// scheduler for the node are not among them.
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
        ensure!(!by_verb.is_empty(), "the server counts no requests for pods");
        Ok(Self(by_verb))
    }

    /// How many more than before.
    pub(super) fn since(&self, before: &Self) -> u64 {
        let sum = |counted: &Self| counted.0.values().sum::<u64>();
        sum(self) - sum(before)
    }
}

/// A pod as ours makes it, for bare ones to be the same.
pub(super) struct Template {
    text: String,
    pod_name: String,
    nonce: String,
}

impl Template {
    /// Makes a pod through this library, reads it, and removes it again.
    pub(super) async fn take(engine: &Engine, place: Place, script: &str) -> Result<Self> {
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
        let meta = pod["metadata"].as_object_mut().context("no metadata")?;
        let nonce = meta["labels"][LABEL_NONCE].as_str().context("no nonce")?.to_owned();
        let pod_name = meta["name"].as_str().context("no name")?.to_owned();
        for server in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "selfLink"] {
            meta.remove(server);
        }
        meta["labels"][LABEL_SCOPE] = BARE_SCOPE.into();
        pod.as_object_mut().context("no object")?.remove("status");
        Ok(Self { text: pod.to_string(), pod_name, nonce })
    }

    /// A pod like it, of this name.
    pub(super) fn pod(&self, name: &str) -> Result<Value> {
        // The name may have the nonce in it.
        let text = self.text.replace(&self.pod_name, name);
        Ok(serde_json::from_str(&text.replace(&self.nonce, &self.nonce(name)))?)
    }

    /// As long as the true one, and other for each name.
    fn nonce(&self, name: &str) -> String {
        format!("{name:x>width$}", width = self.nonce.len())
    }
}

/// The exit code of the container of a pod, once it has ended.
pub(super) fn exit_code(pod: &Pod) -> Option<i32> {
    let state = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?;
    Some(state.terminated.as_ref()?.exit_code)
}

/// Waits in a watch until the container of a pod has ended.
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
    bail!("the watch has ended")
}
