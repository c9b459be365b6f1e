//! Logins of registries from the configuration files of Docker and Podman and their credential helpers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError as Failure, DockerCredential};
use runtime_core::{ImageRef, RegistryAuth};

use self::docker_config::{BadEntry, DockerConfig, Source};

mod docker_config;

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A name and a password.
    Login(RegistryAuth),
    /// A token that the registry gave at a login.
    IdentityToken(String),
    /// A bearer token, which the registry takes as it is.
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

/// Why there is no answer to whether there is a login. It never holds one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CredentialError {
    /// The configuration file is there and cannot be read or parsed.
    Config(PathBuf),
    /// `DOCKER_AUTH_CONFIG` cannot be parsed.
    Variable,
    /// The entry of this registry in the configuration file makes no sense.
    Entry(PathBuf),
    /// The credential helper could not be run, failed, or answered what makes no sense.
    Helper(String),
}

impl std::fmt::Display for CredentialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(path) => write!(f, "{} cannot be read", path.display()),
            Self::Variable => write!(f, "{VARIABLE} cannot be parsed"),
            Self::Entry(path) => {
                write!(f, "the login of the registry in {} makes no sense", path.display())
            }
            Self::Helper(why) => write!(f, "the credential helper failed: {why}"),
        }
    }
}

impl std::error::Error for CredentialError {}

/// Variable with logins that are used before those of the configuration file.
const VARIABLE: &str = "DOCKER_AUTH_CONFIG";

/// The tool whose logins are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginsOf {
    /// The variable `DOCKER_AUTH_CONFIG`, then `config.json` in the directory `DOCKER_CONFIG` or else
    /// `~/.docker`.
    Docker,
    /// The file `REGISTRY_AUTH_FILE` alone, or else, until one has a login:
    /// `containers/auth.json` in the directory `XDG_RUNTIME_DIR` (without it:
    /// `/run/containers/UID/auth.json`), `containers/auth.json` in `XDG_CONFIG_HOME` or else
    /// `~/.config`, and Docker's `config.json`.
    Podman,
}

/// Returns the login for the registry of an image.
///
/// A login that the caller gives is returned as it is. Otherwise the login is searched for in the
/// places of a tool's command line, and with the credential helpers that are named there. A helper is
/// a program that may use a key store or the network, so this can take a while.
///
/// Returns `None` if there is no login for this registry, and also, after a warning, if a login cannot
/// be read, as `docker pull` does: the registry may require no login.
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
            let (variable, folder) = (variable(VARIABLE), docker_config_dir(&variable));
            apart(move || look_up(variable, folder.as_deref(), &registry)).await
        }
        LoginsOf::Podman => {
            let (files, repository) = (podman_files(&variable), image.name());
            apart(move || look_up_for_podman(&files, &repository, &registry)).await
        }
    };
    found.unwrap_or_else(|error| {
        tracing::warn!(%image, %error, "no login could be looked up");
        None
    })
}

/// Returns the directory of Docker's configuration: `DOCKER_CONFIG`, or else `.docker` in `HOME`.
///
/// An empty variable counts as unset, as it does for Docker's command line. Without either there
/// is none: the current directory may be another user's.
#[must_use]
pub fn docker_config_dir(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("DOCKER_CONFIG").or_else(|| Some(path("HOME")?.join(".docker")))
}

/// Returns the files in which Podman looks for logins, in this order.
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

/// Returns the login of a repository from the first of the files that has one.
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

/// Does a look-up in a thread of its own: the helper is a process that is waited for, and the file
/// may be on a slow disk. A program could not end while a thread of the executor waits for a helper
/// that hangs.
async fn apart(
    look_up: impl FnOnce() -> Result<Option<Credential>, CredentialError> + Send + 'static,
) -> Result<Option<Credential>, CredentialError> {
    let failed = |why: &str| CredentialError::Helper(why.to_owned());
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("credentials".to_owned())
        .spawn(move || {
            // Nobody may wait for it any more.
            let _ = tell.send(look_up());
        })
        .map_err(|_| failed("there is no thread for it"))?;
    told.await.unwrap_or_else(|_| Err(failed("the look-up panicked")))
}

