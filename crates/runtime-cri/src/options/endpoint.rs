//! Address of an engine, from the options, the environment or the configuration of crictl.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use runtime_core::{Error, Result};
use serde::Deserialize;

/// Environment variable of crictl that holds the endpoint.
const ENDPOINT_VARIABLE: &str = "CONTAINER_RUNTIME_ENDPOINT";
/// Environment variable of crictl that holds the path of its configuration file.
const FILE_VARIABLE: &str = "CRI_CONFIG_FILE";
/// Default path of the configuration file of crictl.
const DEFAULT_FILE: &str = "/etc/crictl.yaml";

/// Returns the endpoints at which to look for an engine, in the order in which to try them.
///
/// # Errors
/// `InvalidArgument` if the option, the variable or the configuration file is not valid.
pub(crate) fn candidates(option: Option<&str>) -> Result<Vec<Endpoint>> {
    let variable = std::env::var(ENDPOINT_VARIABLE).ok();
    let file = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty());
    let file = file.map_or_else(|| PathBuf::from(DEFAULT_FILE), PathBuf::from);
    resolve(option, variable.as_deref(), &file)
}

fn resolve(option: Option<&str>, variable: Option<&str>, file: &Path) -> Result<Vec<Endpoint>> {
    if let Some(endpoint) = option {
        return Ok(vec![Endpoint::parse(endpoint, "endpoint")?]);
    }
    if let Some(endpoint) = variable.filter(|endpoint| !endpoint.is_empty()) {
        return Ok(vec![Endpoint::parse(endpoint, ENDPOINT_VARIABLE)?]);
    }
    if let Some(endpoint) = endpoint_of_file(file)? {
        return Ok(vec![Endpoint::parse(&endpoint, &file.display().to_string())?]);
    }
    Ok(DEFAULT_SOCKETS.map(|path| Endpoint { socket: path.into() }).into())
}

/// Returns the endpoint in a configuration file of crictl, or `None` if the file does not exist.
fn endpoint_of_file(path: &Path) -> Result<Option<String>> {
    #[derive(Default, Deserialize)]
    struct Crictl {
        #[serde(rename = "runtime-endpoint")]
        runtime_endpoint: Option<String>,
    }
    let bad = |why: &str| Error::invalid(path.display().to_string(), why);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(bad("cannot be read").with_source(error)),
    };
    let file: Option<Crictl> = serde_saphyr::from_str(&text).map_err(|error| {
        bad("is not a configuration file of crictl").with_source(std::io::Error::other(error))
    })?;
    Ok(file.unwrap_or_default().runtime_endpoint.filter(|endpoint| !endpoint.is_empty()))
}

/// Default sockets of containerd and CRI-O.
const DEFAULT_SOCKETS: [&str; 2] = ["/run/containerd/containerd.sock", "/run/crio/crio.sock"];

/// Address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) socket: PathBuf,
}

impl Endpoint {
    fn parse(text: &str, field: &str) -> Result<Self> {
        let bad = |why: &str| Err(Error::invalid(field, format!("{text:?} {why}")));
        let path = match text.split_once("://") {
            Some(("unix", path)) => path,
            Some(_) => return bad("is neither unix://PATH nor the path of a socket"),
            None => text,
        };
        if !path.starts_with('/') || path.contains('\0') {
            return bad("is not an absolute path");
        }
        Ok(Self { socket: PathBuf::from(path) })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.socket.display())
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::ErrorKind;

    use super::*;

    fn without_file(option: Option<&str>, variable: Option<&str>) -> Result<Vec<Endpoint>> {
        resolve(option, variable, Path::new("/no/such/file"))
    }

    #[test]
    fn resolve_prefers_option_then_variable_then_file_then_default_sockets() {
        let named = |path: &str| vec![Endpoint { socket: path.into() }];
        for nothing in [None, Some("")] {
            let defaults = without_file(None, nothing).unwrap();
            let paths: Vec<_> = defaults.iter().map(|endpoint| &endpoint.socket).collect();
            assert_eq!(paths, DEFAULT_SOCKETS.map(Path::new));
        }
        assert_eq!(without_file(None, Some("unix:///a/b")).unwrap(), named("/a/b"));
        assert_eq!(without_file(None, Some("/a/b")).unwrap(), named("/a/b"));
        let both = without_file(Some("unix:///c"), Some("/a/b")).unwrap();
        assert_eq!(both, named("/c"));

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("crictl.yaml");
        std::fs::write(&file, "runtime-endpoint: unix:///f\ntimeout: 10\ndebug: false\n").unwrap();
        assert_eq!(resolve(None, None, &file).unwrap(), named("/f"));
        assert_eq!(resolve(None, Some("/a/b"), &file).unwrap(), named("/a/b"));
        assert_eq!(resolve(Some("/c"), None, &file).unwrap(), named("/c"));
    }

    #[test]
    fn endpoint_of_file_reads_crictl_yaml() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("crictl.yaml");
        let endpoint = |text: &str| {
            std::fs::write(&file, text).unwrap();
            endpoint_of_file(&file)
        };
        for (text, found) in [
            ("", None),
            ("# nothing\n", None),
            ("timeout: 10\n", None),
            ("runtime-endpoint: \"\"\nimage-endpoint: \"\"\n", None),
            ("runtime-endpoint:\n", None),
            ("runtime-endpoint: unix:///a\n", Some("unix:///a")),
            ("runtime-endpoint: \"/a\"\n", Some("/a")),
            ("{\"runtime-endpoint\": \"/a\", \"debug\": true}", Some("/a")),
        ] {
            assert_eq!(endpoint(text).unwrap().as_deref(), found, "{text}");
        }
        for text in ["runtime-endpoint: [", "- a\n", "runtime-endpoint: {a: b}\n"] {
            let error = endpoint(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert_eq!(error.field(), file.to_str());
        }
        std::fs::write(&file, "runtime-endpoint: tcp://h\n").unwrap();
        assert_eq!(resolve(None, None, &file).unwrap_err().field(), file.to_str());
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert_eq!(endpoint_of_file(&file).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn resolve_invalid_endpoint_names_its_origin() {
        for bad in ["tcp://127.0.0.1:1", "unix://", "unix://a", "a", "npipe:////x", "/a\0"] {
            let error = without_file(None, Some(bad)).unwrap_err();
            assert_eq!(error.field(), Some(ENDPOINT_VARIABLE), "{bad:?}");
            let error = without_file(Some(bad), None).unwrap_err();
            assert_eq!(
                (error.kind(), error.field()),
                (ErrorKind::InvalidArgument, Some("endpoint"))
            );
        }
    }
}
