//! Search for a kubelet among the processes of this host.

use std::fs;

/// Returns whether a kubelet has the engine's socket in its arguments. It may block.
pub(crate) fn uses_socket(socket: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.into_iter().any(|process| {
        let path = process.path();
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == "kubelet")
            && fs::read(path.join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(socket))
    })
}
