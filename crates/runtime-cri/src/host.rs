//! This host: its files, processes, control groups and mounts.

pub(crate) mod blocking;
pub(crate) mod cgroup;
pub(crate) mod container_dirs;
pub(crate) mod directory_watcher;
pub(crate) mod exec_process;
pub(crate) mod kubelet;
pub(crate) mod log_files;
pub(crate) mod log_rotation;
pub(crate) mod marks;
pub(crate) mod peer;
pub(crate) mod private_files;
