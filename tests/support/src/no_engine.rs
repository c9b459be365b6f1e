//! Connections to a missing engine or to another server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtime_conformance::BoxError;
use runtime_core::{Error, ErrorKind, Result, async_trait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::{Outcome, fails};

/// Connects a backend.
#[async_trait]
pub trait Connect: Sync {
    /// Backend name in errors.
    const BACKEND: &'static str;

    /// Connects to a host in the form `unix:///path` with a connect deadline.
    ///
    /// # Errors
    /// Errors that these tests expect.
    async fn connect(&self, host: String, within: Duration) -> Result<()>;
}

/// Connect deadline: long enough for immediate errors, short enough to wait for a timeout.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

async fn fails_at<C: Connect>(backend: &C, path: &Path, kind: ErrorKind) -> Error {
    let begun = Instant::now();
    let connected = backend.connect(format!("unix://{}", path.display()), CONNECT_DEADLINE).await;
    let error = fails(C::BACKEND, connected, kind, begun);
    let names_address = error.to_string().contains(&*path.to_string_lossy());
    assert!(names_address, "the address is missing: {error}");
    error
}

/// Returns a directory and an unused path in it.
fn unused_path() -> std::result::Result<(tempfile::TempDir, PathBuf), BoxError> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("socket");
    Ok((directory, path))
}

/// Connects to a missing socket: a retryable error.
///
/// # Errors
/// File system errors.
///
/// # Panics
/// If the result differs.
pub async fn no_socket(backend: &impl Connect) -> Outcome {
    let (_folder, path) = unused_path()?;
    let error = fails_at(backend, &path, ErrorKind::Unavailable).await;
    assert!(error.is_retryable());
    Ok(())
}

/// Connects to a socket without a listener.
///
/// # Errors
/// File system errors.
///
/// # Panics
/// If the result is not `Unavailable`.
pub async fn nobody_listens(backend: &impl Connect) -> Outcome {
    let (_folder, path) = unused_path()?;
    drop(UnixListener::bind(&path)?);
    fails_at(backend, &path, ErrorKind::Unavailable).await;
    Ok(())
}

/// Connects to a regular file in place of a socket.
///
/// # Errors
/// File system errors.
///
/// # Panics
/// If the result is not `Unavailable`.
pub async fn a_file(backend: &impl Connect) -> Outcome {
    let (_folder, path) = unused_path()?;
    std::fs::write(&path, "not a socket")?;
    fails_at(backend, &path, ErrorKind::Unavailable).await;
    Ok(())
}

/// Connects to a server that runs `serve` for every connection, and expects this kind of error.
///
/// # Errors
/// File system errors.
///
/// # Panics
/// If the result differs.
pub async fn meets<F, A>(
    backend: &impl Connect,
    serve: F,
    kind: ErrorKind,
) -> std::result::Result<Error, BoxError>
where
    F: Fn(UnixStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let (_folder, path) = unused_path()?;
    let listener = UnixListener::bind(&path)?;
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let error = fails_at(backend, &path, kind).await;
    server.abort();
    Ok(error)
}

/// Reads a request and responds with these bytes.
pub async fn answers(mut stream: UnixStream, answer: &[u8]) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

/// Keeps a connection open without a response.
pub async fn keeps_silent(stream: UnixStream) {
    std::future::pending::<()>().await;
    drop(stream);
}
