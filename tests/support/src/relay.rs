//! A relay in front of an engine.

use std::path::{Path, PathBuf};

use runtime_conformance::BoxError;
use tokio::net::{UnixListener, UnixStream};

/// Forwards connections to the Unix socket of an engine, as `socat` and `ssh -L` do. Returns the
/// endpoint of the relay, a socket in `directory`. The relay ends with the test's executor.
///
/// # Errors
/// If the socket cannot be created.
pub fn relay(directory: &Path, endpoint: &str) -> Result<String, BoxError> {
    let path = directory.join("relay.sock");
    let listener = UnixListener::bind(&path)?;
    let engine = PathBuf::from(endpoint.trim_start_matches("unix://"));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let engine = engine.clone();
            tokio::spawn(async move {
                let mut far = UnixStream::connect(engine).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    Ok(format!("unix://{}", path.display()))
}
