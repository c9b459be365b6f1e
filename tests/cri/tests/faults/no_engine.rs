//! Endpoints without an engine, or with another server.

use std::time::Duration;

use runtime_core::{Deadlines, ErrorKind, Result, async_trait};
use runtime_cri::{CriOptions, CriRuntime};
use test_support::no_engine::{self, Connect, answers, keeps_silent, meets};

use super::support::{BACKEND, Outcome, scope};

/// Connector of this backend.
struct Cri;

#[async_trait]
impl Connect for Cri {
    const BACKEND: &'static str = BACKEND;

    async fn connect(&self, host: String, within: Duration) -> Result<()> {
        let mut deadlines = Deadlines::default();
        deadlines.connect = within;
        let options = CriOptions::new(scope()).endpoint(host).deadlines(deadlines);
        CriRuntime::connect(options).await.map(drop)
    }
}

#[tokio::test]
async fn no_socket_and_one_that_nobody_listens_on() -> Outcome {
    no_engine::no_socket(&Cri).await?;
    no_engine::nobody_listens(&Cri).await
}

#[tokio::test]
async fn a_file_in_place_of_the_socket() -> Outcome {
    no_engine::a_file(&Cri).await
}

#[tokio::test]
async fn a_server_that_speaks_something_else() -> Outcome {
    for answer in [
        b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(),
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"",
    ] {
        meets(&Cri, |stream| answers(stream, answer), ErrorKind::Unavailable).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing() -> Outcome {
    meets(&Cri, keeps_silent, ErrorKind::Timeout).await?;
    Ok(())
}