/// Returns the login of a registry from the variable with logins, or else from the configuration
/// directory.
fn look_up(
    variable: Option<OsString>,
    folder: Option<&Path>,
    registry: &str,
) -> Result<Option<Credential>, CredentialError> {
    if let Some(text) = variable.filter(|text| !text.is_empty()) {
        match DockerConfig::parse_variable(text.as_encoded_bytes())
            .and_then(|config| config.source(registry).ok())
        {
            Some(Source::Config(credential)) => return Ok(Some(credential)),
            Some(_) => {}
            // The file is read all the same, as Docker's command line does.
            None => tracing::warn!(error = %CredentialError::Variable, "logins are ignored"),
        }
    }
    let Some(folder) = folder else { return Ok(None) };
    let path = folder.join("config.json");
    let Some(config) = read(&path)? else { return Ok(None) };
    credential(config.source(registry), registry, &path)
}

/// Reads a configuration file. `None` if there is no such file.
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

/// Gets the login from its source, which was found in the configuration at `path`.
fn credential(
    source: Result<Source, BadEntry>,
    registry: &str,
    path: &Path,
) -> Result<Option<Credential>, CredentialError> {
    match source {
        Ok(Source::Nothing) => Ok(None),
        Ok(Source::Config(credential)) => Ok(Some(credential)),
        Ok(Source::Helper { name, key }) => understand(run_helper(&name, &key), registry, path),
        Err(BadEntry) => Err(CredentialError::Entry(path.to_owned())),
    }
}

/// Runs the credential helper of this name.
fn run_helper(name: &str, key: &str) -> Result<DockerCredential, Failure> {
    let config = serde_json::json!({"credHelpers": {key: name}}).to_string();
    docker_credential::get_credential_from_reader(config.as_bytes(), key)
}

