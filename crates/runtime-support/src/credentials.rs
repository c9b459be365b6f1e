//! Logins of registries from Docker's configuration file and its credential helpers.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError as Failure, DockerCredential};
use runtime_core::RegistryAuth;

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A name and a password.
    Login(RegistryAuth),
    /// A token that the registry gave at a login.
    IdentityToken(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Login(auth) => f.debug_tuple("Login").field(auth).finish(),
            Self::IdentityToken(_) => f.debug_tuple("IdentityToken").field(&"***").finish(),
        }
    }
}

/// Why there is no answer to whether there is a login. It never holds one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialError {
    /// The configuration file is there and cannot be read or understood.
    Config(PathBuf),
    /// The entry of this registry in the configuration file makes no sense.
    Entry(PathBuf),
    /// The credential helper could not be run, failed, or answered what makes no sense.
    Helper(String),
}

impl std::fmt::Display for CredentialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(path) => write!(f, "{} cannot be read", path.display()),
            Self::Entry(path) => {
                write!(f, "the login of the registry in {} makes no sense", path.display())
            }
            Self::Helper(why) => write!(f, "the credential helper failed: {why}"),
        }
    }
}

impl std::error::Error for CredentialError {}

/// Under this name Docker keeps the login of `docker.io`.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Looks up the login of a registry, as [`ImageRef::registry`](runtime_core::ImageRef) names it,
/// where Docker's command line does: in `config.json` of the folder `DOCKER_CONFIG`, or else of
/// `~/.docker`, and in the credential helpers that it names. A helper is a program that may ask
/// a key store or the network, so this can take a while.
///
/// `None` when there is no configuration, or no login of this registry in it.
///
/// # Errors
/// When there may be one and it could not be read.
pub async fn find_credential(registry: &str) -> Result<Option<Credential>, CredentialError> {
    let folder = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
    let Some(folder) = folder else { return Ok(None) };
    let registry = registry.to_owned();
    // The helper is a process that is waited for, and the file may be on a slow disk.
    tokio::task::spawn_blocking(move || look_up(&folder, &registry))
        .await
        .unwrap_or_else(|_| Err(CredentialError::Helper("the look-up panicked".to_owned())))
}

fn look_up(folder: &Path, registry: &str) -> Result<Option<Credential>, CredentialError> {
    let path = folder.join("config.json");
    // Docker's command line writes the key without a scheme; older ones wrote it with one.
    let keys = if registry == "docker.io" {
        vec![DOCKER_HUB_KEY.to_owned(), "docker.io".to_owned()]
    } else {
        vec![registry.to_owned(), format!("https://{registry}"), format!("http://{registry}")]
    };
    let mut found = Ok(None);
    for key in keys {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(_) => return Err(CredentialError::Config(path)),
        };
        found = match docker_credential::get_credential_from_reader(BufReader::new(file), &key) {
            Ok(DockerCredential::UsernamePassword(user, password))
                // How a helper gives a token.
                if user == "<token>" =>
            {
                return Ok(Some(Credential::IdentityToken(password)));
            }
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                let auth = RegistryAuth::new(user, password).server_address(registry);
                return Ok(Some(Credential::Login(auth)));
            }
            Ok(DockerCredential::IdentityToken(token)) => {
                return Ok(Some(Credential::IdentityToken(token)));
            }
            Err(Failure::NoCredentialConfigured | Failure::ConfigNotFound) => Ok(None),
            Err(Failure::ConfigReadError) => return Err(CredentialError::Config(path)),
            Err(Failure::CredentialDecodingError | Failure::CredentialMismatchError) => {
                return Err(CredentialError::Entry(path));
            }
            Err(Failure::HelperFailure { stdout, .. })
                if stdout.contains("credentials not found in native keychain") =>
            {
                Ok(None)
            }
            // What a helper printed to its standard output may be a secret, so only that is left
            // out which it is asked to print there: the answer of a success.
            Err(Failure::HelperFailure { helper, stdout, .. }) => {
                Err(CredentialError::Helper(format!("{helper}: {}", stdout.trim())))
            }
            Err(Failure::HelperCommunicationError) => {
                Err(CredentialError::Helper("it cannot be run".to_owned()))
            }
            Err(Failure::MalformedHelperResponse) => {
                Err(CredentialError::Helper("its answer makes no sense".to_owned()))
            }
        };
        if found.is_err() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(config: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        folder
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
            assert_eq!(look_up(folder.path(), registry), Ok(credential), "{registry}");
        }
    }

    #[test]
    fn no_configuration_is_no_login_and_a_broken_one_is_an_error() {
        assert_eq!(look_up(Path::new("/nowhere"), "r"), Ok(None));
        assert_eq!(look_up(Path::new("/dev/null"), "r"), Ok(None));
        assert_eq!(look_up(folder("{}").path(), "r"), Ok(None));
        let broken = folder("{");
        assert!(matches!(look_up(broken.path(), "r"), Err(CredentialError::Config(_))));
        let garbled = folder(r#"{"auths":{"r":{"auth":"!"}}}"#);
        assert!(matches!(look_up(garbled.path(), "r"), Err(CredentialError::Entry(_))));
    }

    #[test]
    fn a_helper_that_cannot_be_run_is_an_error() {
        let folder = folder(r#"{"credHelpers":{"r":"no-such-helper"}}"#);
        assert!(matches!(look_up(folder.path(), "r"), Err(CredentialError::Helper(_))));
        assert_eq!(look_up(folder.path(), "other"), Ok(None));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let login = Credential::Login(RegistryAuth::new("ada", "hunter2"));
        assert!(!format!("{login:?}").contains("hunter2"));
        assert!(!format!("{:?}", Credential::IdentityToken("t0ken".into())).contains("t0ken"));
    }
}
