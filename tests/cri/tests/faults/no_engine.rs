//! Nobody at the other end, or somebody else.

use std::path::Path;
use std::time::{Duration, Instant};

use runtime_core::{Deadlines, Error, ErrorKind};
use runtime_cri::{CriOptions, CriRuntime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::support::{Outcome, fails, scope};

async fn connect(path: &Path, within: Duration) -> Result<CriRuntime, Error> {
    let mut deadlines = Deadlines::default();
    deadlines.connect = within;
    let options = CriOptions::new(scope()).endpoint(format!("unix://{}", path.display()));
    CriRuntime::connect(options.deadlines(deadlines)).await
}

#[tokio::test]
async fn no_socket_and_one_that_nobody_listens_on() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let begun = Instant::now();
    let error = fails(connect(&path, Duration::from_secs(5)).await, ErrorKind::Unavailable, begun);
    assert!(error.is_retryable());
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    drop(UnixListener::bind(&path)?);
    let begun = Instant::now();
    fails(connect(&path, Duration::from_secs(5)).await, ErrorKind::Unavailable, begun);
    Ok(())
}

#[tokio::test]
async fn a_file_in_place_of_the_socket() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    std::fs::write(&path, "not a socket")?;
    let begun = Instant::now();
    fails(connect(&path, Duration::from_secs(5)).await, ErrorKind::Unavailable, begun);
    Ok(())
}

#[tokio::test]
async fn a_server_that_speaks_something_else() -> Outcome {
    for answer in [
        b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(),
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"",
    ] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
            }
        });
        let begun = Instant::now();
        let connected = connect(&path, Duration::from_secs(5)).await;
        let error = fails(connected, ErrorKind::Unavailable, begun);
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        server.abort();
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path)?;
    let server = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let begun = Instant::now();
    fails(connect(&path, Duration::from_secs(1)).await, ErrorKind::Timeout, begun);
    server.abort();
    Ok(())
}
