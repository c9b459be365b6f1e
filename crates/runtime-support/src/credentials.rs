//! Registry credentials from the configuration files of Docker and Podman and their credential
//! helpers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError as Failure, DockerCredential};
use runtime_core::{ImageRef, RegistryAuth};

use self::docker_config::{BadEntry, DockerConfig, Source};

mod docker_config;

/// Credentials for a registry.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A user name and a password.
    Login(RegistryAuth),
    /// An identity token issued by the registry at login.
    IdentityToken(String),
    /// A bearer token, sent to the registry unchanged.
    RegistryToken(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Login(auth) => f.debug_tuple("Login").field(auth).finish(),
            Self::IdentityToken(_) => f.debug_tuple("IdentityToken").field(&"***").finish(),
            Self::RegistryToken(_) => f.debug_tuple("RegistryToken").field(&"***").finish(),
        }
    }
}

/// Failure of a lookup. The error never contains credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CredentialError {
    /// The configuration file exists but cannot be read or parsed.
    Config(PathBuf),
    /// `DOCKER_AUTH_CONFIG` cannot be parsed.
    Variable,
    /// The entry of this registry in the configuration file is malformed.
    Entry(PathBuf),
    /// The credential helper could not be run, failed, or returned a malformed response.
    Helper(String),
}

impl std::fmt::Display for CredentialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(path) => write!(f, "failed to read {}", path.display()),
            Self::Variable => write!(f, "failed to parse {VARIABLE_NAME}"),
            Self::Entry(path) => {
                write!(f, "malformed credentials of the registry in {}", path.display())
            }
            Self::Helper(message) => write!(f, "credential helper failed: {message}"),
        }
    }
}

impl std::error::Error for CredentialError {}

/// Environment variable with credentials that take precedence over the configuration file.
const VARIABLE_NAME: &str = "DOCKER_AUTH_CONFIG";

/// The tool whose configuration is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginsOf {
    /// The variable `DOCKER_AUTH_CONFIG`, then `config.json` in the directory `DOCKER_CONFIG`, by
    /// default `~/.docker`.
    Docker,
    /// Only the file `REGISTRY_AUTH_FILE` if set; otherwise the first of these files with
    /// credentials: `containers/auth.json` in the directory `XDG_RUNTIME_DIR` (if unset:
    /// `/run/containers/UID/auth.json`), `containers/auth.json` in `XDG_CONFIG_HOME`, by default
    /// `~/.config`, and Docker's `config.json`.
    Podman,
}

/// Returns the credentials for the registry of an image.
///
/// Credentials given by the caller are returned unchanged. Otherwise they are looked up in the
/// configuration of `tool`, including the credential helpers that it names. A helper is a program
/// that may use a key store or the network, so the lookup can take a while.
///
/// Returns `None` if there are no credentials for this registry. If the lookup fails, a warning is
/// logged and `None` is returned, as by `docker pull`, because the registry may require no
/// credentials.
pub async fn find_credential(
    image: &ImageRef,
    given: Option<RegistryAuth>,
    tool: LoginsOf,
) -> Option<Credential> {
    if let Some(auth) = given {
        return Some(Credential::Login(auth));
    }
    let variable = |name: &str| std::env::var_os(name);
    let registry = image.registry().to_owned();
    let found = match tool {
        LoginsOf::Docker => {
            let (variable, directory) = (variable(VARIABLE_NAME), docker_config_dir(&variable));
            run_on_thread(move || look_up(variable, directory.as_deref(), &registry)).await
        }
        LoginsOf::Podman => {
            let (files, repository) = (podman_files(&variable), image.name());
            run_on_thread(move || look_up_for_podman(&files, &repository, &registry)).await
        }
    };
    found.unwrap_or_else(|error| {
        tracing::warn!(%image, %error, "failed to look up registry credentials");
        None
    })
}

/// Returns the directory of Docker's configuration: `DOCKER_CONFIG`, by default `.docker` in
/// `HOME`.
///
/// An empty variable counts as unset, as in Docker's command line. If neither is set, returns
/// `None`: the current directory is not used because it may belong to another user.
#[must_use]
pub fn docker_config_dir(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("DOCKER_CONFIG").or_else(|| Some(path("HOME")?.join(".docker")))
}

