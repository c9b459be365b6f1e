//! The engine of the environment: the variables that `cargo xtask env up` prints.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use runtime_core::Capabilities;
use serde_json::{Value, json};
use test_support::environment::{self, variable};

use crate::shell::binary;

/// An engine, and the options that select it.
#[derive(Debug)]
pub struct Engine {
    /// The backend name in the CLI's output: `docker`, `cri`, `kubernetes`.
    pub backend: &'static str,
    /// The backend name in `--backend`.
    pub word: &'static str,
    /// The engine as a URL for `--backend`.
    pub url: String,
    /// Other URLs of the same engine.
    pub other_urls: Vec<String>,
    /// Environment variables with which the CLI finds the engine by default.
    pub usual: Vec<(&'static str, String)>,
    /// An image with a shell.
    pub image: String,
    /// Directory with the CLI's configuration, without `backend`, and a login.
    directory: tempfile::TempDir,
    capabilities: OnceLock<Capabilities>,
}

impl Engine {
    /// Returns the engine of the environment.
    ///
    /// # Errors
    /// If a variable is missing: a test that needs an engine fails without one.
    pub fn of_environment() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let nowhere =
            |name: &str| format!("unix://{}", directory.path().join(name).to_string_lossy());
        let name = environment::engine()?;
        let mut config = String::new();
        let mut engine = if name.starts_with("containerd") {
            let endpoint = variable("RUNTIME_TEST_CRI_ENDPOINT")?;
            let shared = environment::shared_dir()?;
            config = format!(
                "[cri]\nlog_dir = {:?}\nstate_dir = {:?}\n",
                shared.join(format!("{name}-logs")),
                shared.join(format!("{name}-state"))
            );
            let path = endpoint.trim_start_matches("unix://").to_owned();
            Self {
                backend: "cri",
                word: "cri",
                url: format!("cri://{path}"),
                other_urls: vec![format!("unix://{path}"), path],
                usual: vec![
                    ("DOCKER_HOST", nowhere("docker.sock")),
                    ("CONTAINER_RUNTIME_ENDPOINT", endpoint),
                ],
                image: String::new(),
                directory,
                capabilities: OnceLock::new(),
            }
        } else if name.starts_with("kubernetes") {
            let kubeconfig = variable("RUNTIME_TEST_KUBECONFIG_STATS")?;
            let namespace = variable("RUNTIME_TEST_NAMESPACE")?;
            config = format!(
                "[k8s]\nkubeconfig = {kubeconfig:?}\nnamespace = {namespace:?}\n\
                 stats = \"node-proxy\"\n"
            );
            let context = context(Path::new(&kubeconfig))?;
            Self {
                backend: "kubernetes",
                word: "k8s",
                url: format!("k8s:///{namespace}"),
                other_urls: vec![
                    "k8s".to_owned(),
                    format!("k8s://{context}"),
                    format!("k8s://{context}/{namespace}"),
                ],
                usual: vec![
                    ("DOCKER_HOST", nowhere("docker.sock")),
                    ("CONTAINER_RUNTIME_ENDPOINT", nowhere("cri.sock")),
                    ("KUBECONFIG", kubeconfig),
                ],
                image: String::new(),
                directory,
                capabilities: OnceLock::new(),
            }
        } else {
            let host = variable("RUNTIME_TEST_DOCKER_HOST")?;
            let path = host.trim_start_matches("unix://").to_owned();
            Self {
                backend: "docker",
                word: "docker",
                url: host.clone(),
                other_urls: vec![format!("docker://{path}"), path],
                usual: vec![("DOCKER_HOST", host)],
                image: String::new(),
                directory,
                capabilities: OnceLock::new(),
            }
        };
        let registry = environment::registry()?;
        engine.image = format!("{}/test/busybox:1", registry.address);
        let auth = base64(&format!("{}:{}", registry.username, registry.password));
        let login = json!({ "auths": { registry.address: { "auth": auth } } }).to_string();
        let write = |name: &str, text: &str| {
            std::fs::write(engine.directory.path().join(name), text)
                .map_err(|error| error.to_string())
        };
        write("config.json", &login)?;
        write("config.toml", &config)?;
        Ok(engine)
    }

    /// Returns the configuration file, which does not select the engine.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    /// Returns the directory with the login.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the engine's capabilities, as reported by the CLI.
    ///
    /// # Panics
    /// If the CLI does not report them.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.capabilities.get_or_init(|| {
            let output = Command::new(binary())
                .args(["info", "--format", "json"])
                .env("RUNTIME_BACKEND", &self.url)
                .env("RUNTIME_CONFIG", self.config())
                .output()
                .expect("the command can be run");
            let text = String::from_utf8_lossy(&output.stdout);
            let info: Value = serde_json::from_str(text.trim())
                .unwrap_or_else(|error| panic!("{error} in {output:?}"));
            serde_json::from_value(info["capabilities"].clone()).expect("capabilities")
        })
    }
}

/// Returns the context of a kubeconfig.
fn context(kubeconfig: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(kubeconfig).map_err(|error| error.to_string())?;
    let found = match serde_json::from_str::<Value>(&text) {
        Ok(json) => json["current-context"].as_str().map(str::to_owned),
        Err(_) => text
            .lines()
            .find_map(|line| line.strip_prefix("current-context:"))
            .map(|name| name.trim().trim_matches('"').to_owned()),
    };
    found.ok_or_else(|| format!("{} has no context", kubeconfig.display()))
}

/// Encodes base64; a dependency for one use is not worthwhile.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for part in text.as_bytes().chunks(3) {
        let bits = part.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - part.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            encoded.push(if at <= part.len() { char::from(digit) } else { '=' });
        }
    }
    encoded
}
