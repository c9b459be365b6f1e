//! What a case works with.

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

/// What a case works with: a scope and a connection of its own. Clones share them.
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

    /// A context of another scope, on the same engine.
    pub(crate) async fn of_scope(&self, scope: Scope) -> Result<Self, Failure> {
        let Inner { subject, shared, .. } = &*self.inner;
        Self::new(Arc::clone(subject), scope, Arc::clone(shared)).await
    }

    /// The container that cases share, which may not be made yet.
    pub(crate) fn shared_container(&self) -> &SharedContainer {
        &self.inner.shared
    }

    /// The engine under test.
    #[must_use]
    pub fn subject(&self) -> &dyn Subject {
        &*self.inner.subject
    }

    /// The connection of the case.
    #[must_use]
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.inner.runtime
    }

    /// The scope of the case.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.inner.scope
    }

    /// What the engine can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.runtime().capabilities()
    }

    /// Whether the engine has `capability`.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities().has(capability)
    }

    /// Another connection for the scope of the case.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    pub async fn connect(&self) -> Result<Arc<dyn Runtime>, Failure> {
        Ok(self.subject().connect(self.scope()).await?)
    }

    /// Every scope of the case.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        lock(&self.inner.scopes).clone()
    }

    /// Every folder that the case has made. They are not told again.
    pub(crate) fn take_folders(&self) -> Vec<PathBuf> {
        std::mem::take(&mut lock(&self.inner.folders))
    }

    /// A connection for another scope, which is cleaned up like the case's own.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    pub async fn connect_other_scope(&self) -> Result<Arc<dyn Runtime>, Failure> {
        let scope = Scope::new(format!("{}-{}", self.scope(), self.next()))?;
        lock(&self.inner.scopes).push(scope.clone());
        Ok(self.subject().connect(&scope).await?)
    }

    fn next(&self) -> u32 {
        self.inner.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// A container name that nobody has.
    #[must_use]
    pub fn name(&self, word: &str) -> String {
        format!("{word}-{}-{}", self.scope(), self.next())
    }

    /// A new folder that the engine sees at the same path.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self) -> Result<PathBuf, Failure> {
        let Some(shared) = self.subject().shared_dir() else {
            fail!("the subject gives no folder for mounts");
        };
        let path = shared.join(format!("{}-{}", self.scope(), self.next()));
        std::fs::create_dir_all(&path)?;
        lock(&self.inner.folders).push(path.clone());
        Ok(path)
    }

    /// The login of the test registry.
    #[must_use]
    pub fn auth(&self) -> RegistryAuth {
        let registry = self.subject().registry();
        RegistryAuth::new(registry.username, registry.password)
    }

    /// An image of the test registry, with the login.
    #[must_use]
    pub fn image(&self, reference: impl Into<String>) -> Image {
        Image::new(reference).auth(self.auth())
    }

    /// Pushes an image that the engine has not got. `name` is made unique.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub async fn fresh_image(&self) -> Result<Image, Failure> {
        let name = format!("conformance/{}:{}", self.scope(), self.next());
        Ok(self.image(self.push(&name).await?))
    }

    pub(crate) async fn push(&self, name: &str) -> Result<String, Failure> {
        self.subject().push_image(name).await.map_err(|error| Failure::new(error.to_string()))
    }

    /// A container of busybox, with everything as the image has it.
    #[must_use]
    pub fn spec(&self) -> ContainerSpec {
        ContainerSpec::new(self.image(self.subject().images().busybox))
    }

    /// A container that runs a shell script.
    #[must_use]
    pub fn script(&self, script: &str) -> ContainerSpec {
        self.spec().command(["sh", "-c", script])
    }

    /// A container that runs a shell script which writes much. It outlives its output on engines that
    /// may lose what was written in the moment before the end (`logs_at_exit`): one second was
    /// too few on a busy machine.
    #[must_use]
    pub fn writer(&self, script: &str) -> ContainerSpec {
        if self.has(Capability::LogsAtExit) {
            return self.script(script);
        }
        self.script(&format!("{script}; sleep 4"))
    }

    /// A container that runs until it is killed, and takes no notice of TERM.
    #[must_use]
    pub fn idle(&self) -> ContainerSpec {
        self.script("echo ready; sleep 3600")
    }

    /// A container that says `ready`, and on TERM says `bye` and ends with 7.
    #[must_use]
    pub fn graceful(&self) -> ContainerSpec {
        self.script("trap 'echo bye; exit 7' TERM; echo ready; sleep 3600 & wait")
    }

    /// Makes a container.
    ///
    /// # Errors
    /// Those of the create.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, Failure> {
        Ok(self.runtime().create_container(spec).await?)
    }

    /// Makes a container and starts it.
    ///
    /// # Errors
    /// Those of the create and the start.
    pub async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, Failure> {
        let container = self.create(spec).await?;
        container.start().await?;
        Ok(container)
    }

    /// Makes a container, starts it, and waits until it says `ready`.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ready(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, Failure> {
        let container = self.start(spec).await?;
        self.until_logged(&*container, "ready").await?;
        Ok(container)
    }

    /// Makes a container, starts it, and waits for its end.
    ///
    /// # Errors
    /// Those of the create, the start and the wait.
    pub async fn run(&self, spec: &ContainerSpec) -> Result<(Arc<dyn Container>, Exit), Failure> {
        let container = self.create(spec).await?;
        let exit = container.run().await?;
        Ok((container, exit))
    }

    /// Has a container end out of memory, and be known to.
    ///
    /// An engine can miss that: containerd drops the kernel's word when the group of the container
    /// is gone before it is read. With cgroup v1 that was twice in 180 times on Docker 20.10, and
    /// below a whole suite three times in a row on containerd 1.6 and on 1.7. Where the log of the
    /// kernel has it, the first container has to be told of. Elsewhere only the signal of such an
    /// end is known, and another container is tried.
    ///
    /// # Errors
    /// When it is not said of the first one or of ten, or one ended in any other way.
    pub async fn out_of_memory(&self) -> Result<(Arc<dyn Container>, Exit), Failure> {
        // Without a line end in sight, tail keeps all it has read.
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

    /// What a container writes that ends with 0, both streams.
    ///
    /// Where an engine may lose what was written in the moment before the end (`logs_at_exit`), one
    /// that has said nothing is asked again: 1 of 480 on a busy Docker 26.1 lost its only words.
    ///
    /// # Errors
    /// When it ends with anything else.
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

    /// The whole log as text.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn text(&self, container: &dyn Container) -> Result<String, Failure> {
        Ok(text_of(&self.records(container, LogOptions::default()).await?))
    }

    /// The records of a log to its end.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn records(
        &self,
        container: &dyn Container,
        options: LogOptions,
    ) -> Result<Vec<LogRecord>, Failure> {
        rest(container.logs(options).await?).await
    }

    /// Waits until a running container has written a line with `word` in it.
    ///
    /// # Errors
    /// When it ends first.
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

    /// Asks again and again until there is an answer.
    ///
    /// # Errors
    /// That of a question, or that there was no answer in 20 s.
    pub async fn until<T, F, A>(&self, what: &str, ask: F) -> Result<T, Failure>
    where
        F: FnMut() -> A,
        A: Future<Output = Result<Option<T>, Failure>>,
    {
        until(PATIENCE, what, ask).await
    }

    /// The port of the host that leads to `port` of a running container.
    ///
    /// # Errors
    /// When `info` does not say it.
    pub async fn host_port(&self, container: &dyn Container, port: u16) -> Result<u16, Failure> {
        let info = container.info().await?;
        match info.tcp_ports.iter().find(|binding| binding.container_port == port) {
            Some(binding) if binding.host_port != 0 => Ok(binding.host_port),
            _ => fail!("no host port for {port} in {:?}", info.tcp_ports),
        }
    }

    /// Sends bytes to a published port and gives what comes back to its end, once the server in
    /// the container is there.
    ///
    /// # Errors
    /// When nothing comes back in 20 s.
    pub async fn talk(&self, host_port: u16, send: &[u8]) -> Result<Vec<u8>, Failure> {
        let address = (self.subject().published_address(), host_port);
        self.until(&format!("an answer at port {host_port}"), || async move {
            // Whoever publishes the port may take the connection before the server listens.
            let answer = tokio::time::timeout(PATIENCE / 4, exchange(address, send)).await;
            Ok(answer.ok().and_then(Result::ok).filter(|answer| !answer.is_empty()))
        })
        .await
    }

    /// Does the same once, with a server that is known to listen.
    ///
    /// # Errors
    /// When the whole answer does not come in 20 s.
    pub async fn talk_once(&self, host_port: u16, send: &[u8]) -> Result<Vec<u8>, Failure> {
        let address = (self.subject().published_address(), host_port);
        match tokio::time::timeout(PATIENCE, exchange(address, send)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => fail!("no whole answer at port {host_port} in {PATIENCE:?}"),
        }
    }
}

/// Sends, and gives all that comes back.
async fn exchange(address: impl ToSocketAddrs, send: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(send).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The rest of the records of a reader.
pub(crate) async fn rest(mut reader: LogReader) -> Result<Vec<LogRecord>, Failure> {
    let mut records = Vec::new();
    while let Some(record) = reader.next().await {
        records.push(record?);
    }
    Ok(records)
}

/// Records as one text.
pub(crate) fn text_of(records: &[LogRecord]) -> String {
    let bytes: Vec<u8> = records.iter().flat_map(|record| record.bytes.iter().copied()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An id of the right form that no container has.
pub(crate) fn unknown_id() -> ContainerId {
    ContainerId::new("0123456789abcdef".repeat(4))
}
