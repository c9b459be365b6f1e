//! What engines say of a process that could not be started.

use runtime_core::ExecExit;

/// Returns the exit of a process that the kernel has killed for memory before it could become the
/// command: 137, for SIGKILL. `message` is what the engine says of the start; these are the words of
/// runc, which many engines hide and report the code of its process in place of them.
#[must_use]
pub fn killed_at_start(message: &str) -> Option<ExecExit> {
    message.contains("possibly OOM-killed").then_some(ExecExit { code: 137 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_without_memory_is_a_kill() {
        let runc = "exec failed: unable to start container process: read init-p: connection reset \
                    by peer (possibly OOM-killed)";
        assert_eq!(killed_at_start(runc), Some(ExecExit { code: 137 }));
        let missing = "exec: \"no-such\": executable file not found in $PATH";
        assert_eq!(killed_at_start(missing), None);
    }
}
