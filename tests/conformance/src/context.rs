//! Context of a case: scope, connection and helpers.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use runtime_core::{
    Capabilities, Capability, Container, ContainerExt as _, ContainerId, ContainerSpec, Exit,
    ExitReason, Follow, Image, LogOptions, LogReader, LogRecord, RegistryAuth, Runtime, Scope,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::failure::fail;
use crate::poll::{PATIENCE, lock, until};
use crate::shared::SharedContainer;
use crate::{Failure, Subject};

/// Scope and connection of one case. Clones share both.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    subject: Arc<dyn Subject>,
    scope: Scope,
    runtime: Arc<dyn Runtime>,
    scopes: Mutex<Vec<Scope>>,
    folders: Mutex<Vec<PathBuf>>,
    counter: AtomicU32,
    shared: Arc<SharedContainer>,
}

impl Context {
    pub(crate) async fn new(
        subject: Arc<dyn Subject>,
        scope: Scope,
        shared: Arc<SharedContainer>,
    ) -> Result<Self, Failure> {
        let runtime = subject.connect(&scope).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                subject,
                runtime,
                shared,
                scopes: Mutex::new(vec![scope.clone()]),
                scope,
                folders: Mutex::default(),
                counter: AtomicU32::new(0),
            }),
        })
    }

    /// Returns a context of another scope on the same engine.
    pub(crate) async fn of_scope(&self, scope: Scope) -> Result<Self, Failure> {
        let Inner { subject, shared, .. } = &*self.inner;
        Self::new(Arc::clone(subject), scope, Arc::clone(shared)).await
    }

    /// Returns the container that cases share, which may not exist yet.
    pub(crate) fn shared_container(&self) -> &SharedContainer {
        &self.inner.shared
    }

    /// Returns the engine under test.
    #[must_use]
    pub fn subject(&self) -> &dyn Subject {
        &*self.inner.subject
    }

    /// Returns the connection of the case.
    #[must_use]
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.inner.runtime
    }

    /// Returns the scope of the case.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.inner.scope
    }

    /// Returns the capabilities of the engine.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.runtime().capabilities()
    }

    /// Returns `true` if the engine has `capability`.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities().has(capability)
    }

    /// Opens another connection for the scope of the case.
    ///
    /// # Errors
    /// If the engine cannot be reached.
    pub async fn connect(&self) -> Result<Arc<dyn Runtime>, Failure> {
        Ok(self.subject().connect(self.scope()).await?)
    }

    /// Returns all scopes of the case.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        lock(&self.inner.scopes).clone()
    }

    /// Takes the list of directories that the case has created; later calls do not return them again.
    pub(crate) fn take_folders(&self) -> Vec<PathBuf> {
        std::mem::take(&mut lock(&self.inner.folders))
    }

    /// Opens a connection for another scope, which is cleaned up like the case's own.
    ///
    /// # Errors
    /// If the engine cannot be reached.
    pub async fn connect_other_scope(&self) -> Result<Arc<dyn Runtime>, Failure> {
        let scope = Scope::new(format!("{}-{}", self.scope(), self.next()))?;
        lock(&self.inner.scopes).push(scope.clone());
        Ok(self.subject().connect(&scope).await?)
    }

    fn next(&self) -> u32 {
        self.inner.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns a unique container name.
    #[must_use]
    pub fn name(&self, word: &str) -> String {
        format!("{word}-{}-{}", self.scope(), self.next())
    }

    /// Creates a directory that the engine sees at the same path.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn folder(&self) -> Result<PathBuf, Failure> {
        let Some(shared) = self.subject().shared_dir() else {
            fail!("the subject gives no folder for mounts");
        };
        let path = shared.join(format!("{}-{}", self.scope(), self.next()));
        std::fs::create_dir_all(&path)?;
        lock(&self.inner.folders).push(path.clone());
        Ok(path)
    }

    /// Returns the login of the test registry.
    #[must_use]
    pub fn auth(&self) -> RegistryAuth {
        let registry = self.subject().registry();
        RegistryAuth::new(registry.username, registry.password)
    }

    /// Returns an image of the test registry, with the login.
    #[must_use]
    pub fn image(&self, reference: impl Into<String>) -> Image {
        Image::new(reference).auth(self.auth())
    }

    /// Pushes an image that the engine does not have. `name` is made unique.
    ///
    /// # Errors
    /// If the registry refuses the push.
    pub async fn fresh_image(&self) -> Result<Image, Failure> {
        let name = format!("conformance/{}:{}", self.scope(), self.next());
        Ok(self.image(self.push(&name).await?))
    }

    pub(crate) async fn push(&self, name: &str) -> Result<String, Failure> {
        self.subject().push_image(name).await.map_err(|error| Failure::new(error.to_string()))
    }

    /// Returns the spec of a busybox container with the defaults of the image.
    #[must_use]
    pub fn spec(&self) -> ContainerSpec {
        ContainerSpec::new(self.image(self.subject().images().busybox))
    }

    /// Returns the spec of a container that runs a shell script.
    #[must_use]
    pub fn script(&self, script: &str) -> ContainerSpec {
        self.spec().command(["sh", "-c", script])
    }

    /// Returns the spec of a container whose shell script writes a lot. The container outlives its output on
    /// engines that may lose the last output before the exit (`logs_at_exit`): one second was too short on a
    /// busy machine.
    #[must_use]
    pub fn writer(&self, script: &str) -> ContainerSpec {
        if self.has(Capability::LogsAtExit) {
            return self.script(script);
        }
        self.script(&format!("{script}; sleep 4"))
    }

    /// Returns the spec of a container that runs until it is killed and ignores TERM.
    #[must_use]
    pub fn idle(&self) -> ContainerSpec {
        self.script("echo ready; sleep 3600")
    }

    /// Returns the spec of a container that prints `ready`, and on TERM prints `bye` and exits with 7.
    #[must_use]
    pub fn graceful(&self) -> ContainerSpec {
        self.script("trap 'echo bye; exit 7' TERM; echo ready; sleep 3600 & wait")
    }

    /// Creates a container.
    ///
    /// # Errors
    /// If the create fails.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, Failure> {
        Ok(self.runtime().create_container(spec).await?)
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// If the create or the start fails.
    pub async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, Failure> {
        let container = self.create(spec).await?;
        container.start().await?;
        Ok(container)
    }

    /// Creates and starts a container, and waits until it prints `ready`.
    ///
    /// # Errors
    /// If the create or the start fails, or `ready` does not appear.
    pub async fn ready(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, Failure> {
        let container = self.start(spec).await?;
        self.until_logged(&*container, "ready").await?;
        Ok(container)
    }

    /// Creates and starts a container, and waits for its exit.
    ///
    /// # Errors
    /// If the create, the start or the wait fails.
    pub async fn run(&self, spec: &ContainerSpec) -> Result<(Arc<dyn Container>, Exit), Failure> {
        let container = self.create(spec).await?;
        let exit = container.run().await?;
        Ok((container, exit))
    }

    /// Runs a container that exits out of memory, and returns it once the exit is reported as such.
    ///
    /// An engine can miss an out-of-memory exit: containerd drops the kernel's notification if the cgroup of
    /// the container is removed before the notification is read. With cgroup v1 this happened twice in 180
    /// runs on Docker 20.10, and under a whole suite three times in a row on containerd 1.6 and on 1.7. If
    /// the backend reads the kernel log, the first container must be reported. Otherwise the exit only shows
    /// the signal, and another container is tried.
    ///
    /// # Errors
    /// If out of memory is not reported for the first container or for any of ten, or if a container exits in
    /// another way.
    pub async fn out_of_memory(&self) -> Result<(Arc<dyn Container>, Exit), Failure> {
        // Without a line end, tail keeps all input in memory.
        let spec = self.spec().command(["tail", "/dev/zero"]).memory(16 << 20);
        let tries = if self.subject().tells_every_oom() { 1 } else { 10 };
        for _ in 0..tries {
            let (container, exit) = self.run(&spec).await?;
            if exit.reason == ExitReason::OutOfMemory {
                return Ok((container, exit));
            }
            assert_eq!((exit.code, exit.reason), (Some(137), ExitReason::Signaled), "{exit:?}");
        }
        fail!("of {tries} ends none is said to have been out of memory");
    }

    /// Runs a container that exits with 0 and returns its output, both streams.
    ///
    /// If the engine may lose the last output before the exit (`logs_at_exit`), an empty log is retried with
    /// a new container: 1 of 480 containers on a busy Docker 26.1 lost its only output.
    ///
    /// # Errors
    /// If the container exits with another code.
    pub async fn output(&self, spec: &ContainerSpec) -> Result<String, Failure> {
        let mut tries = if self.has(Capability::LogsAtExit) { 1 } else { 3 };
        loop {
            let (container, exit) = self.run(spec).await?;
            let text = self.text(&*container).await?;
            if !exit.success() {
                fail!("the container ended with {exit}: {text}");
            }
            tries -= 1;
            if tries == 0 || !text.is_empty() {
                return Ok(text);
            }
        }
    }

    /// Returns the whole log as text.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn text(&self, container: &dyn Container) -> Result<String, Failure> {
        Ok(text_of(&self.records(container, LogOptions::default()).await?))
    }

    /// Returns the records of a log up to its end.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn records(
        &self,
        container: &dyn Container,
        options: LogOptions,
    ) -> Result<Vec<LogRecord>, Failure> {
        rest(container.logs(options).await?).await
    }

    /// Waits until a running container has logged a line that contains `word`.
    ///
    /// # Errors
    /// If the container exits first.
    pub async fn until_logged(&self, container: &dyn Container, word: &str) -> Result<(), Failure> {
        if self.has(Capability::LogsFollow) {
            let mut reader = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
            while let Some(record) = reader.next().await {
                if String::from_utf8_lossy(&record?.bytes).contains(word) {
                    return Ok(());
                }
            }
            fail!("it ended without writing {word:?}");
        }
        self.until(&format!("{word:?} in the log"), || async {
            Ok(self.text(container).await?.contains(word).then_some(()))
        })
        .await
    }

    /// Polls `ask` until it returns a value.
    ///
    /// # Errors
    /// If `ask` fails, or returns no value within 20 s.
    pub async fn until<T, F, A>(&self, what: &str, ask: F) -> Result<T, Failure>
    where
        F: FnMut() -> A,
        A: Future<Output = Result<Option<T>, Failure>>,
    {
        until(PATIENCE, what, ask).await
    }

    /// Returns the host port that is mapped to `port` of a running container.
    ///
    /// # Errors
    /// If `info` does not report the port.
    pub async fn host_port(&self, container: &dyn Container, port: u16) -> Result<u16, Failure> {
        let info = container.info().await?;
        match info.tcp_ports.iter().find(|binding| binding.container_port == port) {
            Some(binding) if binding.host_port != 0 => Ok(binding.host_port),
            _ => fail!("no host port for {port} in {:?}", info.tcp_ports),
        }
    }

    /// Sends bytes to a published port and returns the whole response. Retries until the server in the
    /// container listens.
    ///
    /// # Errors
    /// If there is no response within 20 s.
    pub async fn talk(&self, host_port: u16, send: &[u8]) -> Result<Vec<u8>, Failure> {
        let address = (self.subject().published_address(), host_port);
        self.until(&format!("an answer at port {host_port}"), || async move {
            // The engine's port proxy may accept the connection before the server listens.
            let answer = tokio::time::timeout(PATIENCE / 4, exchange(address, send)).await;
            Ok(answer.ok().and_then(Result::ok).filter(|answer| !answer.is_empty()))
        })
        .await
    }

    /// Sends bytes once to a server that already listens, and returns the whole response.
    ///
    /// # Errors
    /// If the response is not complete within 20 s.
    pub async fn talk_once(&self, host_port: u16, send: &[u8]) -> Result<Vec<u8>, Failure> {
        let address = (self.subject().published_address(), host_port);
        match tokio::time::timeout(PATIENCE, exchange(address, send)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => fail!("no whole answer at port {host_port} in {PATIENCE:?}"),
        }
    }
}

/// Sends bytes and returns the whole response.
async fn exchange(address: impl ToSocketAddrs, send: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(send).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Returns the remaining records of a reader.
pub(crate) async fn rest(mut reader: LogReader) -> Result<Vec<LogRecord>, Failure> {
    let mut records = Vec::new();
    while let Some(record) = reader.next().await {
        records.push(record?);
    }
    Ok(records)
}

/// Joins records to one text.
pub(crate) fn text_of(records: &[LogRecord]) -> String {
    let bytes: Vec<u8> = records.iter().flat_map(|record| record.bytes.iter().copied()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns a well-formed id that no container has.
pub(crate) fn unknown_id() -> ContainerId {
    ContainerId::new("0123456789abcdef".repeat(4))
}
