//! Selection of the engine and connection to it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use runtime_core::{Deadlines, Runtime, Scope};

use crate::cli::Global;
use crate::config::{self, Config};
use crate::style;

/// Default scope.
const SCOPE_DEFAULT: &str = "runtime";

/// Connect deadline of each engine that is tried when no backend is configured.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Backend URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackendUrl {
    /// Docker or Podman at this host, or at the default host of Docker's CLI.
    Docker(Option<String>),
    /// containerd or CRI-O at this socket, or at the default endpoints of crictl.
    Cri(Option<String>),
    /// Kubernetes with this context and namespace, or with those of the kubeconfig.
    Kubernetes {
        /// The context.
        context: Option<String>,
        /// The namespace.
        namespace: Option<String>,
    },
    /// A socket of an unknown engine.
    Socket(String),
}

impl BackendUrl {
    /// Parses the value of `--backend`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text {
                "docker" | "podman" => Ok(Self::Docker(None)),
                "cri" | "containerd" | "crio" => Ok(Self::Cri(None)),
                "k8s" | "kubernetes" => Ok(Self::Kubernetes { context: None, namespace: None }),
                path if path.starts_with('/') => Ok(Self::Socket(format!("unix://{path}"))),
                _ => bail!(
                    "{text:?} is not a backend: docker, cri, k8s, or a URL that starts with docker://, \
                     unix://, tcp://, http://, https://, cri:// or k8s://"
                ),
            };
        };
        match scheme {
            "docker" if rest.starts_with('/') => Ok(Self::Docker(Some(format!("unix://{rest}")))),
            "docker" => Ok(Self::Docker(some(rest).map(|host| format!("tcp://{host}")))),
            "tcp" | "http" | "https" => Ok(Self::Docker(Some(text.to_owned()))),
            "cri" => Ok(Self::Cri(some(rest).map(|path| format!("unix://{path}")))),
            "k8s" | "kubernetes" => {
                // A context name can contain a slash, a namespace cannot.
                let (context, namespace) = rest.rsplit_once('/').unwrap_or((rest, ""));
                Ok(Self::Kubernetes { context: some(context), namespace: some(namespace) })
            }
            "unix" => Ok(Self::Socket(text.to_owned())),
            _ => bail!("{scheme}:// is none of docker, unix, tcp, http, https, cri and k8s"),
        }
    }
}

/// Connects to the selected engine.
pub(crate) async fn connect(global: &Global) -> Result<Arc<dyn Runtime>> {
    let given = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
    let config = Config::read(given(&global.config).as_deref().map(Path::new))?;
    let scope = given(&global.scope).or_else(|| config.scope.clone());
    let scope = scope.as_deref().unwrap_or(SCOPE_DEFAULT);
    let target = Target { scope: Scope::new(scope)?, config: &config };
    match given(&global.backend).or_else(|| config.backend.clone()) {
        Some(backend) => {
            let deadlines = Deadlines::default();
            match BackendUrl::parse(&backend)? {
                BackendUrl::Socket(socket) => target.at_socket(socket, &deadlines).await,
                url => target.open(url, &deadlines).await,
            }
        }
        None => target.first_responding().await,
    }
}

struct Target<'a> {
    scope: Scope,
    #[cfg_attr(
        not(any(feature = "cri", feature = "k8s")),
        expect(dead_code, reason = "Docker has no options in the configuration file")
    )]
    config: &'a Config,
}

