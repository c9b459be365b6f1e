//! The parts of the process and its host that a configuration is read from.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The directory of the service account that a pod runs with.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The variables of a process, and the files that have a fixed place.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    variables: HashMap<OsString, OsString>,
    service_account: PathBuf,
}

impl Environment {
    /// Returns the environment of this process.
    pub(crate) fn current() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            service_account: PathBuf::from(SERVICE_ACCOUNT),
        }
    }

    /// Returns a variable that is set and not empty.
    pub(crate) fn os(&self, name: &str) -> Option<&OsString> {
        self.variables.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty())
    }

    /// Returns a variable that is set, not empty and UTF-8.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.os(name)?.to_str()
    }

    /// Returns the first of some variables that is set and not empty.
    pub(crate) fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.text(name))
    }

    /// Returns the home directory.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.os("HOME").map(PathBuf::from).or_else(std::env::home_dir)
    }

    /// Returns the directory of the service account.
    pub(crate) fn service_account(&self) -> &Path {
        &self.service_account
    }
}

#[cfg(test)]
impl Environment {
    /// Returns an environment with these variables alone.
    pub(crate) fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let variables =
            variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, service_account: PathBuf::from("/nonexistent") }
    }

    /// Sets the directory of the service account.
    pub(crate) fn with_service_account(mut self, directory: impl Into<PathBuf>) -> Self {
        self.service_account = directory.into();
        self
    }
}
