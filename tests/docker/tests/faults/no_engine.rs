//! Nobody at the other end, or somebody else.

use std::path::Path;
use std::time::{Duration, Instant};

use runtime_core::{Deadlines, Error, ErrorKind};
use runtime_docker::{DockerOptions, DockerRuntime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::support::{Outcome, fails, scope};

async fn connect(host: String, within: Duration) -> Result<DockerRuntime, Error> {
    let mut deadlines = Deadlines::default();
    deadlines.connect = within;
    DockerRuntime::connect(DockerOptions::new(scope()).host(host).deadlines(deadlines)).await
}

fn at(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// Connects to a server that does `serve` with every connection, and expects this kind of error.
async fn meets<F, A>(serve: F, kind: ErrorKind) -> Result<Error, runtime_conformance::BoxError>
where
    F: Fn(UnixStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path)?;
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let begun = Instant::now();
    let error = fails(connect(at(&path), Duration::from_secs(2)).await, kind, begun);
    server.abort();
    let text = format!("{error} {error:?}");
    assert!(text.contains(&*path.to_string_lossy()), "it does not say where: {text}");
    Ok(error)
}

/// Reads a request and answers it with these bytes.
async fn answers(mut stream: UnixStream, answer: &[u8]) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn no_socket() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let begun = Instant::now();
    let connected = connect(at(&path), Duration::from_secs(5)).await;
    let error = fails(connected, ErrorKind::Unavailable, begun);
    assert!(error.is_retryable());
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path)?);
    let begun = Instant::now();
    let connected = connect(at(&path), Duration::from_secs(5)).await;
    fails(connected, ErrorKind::Unavailable, begun);
    Ok(())
}

#[tokio::test]
async fn a_file_in_place_of_the_socket() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    std::fs::write(&path, "not a socket")?;
    let begun = Instant::now();
    let connected = connect(at(&path), Duration::from_secs(5)).await;
    fails(connected, ErrorKind::Unavailable, begun);
    Ok(())
}

#[tokio::test]
async fn a_port_that_nobody_listens_on() -> Outcome {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let begun = Instant::now();
    let connected = connect(format!("tcp://127.0.0.1:{port}"), Duration::from_secs(5)).await;
    fails(connected, ErrorKind::Unavailable, begun);
    Ok(())
}

#[tokio::test]
async fn a_server_that_closes_at_once() -> Outcome {
    meets(|stream| async { drop(stream) }, ErrorKind::Unavailable).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_speaks_something_else() -> Outcome {
    for garbage in [
        b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(),
        b"\0\0\x04\0\0\0\0\0\0",
        b"garbage garbage garbage\r\n\r\n",
        b"HTTP/1.1 999999 \r\n\r\n",
    ] {
        meets(|stream| answers(stream, garbage), ErrorKind::Unavailable).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_web_server_that_is_no_engine() -> Outcome {
    for answer in [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found",
        "HTTP/1.1 200 OK\r\nContent-Length: 14\r\nContent-Type: text/html\r\n\r\n<html>hi</html>",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Type: application/json\r\n\r\n{\"a\":1",
    ] {
        meets(|stream| answers(stream, answer.as_bytes()), ErrorKind::Unavailable).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_engine_that_is_too_old() -> Outcome {
    let body = r#"{"Version":"1.12.6","ApiVersion":"1.24","MinAPIVersion":"1.12","Os":"linux"}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nApi-Version: 1.24\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer: &'static str = answer.leak();
    let error = meets(|stream| answers(stream, answer.as_bytes()), ErrorKind::Unsupported).await;
    // It names what it found.
    assert!(error?.to_string().contains("1.24"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_never_answers() -> Outcome {
    meets(
        |stream| async {
            std::future::pending::<()>().await;
            drop(stream);
        },
        ErrorKind::Timeout,
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_never_ends_its_answer() -> Outcome {
    meets(
        |mut stream| async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"Version\":\"";
            let mut sent = stream.write_all(head).await;
            while sent.is_ok() {
                sent = stream.write_all(b"1").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        },
        ErrorKind::Timeout,
    )
    .await?;
    Ok(())
}