impl Target<'_> {
    async fn open(&self, url: BackendUrl, deadlines: &Deadlines) -> Result<Arc<dyn Runtime>> {
        match url {
            BackendUrl::Docker(host) => self.docker(host, deadlines).await,
            BackendUrl::Cri(endpoint) => self.cri(endpoint, deadlines).await,
            BackendUrl::Kubernetes { context, namespace } => {
                self.kubernetes(context, namespace, deadlines).await
            }
            BackendUrl::Socket(socket) => Box::pin(self.at_socket(socket, deadlines)).await,
        }
    }

    /// Detects the type of the engine that listens on a socket.
    async fn at_socket(&self, socket: String, deadlines: &Deadlines) -> Result<Arc<dyn Runtime>> {
        match self.docker(Some(socket.clone()), deadlines).await {
            Ok(runtime) => Ok(runtime),
            Err(docker) => match self.cri(Some(socket.clone()), deadlines).await {
                Ok(runtime) => Ok(runtime),
                Err(cri) => bail!(
                    "the engine at {socket} is neither Docker ({docker}) nor a CRI engine ({cri})"
                ),
            },
        }
    }

    async fn first_responding(&self) -> Result<Arc<dyn Runtime>> {
        let mut deadlines = Deadlines::default();
        deadlines.connect = PROBE_TIMEOUT;
        let candidates = [
            ("docker", BackendUrl::Docker(None)),
            ("cri", BackendUrl::Cri(None)),
            ("k8s", BackendUrl::Kubernetes { context: None, namespace: None }),
        ];
        let mut tried = Vec::new();
        for (name, url) in candidates {
            let opened = tokio::time::timeout(PROBE_TIMEOUT * 2, self.open(url, &deadlines));
            match opened.await {
                Ok(Ok(runtime)) => {
                    style::note(format_args!(
                        "using {name}, the first that responded (choose with --backend or \
                         RUNTIME_BACKEND)"
                    ));
                    return Ok(runtime);
                }
                Ok(Err(error)) => tried.push((name, short_message(&error))),
                Err(_) => tried.push((name, "no response in time".to_owned())),
            }
        }
        bail!(no_engine_message(&tried))
    }

    #[cfg(feature = "docker")]
    async fn docker(
        &self,
        host: Option<String>,
        deadlines: &Deadlines,
    ) -> Result<Arc<dyn Runtime>> {
        let mut options =
            runtime_docker::DockerOptions::new(self.scope.clone()).deadlines(deadlines.clone());
        options.host = host;
        Ok(Arc::new(runtime_docker::DockerRuntime::connect(options).await?))
    }

    #[cfg(not(feature = "docker"))]
    #[expect(clippy::unused_async, reason = "the same with and without the feature")]
    async fn docker(&self, _: Option<String>, _: &Deadlines) -> Result<Arc<dyn Runtime>> {
        bail!("this build is without the feature `docker`")
    }

    #[cfg(feature = "cri")]
    async fn cri(
        &self,
        endpoint: Option<String>,
        deadlines: &Deadlines,
    ) -> Result<Arc<dyn Runtime>> {
        let mut options =
            runtime_cri::CriOptions::new(self.scope.clone()).deadlines(deadlines.clone());
        options.endpoint = endpoint;
        let config = &self.config.cri;
        if let Some(directory) = &config.log_dir {
            options = options.log_dir(directory);
        }
        if let Some(directory) = &config.state_dir {
            options = options.state_dir(directory);
        }
        options.runtime_handler.clone_from(&config.runtime_handler);
        Ok(Arc::new(runtime_cri::CriRuntime::connect(options).await?))
    }

    #[cfg(not(feature = "cri"))]
    #[expect(clippy::unused_async, reason = "the same with and without the feature")]
    async fn cri(&self, _: Option<String>, _: &Deadlines) -> Result<Arc<dyn Runtime>> {
        bail!("this build is without the feature `cri`")
    }

    #[cfg(feature = "k8s")]
    async fn kubernetes(
        &self,
        context: Option<String>,
        namespace: Option<String>,
        deadlines: &Deadlines,
    ) -> Result<Arc<dyn Runtime>> {
        let config = &self.config.k8s;
        let mut options =
            runtime_k8s::KubernetesOptions::new(self.scope.clone()).deadlines(deadlines.clone());
        options.kubeconfig.clone_from(&config.kubeconfig);
        options.context = context.or_else(|| config.context.clone());
        options.namespace = namespace.or_else(|| config.namespace.clone());
        options.node.clone_from(&config.node);
        let of_node = config.node_engine.is_some() || config.node_logs.is_some();
        if of_node && config.node.is_none() {
            bail!("`node_engine` and `node_logs` in the configuration file require `node`");
        }
        #[cfg(not(feature = "cri"))]
        if of_node {
            bail!("this build is without the feature `cri`, which `node_engine` requires");
        }
        #[cfg(feature = "cri")]
        {
            options.node_engine.clone_from(&config.node_engine);
            if let Some(directory) = &config.node_logs {
                options.node_logs.clone_from(directory);
            }
        }
        options.gpu_resource.clone_from(&config.gpu_resource);
        options.cpu_shares = match config.cpu_shares {
            config::CpuShares::Refused => runtime_k8s::CpuShares::Refused,
            config::CpuShares::AsRequest => runtime_k8s::CpuShares::AsRequest,
        };
        options.stats = match config.stats {
            config::Stats::MetricsApi => runtime_k8s::StatsSource::MetricsApi,
            config::Stats::NodeProxy => runtime_k8s::StatsSource::NodeProxy,
        };
        Ok(Arc::new(runtime_k8s::KubernetesRuntime::connect(options).await?))
    }

    #[cfg(not(feature = "k8s"))]
    #[expect(clippy::unused_async, reason = "the same with and without the feature")]
    async fn kubernetes(
        &self,
        _: Option<String>,
        _: Option<String>,
        _: &Deadlines,
    ) -> Result<Arc<dyn Runtime>> {
        bail!("this build is without the feature `k8s`")
    }
}

