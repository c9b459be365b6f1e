//! Nobody at the other end, or somebody else.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtime_conformance::BoxError;
use runtime_core::{Error, ErrorKind, Result, async_trait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::{Outcome, fails};

/// How a backend connects.
#[async_trait]
pub trait Connect: Sync {
    /// What errors call the backend.
    const BACKEND: &'static str;

    /// Connects to a host, in the form of `unix:///path`, within a time.
    ///
    /// # Errors
    /// Those that are asked for here.
    async fn connect(&self, host: String, within: Duration) -> Result<()>;
}

/// Long enough for who is told at once, and to be waited for by who is told nothing.
const WITHIN: Duration = Duration::from_secs(2);

async fn fails_at<C: Connect>(backend: &C, path: &Path, kind: ErrorKind) -> Error {
    let begun = Instant::now();
    let connected = backend.connect(format!("unix://{}", path.display()), WITHIN).await;
    let error = fails(C::BACKEND, connected, kind, begun);
    let says_where = error.to_string().contains(&*path.to_string_lossy());
    assert!(says_where, "it does not say where: {error}");
    error
}

/// A folder, and a path in it where nothing is yet.
fn place() -> std::result::Result<(tempfile::TempDir, PathBuf), BoxError> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    Ok((folder, path))
}

/// Nothing is there: trying again may help.
///
/// # Errors
/// Those of the file system.
///
/// # Panics
/// When something else comes of it.
pub async fn no_socket(backend: &impl Connect) -> Outcome {
    let (_folder, path) = place()?;
    let error = fails_at(backend, &path, ErrorKind::Unavailable).await;
    assert!(error.is_retryable());
    Ok(())
}

/// A socket is there that nobody listens on.
///
/// # Errors
/// Those of the file system.
///
/// # Panics
/// When something else comes of it than `Unavailable`.
pub async fn nobody_listens(backend: &impl Connect) -> Outcome {
    let (_folder, path) = place()?;
    drop(UnixListener::bind(&path)?);
    fails_at(backend, &path, ErrorKind::Unavailable).await;
    Ok(())
}

/// A file is there in place of the socket.
///
/// # Errors
/// Those of the file system.
///
/// # Panics
/// When something else comes of it than `Unavailable`.
pub async fn a_file(backend: &impl Connect) -> Outcome {
    let (_folder, path) = place()?;
    std::fs::write(&path, "not a socket")?;
    fails_at(backend, &path, ErrorKind::Unavailable).await;
    Ok(())
}

/// Connects to a server that does `serve` with every connection, and expects this kind of error.
///
/// # Errors
/// Those of the file system.
///
/// # Panics
/// When something else comes of it.
pub async fn meets<F, A>(
    backend: &impl Connect,
    serve: F,
    kind: ErrorKind,
) -> std::result::Result<Error, BoxError>
where
    F: Fn(UnixStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let (_folder, path) = place()?;
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

/// Reads a request and answers it with these bytes.
pub async fn answers(mut stream: UnixStream, answer: &[u8]) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

/// Keeps a connection and says nothing.
pub async fn keeps_silent(stream: UnixStream) {
    std::future::pending::<()>().await;
    drop(stream);
}
