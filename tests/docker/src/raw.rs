//! Raw access to an engine's API without the code under test: one request per connection, HTTP/1.0.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use runtime_conformance::BoxError;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Raw client of an engine.
#[derive(Debug, Clone)]
pub struct Raw {
    host: String,
}

impl Raw {
    /// Creates a client for the engine at `host`, in the form of `DOCKER_HOST`.
    #[must_use]
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into() }
    }

    /// Sends a request without a body, and returns the status and the body.
    ///
    /// # Errors
    /// If the engine cannot be reached or its response is not HTTP.
    pub fn request(&self, method: &str, path: &str) -> Result<(u16, Vec<u8>), BoxError> {
        self.send(method, path, "", "")
    }

    /// Sends a request with additional header lines and a body.
    fn send(
        &self,
        method: &str,
        path: &str,
        head: &str,
        body: &str,
    ) -> Result<(u16, Vec<u8>), BoxError> {
        // With HTTP/1.0 the engine closes the connection after the response, so there are no chunks to
        // decode.
        let request = format!("{method} {path} HTTP/1.0\r\nHost: engine\r\n{head}\r\n{body}");
        let mut answer = Vec::new();
        if let Some(path) = self.host.strip_prefix("unix://") {
            let mut stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(request.as_bytes())?;
            stream.read_to_end(&mut answer)?;
        } else {
            let address = self.host.trim_start_matches("tcp://").trim_start_matches("http://");
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(request.as_bytes())?;
            stream.read_to_end(&mut answer)?;
        }
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no HTTP")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
        Ok((status, answer.split_off(end + 4)))
    }

    /// Returns the containers with this label in any state: names, states and ids.
    ///
    /// # Errors
    /// If the engine cannot be reached or refuses the request.
    pub fn containers(&self, label: &str) -> Result<Vec<String>, BoxError> {
        let filters = encode(&serde_json::json!({"label": [label]}).to_string());
        let path = format!("/v1.41/containers/json?all=1&filters={filters}");
        let (status, body) = self.request("GET", &path)?;
        if status != 200 {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
        }
        let listed: Vec<Value> = serde_json::from_slice(&body)?;
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        Ok(listed
            .iter()
            .map(|one| {
                format!("{} {} {}", text(&one["Names"][0]), text(&one["State"]), text(&one["Id"]))
            })
            .collect())
    }

    /// Creates a container with settings that the library does not support, and returns its id.
    ///
    /// # Errors
    /// If the engine cannot be reached or refuses the request.
    pub fn create(&self, container: &Value) -> Result<String, BoxError> {
        let body = container.to_string();
        let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let (status, answer) = self.send("POST", "/v1.41/containers/create", &head, &body)?;
        if status != 201 {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&answer)).into());
        }
        let made: Value = serde_json::from_slice(&answer)?;
        Ok(made["Id"].as_str().ok_or("no id")?.to_owned())
    }

    /// Removes an image; an image that is in use or absent is left alone.
    ///
    /// # Errors
    /// If the engine cannot be reached.
    pub fn remove_image(&self, reference: &str) -> Result<(), BoxError> {
        self.request("DELETE", &format!("/v1.41/images/{}", encode(reference))).map(drop)
    }
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