/// Returns the files in which Podman looks up credentials, in order.
fn podman_files(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = path("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let runtime = path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    #[cfg(unix)]
    let runtime = runtime.or_else(|| {
        let user = rustix::process::geteuid().as_raw();
        Some(PathBuf::from(format!("/run/containers/{user}/auth.json")))
    });
    let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
    let config = config.map(|dir| dir.join("containers/auth.json"));
    let docker = docker_config_dir(variable).map(|dir| dir.join("config.json"));
    [runtime, config, docker].into_iter().flatten().collect()
}

/// Returns the credentials of a repository from the first file that has some.
fn look_up_for_podman(
    files: &[PathBuf],
    repository: &str,
    registry: &str,
) -> Result<Option<Credential>, CredentialError> {
    for path in files {
        let Some(config) = read(path)? else { continue };
        let source = config.podman_source(repository, registry);
        if let Some(credential) = credential(source, registry, path)? {
            return Ok(Some(credential));
        }
    }
    Ok(None)
}

/// Runs a lookup on a new thread, because a helper process or a slow disk may block. The executor's
/// blocking threads are not used: a program cannot exit while one of them waits for a helper that
/// hangs.
async fn run_on_thread(
    look_up: impl FnOnce() -> Result<Option<Credential>, CredentialError> + Send + 'static,
) -> Result<Option<Credential>, CredentialError> {
    let failed = |message: &str| CredentialError::Helper(message.to_owned());
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("credentials".to_owned())
        .spawn(move || {
            // The caller may have been cancelled.
            let _ = sender.send(look_up());
        })
        .map_err(|_| failed("failed to spawn a thread"))?;
    receiver.await.unwrap_or_else(|_| Err(failed("the lookup panicked")))
}

/// Returns the credentials of a registry from the environment variable, then from the configuration
/// directory.
fn look_up(
    variable: Option<OsString>,
    directory: Option<&Path>,
    registry: &str,
) -> Result<Option<Credential>, CredentialError> {
    if let Some(text) = variable.filter(|text| !text.is_empty()) {
        match DockerConfig::parse_variable(text.as_encoded_bytes())
            .and_then(|config| config.source(registry).ok())
        {
            Some(Source::Config(credential)) => return Ok(Some(credential)),
            Some(_) => {}
            // The file is read nevertheless, as by Docker's command line.
            None => {
                let error = CredentialError::Variable;
                tracing::warn!(%error, "ignoring the credentials of the environment");
            }
        }
    }
    let Some(directory) = directory else { return Ok(None) };
    let path = directory.join("config.json");
    let Some(config) = read(&path)? else { return Ok(None) };
    credential(config.source(registry), registry, &path)
}

/// Reads a configuration file. Returns `None` if the file does not exist.
fn read(path: &Path) -> Result<Option<DockerConfig>, CredentialError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(_) => return Err(CredentialError::Config(path.to_owned())),
    };
    match DockerConfig::parse(&text) {
        Some(config) => Ok(Some(config)),
        None => Err(CredentialError::Config(path.to_owned())),
    }
}

/// Gets the credentials from their source, which was found in the configuration at `path`.
fn credential(
    source: Result<Source, BadEntry>,
    registry: &str,
    path: &Path,
) -> Result<Option<Credential>, CredentialError> {
    match source {
        Ok(Source::Nothing) => Ok(None),
        Ok(Source::Config(credential)) => Ok(Some(credential)),
        Ok(Source::Helper { name, key }) => {
            convert_response(run_helper(&name, &key), registry, path)
        }
        Err(BadEntry) => Err(CredentialError::Entry(path.to_owned())),
    }
}

/// Runs the credential helper of this name.
fn run_helper(name: &str, key: &str) -> Result<DockerCredential, Failure> {
    let config = serde_json::json!({"credHelpers": {key: name}}).to_string();
    docker_credential::get_credential_from_reader(config.as_bytes(), key)
}

