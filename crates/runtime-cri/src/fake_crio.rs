//! Fake CRI-O for tests, because no package of CRI-O can be installed. It differs from containerd
//! as CRI-O does: a known name returns the existing id, and the removal of a sandbox that was not
//! stopped fails.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;

use crate::generated as cri;
use crate::options::Endpoint;

/// Fake CRI-O.
pub(crate) struct FakeCrio {
    pub(crate) directory: TempDir,
    pub(crate) state: Arc<Mutex<State>>,
}

/// State of the engine.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    pub(crate) containers: BTreeMap<String, FakeContainer>,
    /// Received requests.
    pub(crate) calls: Vec<String>,
    /// Label selectors of the received list requests.
    pub(crate) selectors: Vec<BTreeMap<String, String>>,
    /// Error of the next creates of a container.
    pub(crate) create_fails: Option<&'static str>,
    /// Errors of the next runs of a sandbox.
    pub(crate) run_fails: Vec<&'static str>,
    /// Duration of a removal of a sandbox.
    pub(crate) remove_takes: std::time::Duration,
    /// Method without a response.
    pub(crate) hangs: Option<&'static str>,
    made: usize,
}

/// Zero time of Go.
pub(crate) const GO_ZERO_TIME: i64 = -6_795_364_578_871_345_152;

#[derive(Debug)]
pub(crate) struct FakeContainer {
    pub(crate) request: cri::CreateContainerRequest,
    pub(crate) state: cri::ContainerState,
    pub(crate) started_at: i64,
    pub(crate) exit_code: i32,
}

impl FakeContainer {
    fn status(&self, id: &str) -> cri::ContainerStatus {
        let config = self.request.config.clone().unwrap_or_default();
        cri::ContainerStatus {
            id: id.to_owned(),
            metadata: config.metadata,
            labels: config.labels,
            annotations: config.annotations,
            state: self.state.into(),
            created_at: 1_000,
            started_at: self.started_at,
            finished_at: if self.state == cri::ContainerState::ContainerExited { 3_000 } else { 0 },
            exit_code: self.exit_code,
            ..Default::default()
        }
    }

    fn listed(&self, id: &str) -> cri::Container {
        let status = self.status(id);
        cri::Container {
            id: status.id,
            pod_sandbox_id: self.request.pod_sandbox_id.clone(),
            metadata: status.metadata,
            labels: status.labels,
            annotations: status.annotations,
            state: status.state,
            created_at: status.created_at,
            ..Default::default()
        }
    }
}

#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) config: cri::PodSandboxConfig,
    pub(crate) is_stopped: bool,
}

/// A gRPC status code and its message.
type Refused = (u8, String);

/// Id of the image, which CRI-O writes without its algorithm.
pub(crate) const IMAGE_ID: &str =
    "85dd6e6b332cac64a234114db6f6a2a8b439064226a56133d3071455a7c1ea47";

const NOT_FOUND: u8 = 5;
const UNKNOWN: u8 = 2;
const UNIMPLEMENTED: u8 = 12;

