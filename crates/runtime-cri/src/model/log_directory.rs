//! Directory of the log files of a container.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::PathBuf;

/// Name of the current log file of a container of this library.
pub(crate) const LOG_FILE: &str = "container.log";

/// Directory in which a kubelet creates the log directories of its pods.
pub(crate) const KUBELET_LOG_ROOT: &str = "/var/log/pods";

/// Directory of the log files of a container, and the name of the current file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogDirectory {
    pub(crate) path: PathBuf,
    /// Name of the current file. The names of rotated files have a suffix after it.
    file: Cow<'static, str>,
}

impl LogDirectory {
    /// Returns the directory of a container that this library created.
    pub(crate) fn managed(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: Cow::Borrowed(LOG_FILE) }
    }

    /// Returns the directory of a container of a kubelet, which rotates the files itself.
    pub(crate) fn kubelet(path: impl Into<PathBuf>, file: &str) -> Self {
        Self { path: path.into(), file: Cow::Owned(file.to_owned()) }
    }

    /// Returns the name of the current file.
    pub(crate) fn file_name(&self) -> &str {
        &self.file
    }

    /// Returns the path of the current file.
    pub(crate) fn current(&self) -> PathBuf {
        self.path.join(&*self.file)
    }

    /// Returns whether `name` is the name of the current file.
    pub(crate) fn is_current(&self, name: &OsStr) -> bool {
        name == OsStr::new(&*self.file)
    }

    /// Returns whether this library alone removes rotated files. A kubelet compresses all rotated
    /// files except for the newest.
    pub(crate) fn keeps_all(&self) -> bool {
        self.file == LOG_FILE
    }
}