/// Converts the result of a lookup of one key in the configuration at `path`.
fn convert_response(
    answer: Result<DockerCredential, Failure>,
    registry: &str,
    path: &Path,
) -> Result<Option<Credential>, CredentialError> {
    let helper = |message: &str| Err(CredentialError::Helper(message.to_owned()));
    match answer {
        // The user name by which a helper marks a token.
        Ok(DockerCredential::UsernamePassword(user, token)) if user == "<token>" => {
            Ok(Some(Credential::IdentityToken(token)))
        }
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            let auth = RegistryAuth::new(user, password).server_address(registry);
            Ok(Some(Credential::Login(auth)))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::IdentityToken(token))),
        Err(Failure::NoCredentialConfigured | Failure::ConfigNotFound) => Ok(None),
        Err(Failure::ConfigReadError) => Err(CredentialError::Config(path.to_owned())),
        Err(Failure::CredentialDecodingError | Failure::CredentialMismatchError) => {
            Err(CredentialError::Entry(path.to_owned()))
        }
        // A failed helper prints its message to stdout, so the output is included. The output of a
        // successful helper, which contains the secret, never is.
        Err(Failure::HelperFailure { helper: name, stdout, .. }) => {
            if stdout.contains("credentials not found in native keychain") {
                return Ok(None);
            }
            helper(&format!("{name}: {}", stdout.trim()))
        }
        Err(Failure::HelperCommunicationError) => helper("failed to run the helper"),
        Err(Failure::MalformedHelperResponse) => helper("malformed response"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn directory(config: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        directory
    }

    fn found(directory: &Path, registry: &str) -> Result<Option<Credential>, CredentialError> {
        look_up(None, Some(directory), registry)
    }

    fn login(user: &str, password: &str, registry: &str) -> Option<Credential> {
        Some(Credential::Login(RegistryAuth::new(user, password).server_address(registry)))
    }

    #[test]
    fn credentials_are_found_under_docker_keys() {
        // "ada:hunter2", "bob:pass:word", "eve:x".
        let directory = directory(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"YWRhOmh1bnRlcjI="},
                "r.example:5000":{"auth":"Ym9iOnBhc3M6d29yZA=="},
                "https://old.example":{"auth":"ZXZlOng="},
                "token.example":{"identitytoken":"t0ken"}}}"#,
        );
        for (registry, credential) in [
            ("docker.io", login("ada", "hunter2", "docker.io")),
            ("r.example:5000", login("bob", "pass:word", "r.example:5000")),
            ("r.example", None),
            ("old.example", login("eve", "x", "old.example")),
            ("token.example", Some(Credential::IdentityToken("t0ken".to_owned()))),
        ] {
            assert_eq!(found(directory.path(), registry), Ok(credential), "{registry}");
        }
    }

    #[test]
    fn variable_takes_precedence_over_file() {
        // "ada:hunter2", "bob:x".
        let directory = directory(
            r#"{"auths":{"r.example":{"auth":"YWRhOmh1bnRlcjI="},
                         "s.example":{"auth":"YWRhOmh1bnRlcjI="}}}"#,
        );
        let variable = r#"{"auths":{"r.example":{"auth":"Ym9iOng="}}}"#;
        let found = |variable: &str, directory: Option<&Path>, registry: &str| {
            look_up(Some(variable.into()), directory, registry)
        };
        let directory = Some(directory.path());
        assert_eq!(found(variable, directory, "r.example"), Ok(login("bob", "x", "r.example")));
        assert_eq!(found(variable, None, "r.example"), Ok(login("bob", "x", "r.example")));
        assert_eq!(
            found(variable, directory, "s.example"),
            Ok(login("ada", "hunter2", "s.example"))
        );
        for unusable in ["", "{", r#"{"auths":{"r.example":{"auth":"!"}}}"#] {
            let login = login("ada", "hunter2", "r.example");
            assert_eq!(found(unusable, directory, "r.example"), Ok(login), "{unusable}");
        }
        assert_eq!(found("{", None, "r.example"), Ok(None));
    }

    #[test]
    fn podman_files_follow_podman_rules() {
        let files = |variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let files = podman_files(&variable);
            files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let named = ("REGISTRY_AUTH_FILE", "/a/auth");
        let empty = ("REGISTRY_AUTH_FILE", "");
        let (home, run) = (("HOME", "/home/ada"), ("XDG_RUNTIME_DIR", "/run/user/7"));
        assert_eq!(files(&[named, home, run]), ["/a/auth"]);
        assert_eq!(
            files(&[empty, home, run]),
            [
                "/run/user/7/containers/auth.json",
                "/home/ada/.config/containers/auth.json",
                "/home/ada/.docker/config.json"
            ]
        );
        let own = format!("/run/containers/{}/auth.json", rustix::process::geteuid().as_raw());
        let elsewhere = [("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")];
        assert_eq!(files(&elsewhere), [&own, "/c/containers/auth.json", "/d/config.json"]);
        assert_eq!(files(&[]), [own]);
    }

    #[test]
    fn first_podman_file_with_credentials_is_used() {
        // "ada:hunter2", "bob:x".
        let first = directory(
            r#"{"auths":{"r.example/team":{"auth":"YWRhOmh1bnRlcjI="},"empty.example":{}}}"#,
        );
        let second = directory(
            r#"{"auths":{"r.example":{"auth":"Ym9iOng="},"empty.example":{"auth":"Ym9iOng="}}}"#,
        );
        let files =
            [Path::new("/nowhere/auth.json"), first.path(), second.path()].map(|path| match path {
                path if path.is_dir() => path.join("config.json"),
                path => path.to_owned(),
            });
        let found = |repository: &str| {
            let registry = repository.split('/').next().unwrap();
            look_up_for_podman(&files, repository, registry)
        };
        assert_eq!(found("r.example/team/app"), Ok(login("ada", "hunter2", "r.example")));
        assert_eq!(found("r.example/teams"), Ok(login("bob", "x", "r.example")));
        assert_eq!(found("empty.example/app"), Ok(login("bob", "x", "empty.example")));
        assert_eq!(found("s.example/app"), Ok(None));
        let broken = directory("{");
        let broken = [broken.path().join("config.json"), files[2].clone()];
        assert!(look_up_for_podman(&broken, "r.example/app", "r.example").is_err());
    }

    #[test]
    fn missing_configuration_is_empty_and_malformed_is_error() {
        assert_eq!(found(Path::new("/nowhere"), "r"), Ok(None));
        assert_eq!(found(Path::new("/dev/null"), "r"), Ok(None));
        assert_eq!(found(directory("{}").path(), "r"), Ok(None));
        let broken = directory("{");
        assert!(matches!(found(broken.path(), "r"), Err(CredentialError::Config(_))));
        let garbled = directory(r#"{"auths":{"r":{"auth":"!"}}}"#);
        assert!(matches!(found(garbled.path(), "r"), Err(CredentialError::Entry(_))));
    }

    #[test]
    fn helper_that_cannot_run_returns_error() {
        let directory = directory(r#"{"credHelpers":{"r":"no-such-helper"}}"#);
        assert!(matches!(found(directory.path(), "r"), Err(CredentialError::Helper(_))));
        assert_eq!(found(directory.path(), "other"), Ok(None));
    }

    #[test]
    fn helper_response_is_converted() {
        let convert_response = |answer| convert_response(answer, "r", Path::new("/config.json"));
        let gives = |user: &str| {
            convert_response(Ok(DockerCredential::UsernamePassword(user.into(), "secret".into())))
        };
        assert_eq!(gives("ada"), Ok(login("ada", "secret", "r")));
        assert_eq!(gives("<token>"), Ok(Some(Credential::IdentityToken("secret".to_owned()))));
        let fails = |stdout: &str| {
            let (helper, stdout) = ("docker-credential-x".to_owned(), stdout.to_owned());
            convert_response(Err(Failure::HelperFailure { helper, stdout, stderr: String::new() }))
        };
        // The message of Docker's own helpers.
        assert_eq!(fails("credentials not found in native keychain\n"), Ok(None));
        let locked = "docker-credential-x: the key store is locked".to_owned();
        assert_eq!(fails("the key store is locked\n"), Err(CredentialError::Helper(locked)));
    }

    #[test]
    fn hanging_lookup_does_not_block_shutdown() {
        let (go_on, hangs) = std::sync::mpsc::channel::<()>();
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        executor.block_on(async {
            assert_eq!(run_on_thread(|| Ok(None)).await, Ok(None));
            let hanging = run_on_thread(move || {
                let _ = hangs.recv();
                Ok(None)
            });
            let late = tokio::time::timeout(Duration::from_millis(10), hanging).await;
            assert!(late.is_err());
        });
        // Dropping the executor waits for its blocking threads.
        drop(executor);
        drop(go_on);
    }

    #[test]
    fn debug_output_of_credentials_has_no_secret() {
        let login = Credential::Login(RegistryAuth::new("ada", "hunter2"));
        assert!(!format!("{login:?}").contains("hunter2"));
        assert!(!format!("{:?}", Credential::IdentityToken("t0ken".into())).contains("t0ken"));
        assert!(!format!("{:?}", Credential::RegistryToken("t0ken".into())).contains("t0ken"));
    }
}
