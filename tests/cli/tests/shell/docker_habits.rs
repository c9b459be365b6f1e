//! Compatibility with Docker's CLI: options, exit codes, the order of outputs, signals.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use cli_tests::{Shell, until};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) fn short_option_h_sets_hostname(shell: &Shell<'_>) {
    for option in ["-h", "--hostname"] {
        let done = shell.run(&["run", "--rm", option, "box-7", &shell.image, "hostname"]);
        assert_eq!(done.ok(), "box-7\n", "{option}");
    }
    // A missing host name is a usage error.
    assert_eq!(shell.run(&["run", "-h"]).code, Some(125));
}

pub(crate) fn usage_error_has_exit_code_of_docker(shell: &Shell<'_>) {
    for arguments in [
        &["run", "--network", "host", &shell.image][..],
        &["create", "--network", "host", &shell.image],
        &["exec", "--network", "host", "c"],
        &["run", "-v", "/a", &shell.image],
        &["create", "-v", "/a", &shell.image],
        &["run"],
    ] {
        let done = shell.run(arguments);
        assert_eq!(done.code, Some(125), "{done:?}");
        assert!(!done.stderr.contains("'-- "), "a misleading hint: {done:?}");
        assert!(!done.stderr.is_empty(), "{done:?}");
    }
    assert!(shell.names().is_empty());
}

/// The output of [`ALTERNATING`].
const ALTERNATED: &str = "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\nout 4\nerr 4\n";

/// Writes to both streams in turn. The pauses make the order of the lines observable for an engine
/// with two pipes.
const ALTERNATING: &str =
    "for i in 1 2 3 4; do echo out $i; sleep 0.4; echo err $i >&2; sleep 0.4; done; sleep 1";

