//! Failed starts of processes.

use runtime_core::ExecExit;

/// Returns the exit of a process that was OOM-killed before it could execute the command: 137, for
/// SIGKILL. `message` is the engine's message about the start. The text is that of runc; many
/// engines hide it and report the exit code of the runc process instead.
#[must_use]
pub fn killed_at_start(message: &str) -> Option<ExecExit> {
    message.contains("possibly OOM-killed").then_some(ExecExit { code: 137 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killed_at_start_with_oom_message_returns_137() {
        let runc = "exec failed: unable to start container process: read init-p: connection reset \
                    by peer (possibly OOM-killed)";
        assert_eq!(killed_at_start(runc), Some(ExecExit { code: 137 }));
        let missing = "exec: \"no-such\": executable file not found in $PATH";
        assert_eq!(killed_at_start(missing), None);
    }
}