/// What the answer for one key of the configuration at `path` means.
fn understand(
    answer: Result<DockerCredential, Failure>,
    registry: &str,
    path: &Path,
) -> Result<Option<Credential>, CredentialError> {
    let helper = |why: &str| Err(CredentialError::Helper(why.to_owned()));
    match answer {
        // How a helper gives a token.
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
        // What a helper printed to its standard output may be a secret, so only that is left out
        // which it is asked to print there: the answer of a success.
        Err(Failure::HelperFailure { helper: name, stdout, .. }) => {
            if stdout.contains("credentials not found in native keychain") {
                return Ok(None);
            }
            helper(&format!("{name}: {}", stdout.trim()))
        }
        Err(Failure::HelperCommunicationError) => helper("it cannot be run"),
        Err(Failure::MalformedHelperResponse) => helper("its answer makes no sense"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn folder(config: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        folder
    }

    fn found(folder: &Path, registry: &str) -> Result<Option<Credential>, CredentialError> {
        look_up(None, Some(folder), registry)
    }

    fn login(user: &str, password: &str, registry: &str) -> Option<Credential> {
        Some(Credential::Login(RegistryAuth::new(user, password).server_address(registry)))
    }

    #[test]
    fn logins_are_found_under_the_names_that_docker_gives_them() {
        // "ada:hunter2", "bob:pass:word", "eve:x".
        let folder = folder(
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
            assert_eq!(found(folder.path(), registry), Ok(credential), "{registry}");
        }
    }

    #[test]
    fn logins_of_the_variable_are_used_before_those_of_the_file() {
        // "ada:hunter2", "bob:x".
        let folder = folder(
            r#"{"auths":{"r.example":{"auth":"YWRhOmh1bnRlcjI="},
                         "s.example":{"auth":"YWRhOmh1bnRlcjI="}}}"#,
        );
        let variable = r#"{"auths":{"r.example":{"auth":"Ym9iOng="}}}"#;
        let found = |variable: &str, folder: Option<&Path>, registry: &str| {
            look_up(Some(variable.into()), folder, registry)
        };
        let folder = Some(folder.path());
        assert_eq!(found(variable, folder, "r.example"), Ok(login("bob", "x", "r.example")));
        assert_eq!(found(variable, None, "r.example"), Ok(login("bob", "x", "r.example")));
        assert_eq!(found(variable, folder, "s.example"), Ok(login("ada", "hunter2", "s.example")));
        for unusable in ["", "{", r#"{"auths":{"r.example":{"auth":"!"}}}"#] {
            let login = login("ada", "hunter2", "r.example");
            assert_eq!(found(unusable, folder, "r.example"), Ok(login), "{unusable}");
        }
        assert_eq!(found("{", None, "r.example"), Ok(None));
    }

    #[test]
    fn files_of_podman_are_where_podman_has_them() {
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
    fn first_file_of_podman_with_a_login_is_used() {
        // "ada:hunter2", "bob:x".
        let first = folder(
            r#"{"auths":{"r.example/team":{"auth":"YWRhOmh1bnRlcjI="},"empty.example":{}}}"#,
        );
        let second = folder(
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
        let broken = folder("{");
        let broken = [broken.path().join("config.json"), files[2].clone()];
        assert!(look_up_for_podman(&broken, "r.example/app", "r.example").is_err());
    }

    #[test]
    fn no_configuration_is_no_login_and_a_broken_one_is_an_error() {
        assert_eq!(found(Path::new("/nowhere"), "r"), Ok(None));
        assert_eq!(found(Path::new("/dev/null"), "r"), Ok(None));
        assert_eq!(found(folder("{}").path(), "r"), Ok(None));
        let broken = folder("{");
        assert!(matches!(found(broken.path(), "r"), Err(CredentialError::Config(_))));
        let garbled = folder(r#"{"auths":{"r":{"auth":"!"}}}"#);
        assert!(matches!(found(garbled.path(), "r"), Err(CredentialError::Entry(_))));
    }

    #[test]
    fn a_helper_that_cannot_be_run_is_an_error() {
        let folder = folder(r#"{"credHelpers":{"r":"no-such-helper"}}"#);
        assert!(matches!(found(folder.path(), "r"), Err(CredentialError::Helper(_))));
        assert_eq!(found(folder.path(), "other"), Ok(None));
    }

    #[test]
    fn what_a_helper_answers_is_understood() {
        let understand = |answer| understand(answer, "r", Path::new("/config.json"));
        let gives = |user: &str| {
            understand(Ok(DockerCredential::UsernamePassword(user.into(), "secret".into())))
        };
        assert_eq!(gives("ada"), Ok(login("ada", "secret", "r")));
        assert_eq!(gives("<token>"), Ok(Some(Credential::IdentityToken("secret".to_owned()))));
        let fails = |stdout: &str| {
            let (helper, stdout) = ("docker-credential-x".to_owned(), stdout.to_owned());
            understand(Err(Failure::HelperFailure { helper, stdout, stderr: String::new() }))
        };
        // The words that Docker's own helpers have for it.
        assert_eq!(fails("credentials not found in native keychain\n"), Ok(None));
        let locked = "docker-credential-x: the key store is locked".to_owned();
        assert_eq!(fails("the key store is locked\n"), Err(CredentialError::Helper(locked)));
    }

    #[test]
    fn a_look_up_that_hangs_does_not_keep_the_program_from_its_end() {
        let (go_on, hangs) = std::sync::mpsc::channel::<()>();
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        executor.block_on(async {
            assert_eq!(apart(|| Ok(None)).await, Ok(None));
            let hanging = apart(move || {
                let _ = hangs.recv();
                Ok(None)
            });
            let late = tokio::time::timeout(Duration::from_millis(10), hanging).await;
            assert!(late.is_err());
        });
        // This is where a thread of the executor would be waited for.
        drop(executor);
        drop(go_on);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let login = Credential::Login(RegistryAuth::new("ada", "hunter2"));
        assert!(!format!("{login:?}").contains("hunter2"));
        assert!(!format!("{:?}", Credential::IdentityToken("t0ken".into())).contains("t0ken"));
        assert!(!format!("{:?}", Credential::RegistryToken("t0ken".into())).contains("t0ken"));
    }
}