/// Formats an error with its causes, without causes that the text contains already.
fn chain_without_repeats(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, "{}{cause}", if text.is_empty() { "" } else { ": " });
        }
        text
    })
}

/// Returns the message of a runtime error, or the whole error.
fn short_message(error: &anyhow::Error) -> String {
    let words = error.downcast_ref::<runtime_core::Error>().and_then(runtime_core::Error::message);
    words.map_or_else(|| chain_without_repeats(error), str::to_owned)
}

/// Deadline of requests that are sent on exit.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Width of the terminal screen.
const SCREEN_WIDTH: usize = 80;

/// Formats the error for a host on which no engine responds; it fits on one screen.
fn no_engine_message(tried: &[(&str, String)]) -> String {
    let mut text = "no engine responded. Tried:\n\n".to_owned();
    for (name, why) in tried {
        let name = format!("  {name:<7} ");
        let options = textwrap::Options::new(SCREEN_WIDTH)
            .initial_indent(&name)
            .subsequent_indent("          ")
            .break_words(false);
        let _ = writeln!(text, "{}", textwrap::fill(&why.replace('\n', " "), options));
    }
    text.push_str(
        "\nTo get one:\n\n\
         \x20 Docker       install docker.io (Debian) or docker-ce, start it, and be root\n\
         \x20              or in the group docker; a remote one: DOCKER_HOST=tcp://HOST:PORT\n\
         \x20 Podman       podman system service --time=0 unix:///run/podman.sock &\n\
         \x20              runtime --backend docker:///run/podman.sock ps\n\
         \x20 containerd   install containerd, runc and CNI plugins, start it, and be root;\n\
         \x20              elsewhere: CONTAINER_RUNTIME_ENDPOINT=unix:///SOCKET\n\
         \x20 Kubernetes   a kubeconfig in ~/.kube/config or KUBECONFIG\n\n\
         To choose one: --backend docker|cri|k8s|URL, RUNTIME_BACKEND,\n\
         or `backend = \"docker\"`",
    );
    if let Some(path) = config::default_path() {
        let _ = write!(text, " in {}", path.display());
    }
    text.push('.');
    text
}

/// Applies the deadline of requests that are sent on exit.
pub(crate) async fn with_shutdown_timeout<T>(work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(SHUTDOWN_TIMEOUT, work).await.context("the engine does not respond")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates() {
        let k8s = |context: &str, namespace: &str| BackendUrl::Kubernetes {
            context: Some(context.to_owned()).filter(|text| !text.is_empty()),
            namespace: Some(namespace.to_owned()).filter(|text| !text.is_empty()),
        };
        for (text, url) in [
            ("docker", BackendUrl::Docker(None)),
            ("docker://", BackendUrl::Docker(None)),
            ("docker:///run/d.sock", BackendUrl::Docker(Some("unix:///run/d.sock".into()))),
            ("docker://host:1", BackendUrl::Docker(Some("tcp://host:1".into()))),
            ("https://host:1", BackendUrl::Docker(Some("https://host:1".into()))),
            ("cri", BackendUrl::Cri(None)),
            ("cri:///run/c.sock", BackendUrl::Cri(Some("unix:///run/c.sock".into()))),
            ("unix:///run/any.sock", BackendUrl::Socket("unix:///run/any.sock".into())),
            ("/run/any.sock", BackendUrl::Socket("unix:///run/any.sock".into())),
            ("k8s", k8s("", "")),
            ("k8s://kind", k8s("kind", "")),
            ("k8s://kind/jobs", k8s("kind", "jobs")),
            ("k8s:///jobs", k8s("", "jobs")),
            ("k8s://arn:aws:eks/c/jobs", k8s("arn:aws:eks/c", "jobs")),
        ] {
            assert_eq!(BackendUrl::parse(text).unwrap(), url, "{text}");
        }
        for wrong in ["", "lxc", "ssh://host"] {
            assert!(BackendUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_engine_message_fits_on_screen() {
        let words = "the long error message of an engine that is missing ".repeat(3);
        let text = no_engine_message(&["docker", "cri", "k8s"].map(|name| (name, words.clone())));
        assert!(text.lines().count() <= 24, "{text}");
        let wraps = |line: &&str| line.len() > 80;
        // The configuration path has any length.
        assert!(text.lines().filter(wraps).count() <= 1, "{text}");
    }
}