/// Runs the command with both outputs in one file, and returns its content.
fn in_one_file(shell: &Shell<'_>, arguments: &[&str]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = file.reopen().unwrap();
    let status = shell
        .command(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status()
        .unwrap();
    assert!(status.success(), "{arguments:?}: {status}");
    std::fs::read_to_string(file.path()).unwrap()
}

pub(crate) fn outputs_to_one_file_keep_order(shell: &Shell<'_>) {
    let run = ["run", "--name", "ordered", &shell.image, "sh", "-c", ALTERNATING];
    assert_eq!(in_one_file(shell, &run), ALTERNATED, "run");
    for logs in
        [&["logs", "ordered"][..], &["logs", "-f", "ordered"], &["logs", "-n", "8", "ordered"]]
    {
        assert_eq!(in_one_file(shell, logs), ALTERNATED, "{logs:?}");
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Closes its outputs and keeps running.
const CLOSED_OUTPUTS: &str =
    "trap 'exit 4' TERM; echo ready; exec >&- 2>&-; while :; do sleep 0.05; done";

/// Starts a command whose process closes its outputs after its first line.
fn silent(shell: &Shell<'_>, arguments: &[&str]) -> Child {
    let mut child = shell.start(arguments);
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    child
}

pub(crate) fn signals_are_forwarded_after_outputs_are_closed(shell: &Shell<'_>) {
    shell.idle("silent");
    let arguments = ["exec", "silent", "sh", "-c", CLOSED_OUTPUTS];
    let mut child = silent(shell, &arguments);
    send(&child, Signal::TERM);
    let code = child.wait().unwrap().code();
    let passed_on = shell.engine.capabilities().exec_signal;
    assert_eq!(code, Some(if passed_on { 4 } else { 143 }), "exec");

    let mut child = silent(shell, &["run", "--rm", &shell.image, "sh", "-c", CLOSED_OUTPUTS]);
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(4), "run");
    assert_eq!(shell.names(), ["silent"]);
}

pub(crate) fn signal_ends_attach_after_outputs_are_closed(shell: &Shell<'_>) {
    let script = "read line; trap 'exit 4' TERM; echo ready; exec >&- 2>&-; \
                  while :; do sleep 0.05; done";
    let run = ["run", "-d", "-i", "--name", "attached", &shell.image, "sh", "-c", script];
    let _ = shell.run(&run).ok();
    until("the start", || {
        shell.run(&["inspect", "-f", "{{.Status}}", "attached"]).ok() == "running\n"
    });
    let mut child = shell.start(&["attach", "attached"]);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

pub(crate) fn start_of_exited_container_is_refused(shell: &Shell<'_>) {
    let _ = shell.run(&["run", "--name", "ended", &shell.image, "echo", "once"]).ok();
    let done = shell.run(&["start", "-a", "ended"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(125), ""), "{done:?}");
    assert!(done.stderr.contains("runs once"), "{done:?}");
}

pub(crate) fn unset_variable_is_removed(shell: &Shell<'_>) {
    let without = |arguments: &[&str]| {
        let output = shell.command(arguments).env_remove("PATH").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let show = ["/bin/cat", "/proc/self/environ"];
    let run = ["run", "--rm", "-e", "PATH", "-e", "MINE=1", &shell.image];
    let text = without(&[&run[..], &show].concat());
    assert!(!text.contains("PATH=") && text.contains("MINE=1\0"), "{text}");
    shell.idle("unset");
    let exec = ["exec", "-e", "PATH", "-e", "MINE=1", "unset"];
    let text = without(&[&exec[..], &show].concat());
    assert!(!text.contains("PATH=") && text.contains("MINE=1\0"), "{text}");
    // A variable that is set in this environment is passed on.
    let run = ["run", "--rm", "-e", "RUNTIME_SCOPE", &shell.image];
    let text = shell.run(&[&run[..], &show].concat()).ok();
    assert!(text.contains("RUNTIME_SCOPE=cli-"), "{text}");
}

pub(crate) fn refused_exec_option_names_image_tools(shell: &Shell<'_>) {
    let can = shell.engine.capabilities();
    shell.idle("tools");
    for (option, value, has) in [("-e", "A=1", can.exec_env), ("-w", "/tmp", can.exec_working_dir)]
    {
        let done = shell.run(&["exec", option, value, "tools", "true"]);
        if has {
            assert_eq!(done.code, Some(0), "{done:?}");
            continue;
        }
        assert_eq!(done.code, Some(125), "{done:?}");
        assert!(done.stderr.contains("--image-tools"), "{done:?}");
        let helped = shell.run(&["exec", "--image-tools", option, value, "tools", "true"]);
        assert_eq!(helped.code, Some(0), "{helped:?}");
    }
}

/// Returns the number of words of the longest part that occurs twice in a text.
fn repeated(text: &str) -> usize {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut longest = 0;
    for first in 0..words.len() {
        for second in first + 1..words.len() {
            let pairs = words[first..].iter().zip(&words[second..]);
            longest = longest.max(pairs.take_while(|(one, two)| one == two).count());
        }
    }
    longest
}

pub(crate) fn start_failure_is_printed_once(shell: &Shell<'_>) {
    for command in ["no-such-command", "/etc"] {
        let done = shell.run(&["run", "--rm", &shell.image, command]);
        assert!(done.stderr.contains(command), "{done:?}");
        assert!(repeated(&done.stderr) < 5, "{}", done.stderr);
    }
}

pub(crate) fn kill_accepts_real_time_signal_names(shell: &Shell<'_>) {
    let script = "trap 'exit 7' RTMIN+3 2>/dev/null || trap 'exit 7' 37; echo ready; \
                  while :; do sleep 0.05; done";
    let run = ["run", "-d", "--name", "real-time", &shell.image, "sh", "-c", script];
    let _ = shell.run(&run).ok();
    until("the trap", || shell.run(&["logs", "real-time"]).ok() == "ready\n");
    let _ = shell.run(&["kill", "-s", "SIGRTMIN+3", "real-time"]).ok();
    assert_eq!(shell.run(&["wait", "real-time"]).ok(), "7\n");
    let error = shell.run(&["kill", "-s", "SIGRTMIN+31", "real-time"]);
    assert!(error.code == Some(1) && error.stderr.contains("SIGRTMIN+31"), "{error:?}");
}

pub(crate) fn stop_sends_configured_real_time_signal(shell: &Shell<'_>) {
    let script = "trap 'exit 7' 37; echo ready; while :; do sleep 0.05; done";
    let options = ["--stop-signal", "SIGRTMIN+3", "--name", "real-time-stop"];
    let command = [&["run", "-d"], &options[..], &[&shell.image, "sh", "-c", script]].concat();
    let _ = shell.run(&command).ok();
    until("the trap", || shell.run(&["logs", "real-time-stop"]).ok() == "ready\n");
    let _ = shell.run(&["stop", "real-time-stop"]).ok();
    assert_eq!(shell.run(&["wait", "real-time-stop"]).ok(), "7\n");
}

/// The command alone, without an engine.
pub(crate) fn help_has_only_long_option_if_h_is_hostname(shell: &Shell<'_>) {
    for command in ["run", "create"] {
        let help = shell.run(&[command, "--help"]).ok();
        assert!(help.contains("-h, --hostname"), "{help}");
    }
    let short = Command::new(shell.program()).args(["exec", "-h"]).output().unwrap();
    assert!(short.status.success(), "{short:?}");
}