impl FakeCrio {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let fake = Self { directory, state: state.clone() };
        let listener = UnixListener::bind(fake.endpoint().socket).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                let service =
                    hyper::service::service_fn(move |request| answer(state.clone(), request));
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        fake
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { socket: self.directory.path().join("engine.sock") }
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if call == "RemovePodSandbox" {
        let takes = state.lock().unwrap().remove_takes;
        tokio::time::sleep(takes).await;
    }
    if state.lock().unwrap().hangs == Some(call.as_str()) {
        std::future::pending::<()>().await;
    }
    let answered = state.lock().unwrap().answer(&call, body.get(5..).unwrap_or_default());
    let (response, code, message) = match answered {
        Ok(message) => {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            ([&[0], &length[..], &message].concat(), 0, String::new())
        }
        Err((code, message)) => (Vec::new(), code, message),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    trailers.insert("grpc-message", HeaderValue::from_str(&message).unwrap());
    let body = Full::new(Bytes::from(response)).with_trailers(async { Some(Ok(trailers)) });
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

fn read<M: Message + Default>(body: &[u8]) -> M {
    M::decode(body).unwrap()
}

fn fits(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Returns the labels of a sandbox. CRI-O adds those of a kubelet, with the metadata of the
/// request.
fn with_pod_labels(config: &cri::PodSandboxConfig) -> BTreeMap<String, String> {
    let metadata = config.metadata.clone().unwrap_or_default();
    let mut labels = config.labels.clone();
    labels.insert("io.kubernetes.pod.name".to_owned(), metadata.name);
    labels.insert("io.kubernetes.pod.namespace".to_owned(), metadata.namespace);
    labels.insert("io.kubernetes.pod.uid".to_owned(), metadata.uid);
    labels
}

impl State {
    fn id(&mut self) -> String {
        self.made += 1;
        format!("{:064x}", self.made)
    }

    fn sandbox(&mut self, id: &str) -> Result<&mut Sandbox, Refused> {
        let missing = || (NOT_FOUND, format!("no sandbox {id}"));
        self.sandboxes.get_mut(id).ok_or_else(missing)
    }

    fn answer(&mut self, call: &str, body: &[u8]) -> Result<Vec<u8>, Refused> {
        self.calls.push(call.to_owned());
        Ok(match call {
            "Version" => cri::VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: "cri-o".to_owned(),
                runtime_version: "1.34.0".to_owned(),
                runtime_api_version: "v1".to_owned(),
            }
            .encode_to_vec(),
            "Status" => cri::StatusResponse::default().encode_to_vec(),
            "ImageStatus" => {
                let request: cri::ImageStatusRequest = read(body);
                let name = request.image.unwrap_or_default().image;
                if name.starts_with("sha256:") {
                    return Err((UNKNOWN, format!("invalid reference {name}")));
                }
                let image = cri::Image { id: IMAGE_ID.to_owned(), ..Default::default() };
                cri::ImageStatusResponse { image: Some(image), ..Default::default() }
                    .encode_to_vec()
            }
            "RunPodSandbox" => self.run_sandbox(read(body))?.encode_to_vec(),
            "PodSandboxStatus" => {
                let request: cri::PodSandboxStatusRequest = read(body);
                let id = request.pod_sandbox_id;
                let labels = self.sandbox(&id)?.config.labels.clone();
                let status = cri::PodSandboxStatus { id, labels, ..Default::default() };
                cri::PodSandboxStatusResponse { status: Some(status), ..Default::default() }
                    .encode_to_vec()
            }
            "ListPodSandbox" => {
                let request: cri::ListPodSandboxRequest = read(body);
                let wanted = request.filter.unwrap_or_default().label_selector;
                let items = self
                    .sandboxes
                    .iter()
                    .filter(|(_, sandbox)| fits(&wanted, &with_pod_labels(&sandbox.config)))
                    .map(|(id, sandbox)| cri::PodSandbox {
                        id: id.clone(),
                        labels: with_pod_labels(&sandbox.config),
                        annotations: sandbox.config.annotations.clone(),
                        ..Default::default()
                    })
                    .collect();
                self.selectors.push(wanted);
                cri::ListPodSandboxResponse { items }.encode_to_vec()
            }
            "StopPodSandbox" => {
                let request: cri::StopPodSandboxRequest = read(body);
                self.sandbox(&request.pod_sandbox_id)?.is_stopped = true;
                Vec::new()
            }
            "RemovePodSandbox" => {
                let request: cri::RemovePodSandboxRequest = read(body);
                let id = request.pod_sandbox_id;
                if !self.sandbox(&id)?.is_stopped {
                    return Err((UNKNOWN, "removed before it was stopped".to_owned()));
                }
                self.sandboxes.remove(&id);
                self.containers.retain(|_, container| container.request.pod_sandbox_id != id);
                Vec::new()
            }
            "CreateContainer" => {
                let request: cri::CreateContainerRequest = read(body);
                if let Some(message) = self.create_fails {
                    return Err((UNKNOWN, message.to_owned()));
                }
                let id = self.id();
                let made = FakeContainer {
                    request,
                    state: cri::ContainerState::ContainerCreated,
                    started_at: GO_ZERO_TIME,
                    exit_code: 0,
                };
                self.containers.insert(id.clone(), made);
                cri::CreateContainerResponse { container_id: id }.encode_to_vec()
            }
            "ContainerStatus" => {
                let request: cri::ContainerStatusRequest = read(body);
                let missing = || (NOT_FOUND, "no container".to_owned());
                let made = self.containers.get(&request.container_id).ok_or_else(missing)?;
                let status = Some(made.status(&request.container_id));
                cri::ContainerStatusResponse { status, ..Default::default() }.encode_to_vec()
            }
            "StartContainer" => {
                let request: cri::StartContainerRequest = read(body);
                let id = request.container_id;
                let missing = || (NOT_FOUND, "no container".to_owned());
                let made = self.containers.get_mut(&id).ok_or_else(missing)?;
                match made.state {
                    cri::ContainerState::ContainerCreated => {
                        made.state = cri::ContainerState::ContainerRunning;
                        made.started_at = 2_000;
                        Vec::new()
                    }
                    cri::ContainerState::ContainerRunning => {
                        let message = format!("container {id} is not in created state: running");
                        return Err((UNKNOWN, message));
                    }
                    _ => {
                        let message = format!("container {id} is not in created state: stopped");
                        return Err((UNKNOWN, message));
                    }
                }
            }
            "ContainerStats" => {
                let request: cri::ContainerStatsRequest = read(body);
                let stats = self.stats().find(|stats| {
                    let attributes = stats.attributes.as_ref();
                    attributes.is_some_and(|attributes| attributes.id == request.container_id)
                });
                cri::ContainerStatsResponse { stats }.encode_to_vec()
            }
            "ListContainerStats" => {
                cri::ListContainerStatsResponse { stats: self.stats().collect() }.encode_to_vec()
            }
            "ListContainers" => {
                let all = self.containers.iter();
                let containers = all.map(|(id, container)| container.listed(id)).collect();
                cri::ListContainersResponse { containers }.encode_to_vec()
            }
            _ => return Err((UNIMPLEMENTED, format!("unknown method {call}"))),
        })
    }

    /// Returns the statistics of all containers that have not exited, including created ones.
    fn stats(&self) -> impl Iterator<Item = cri::ContainerStats> {
        let value = |value| Some(cri::UInt64Value { value });
        let measured = self
            .containers
            .iter()
            .filter(|(_, container)| container.state != cri::ContainerState::ContainerExited);
        measured.map(move |(id, _)| cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes { id: id.clone(), ..Default::default() }),
            cpu: Some(cri::CpuUsage {
                timestamp: 2_000,
                usage_core_nano_seconds: value(7),
                ..Default::default()
            }),
            memory: Some(cri::MemoryUsage { working_set_bytes: value(9), ..Default::default() }),
            ..Default::default()
        })
    }

    fn run_sandbox(
        &mut self,
        request: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse, Refused> {
        if !self.run_fails.is_empty() {
            return Err((UNKNOWN, self.run_fails.remove(0).to_owned()));
        }
        let config = request.config.unwrap_or_default();
        let known =
            self.sandboxes.iter().find(|(_, sandbox)| sandbox.config.metadata == config.metadata);
        let known = known.map(|(id, _)| id.clone());
        let id = known.unwrap_or_else(|| self.id());
        self.sandboxes.entry(id.clone()).or_insert(Sandbox { config, is_stopped: false });
        Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id })
    }
}
