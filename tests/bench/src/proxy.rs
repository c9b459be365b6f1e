//! Counts the requests of a client with a proxy.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// A proxy socket of the engine.
pub(crate) struct Proxy {
    directory: tempfile::TempDir,
    requests: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) fn open(host: &str) -> Result<Self> {
        let engine: PathBuf =
            host.strip_prefix("unix://").context("the engine has no Unix socket")?.into();
        let directory = tempfile::tempdir()?;
        let listener = UnixListener::bind(directory.path().join("socket"))?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let requests = Arc::clone(&requests);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(client, engine.clone(), Arc::clone(&requests)));
                }
            }
        });
        Ok(Self { directory, requests, task })
    }

    /// Returns the socket in the form of `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("socket").display())
    }

    /// Returns the requests since the last call, as `GET /containers/{id}/json`.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    client: UnixStream,
    engine: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_engine, mut to_engine) = UnixStream::connect(engine).await?.into_split();
    let answers = async {
        tokio::io::copy(&mut from_engine, &mut to_client).await?;
        to_client.shutdown().await
    };
    let questions = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let length = from_client.read(&mut buffer).await?;
            if length == 0 {
                return to_engine.shutdown().await;
            }
            note(&buffer[..length], &requests);
            to_engine.write_all(&buffer[..length]).await?;
        }
    };
    // If either side disconnects, the other direction ends as well.
    tokio::select! {
        done = answers => done,
        done = questions => done,
    }
}

/// Both clients write the head of a request in one chunk.
fn note(chunk: &[u8], requests: &Mutex<Vec<String>>) {
    let head = chunk.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Some(line) = std::str::from_utf8(head).ok().and_then(|line| line.strip_suffix(" HTTP/1.1"))
    else {
        return;
    };
    let (method, target) = line.split_once(' ').unwrap_or((line, ""));
    let path = target.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| {
            !(part.starts_with('v') && part[1..].starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(|part| if part.len() == 64 { "{id}" } else { part })
        .collect();
    let request = format!("{method} {}", parts.join("/"));
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
}
