//! Endpoints without an engine, or with another server.

use std::time::{Duration, Instant};

use runtime_core::{Deadlines, ErrorKind, Result, async_trait};
use runtime_docker::{DockerOptions, DockerRuntime};
use test_support::no_engine::{self, Connect, answers, keeps_silent, meets};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::{BACKEND, Outcome, fails, scope};

/// Connector of this backend.
struct Docker;

#[async_trait]
impl Connect for Docker {
    const BACKEND: &'static str = BACKEND;

    async fn connect(&self, host: String, within: Duration) -> Result<()> {
        let mut deadlines = Deadlines::default();
        deadlines.connect = within;
        let options = DockerOptions::new(scope()).host(host).deadlines(deadlines);
        DockerRuntime::connect(options).await.map(drop)
    }
}

#[tokio::test]
async fn no_socket() -> Outcome {
    no_engine::no_socket(&Docker).await
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on() -> Outcome {
    no_engine::nobody_listens(&Docker).await
}

#[tokio::test]
async fn a_file_in_place_of_the_socket() -> Outcome {
    no_engine::a_file(&Docker).await
}

#[tokio::test]
async fn a_port_that_nobody_listens_on() -> Outcome {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let begun = Instant::now();
    let connected = Docker.connect(format!("tcp://127.0.0.1:{port}"), Duration::from_secs(5)).await;
    fails(connected, ErrorKind::Unavailable, begun);
    Ok(())
}

#[tokio::test]
async fn a_server_that_closes_at_once() -> Outcome {
    meets(&Docker, |stream| async { drop(stream) }, ErrorKind::Unavailable).await?;
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
        meets(&Docker, |stream| answers(stream, garbage), ErrorKind::Unavailable).await?;
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
        meets(&Docker, |stream| answers(stream, answer.as_bytes()), ErrorKind::Unavailable).await?;
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
    let error =
        meets(&Docker, |stream| answers(stream, answer.as_bytes()), ErrorKind::Unsupported).await;
    // The error contains the version of the engine.
    assert!(error?.to_string().contains("1.24"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_never_answers() -> Outcome {
    meets(&Docker, keeps_silent, ErrorKind::Timeout).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_never_ends_its_answer() -> Outcome {
    meets(
        &Docker,
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
