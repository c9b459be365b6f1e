//! Running a program: its exit code, its pipes, its signals.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use cli_tests::{Shell, until};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) fn run_returns_exit_code_of_program(shell: &Shell<'_>) {
    let done = shell.run(&["run", "--rm", &shell.image, "sh", "-c", "echo out; exit 42"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(42), "out\n"), "{done:?}");
    // The first process of a container cannot kill itself: its shell continues.
    let killed = "sh -c 'kill -9 $$'; exit $?";
    for (script, code) in [("kill -9 $$", 0), (killed, 137), ("exit 137", 137)] {
        let done = shell.run(&["run", "--rm", &shell.image, "sh", "-c", script]);
        assert_eq!(done.code, Some(code), "{script}: {done:?}");
    }
    assert!(shell.names().is_empty());
}

pub(crate) fn run_separates_outputs(shell: &Shell<'_>) {
    let script = "echo out; echo err >&2";
    let done = shell.run(&["run", "--rm", &shell.image, "sh", "-c", script]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
}

pub(crate) fn run_of_invalid_command_returns_shell_exit_code(shell: &Shell<'_>) {
    // Arguments after the image belong to the command, even if they are options of `run`.
    for (command, code) in [("no-such-command", 127), ("--help", 127), ("/etc", 126)] {
        let done = shell.run(&["run", "--rm", &shell.image, command]);
        assert_eq!(done.code, Some(code), "{done:?}");
    }
    let no_image = shell.run(&["run", "--rm", "--pull", "never", "localhost/none:1"]);
    assert_eq!(no_image.code, Some(125));
    assert!(no_image.stderr.contains("image"), "{no_image:?}");
    assert!(shell.names().is_empty());
}

/// A missing image, and a container that fits no node.
pub(crate) fn pending_start_prints_reason(shell: &Shell<'_>) {
    let missing = format!("{}:no-such-tag", shell.image.strip_suffix(":1").unwrap());
    for (name, options, image, reason) in [
        ("huge", &["--cpus", "1000"][..], &shell.image, "no node accepts it"),
        ("missing", &[][..], &missing, "no-such-tag"),
    ] {
        let arguments = [&["run", "--name", name], options, &[image.as_str(), "true"]].concat();
        let mut child = shell.start(&arguments);
        let mut printed = BufReader::new(child.stderr.take().unwrap()).lines();
        let words = format!("{name} is waiting to run: ");
        let line = printed.find_map(|line| line.ok().filter(|line| line.contains(&words)));
        let line = line.unwrap_or_else(|| panic!("{name}: no reason is printed"));
        assert!(line.contains(reason), "{line}");
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(143));
        let _ = shell.run(&["rm", "-f", name]).ok();
    }
}

pub(crate) fn pipes_carry_input_and_output(shell: &Shell<'_>) {
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n as u8).to_le_bytes()).collect();
    shell.idle("piped");
    for arguments in
        [&["run", "--rm", "-i", &shell.image, "md5sum"][..], &["exec", "-i", "piped", "md5sum"]]
    {
        let wanted = {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("input");
            std::fs::write(&path, &input).unwrap();
            let output = Command::new("md5sum").arg(path).output().unwrap();
            String::from_utf8(output.stdout).unwrap()[..32].to_owned()
        };
        assert_eq!(shell.run_with(arguments, &input).ok()[..32], wanted, "{arguments:?}");
    }
    let echoed = shell.run_with(&["exec", "-i", "piped", "cat"], b"\0\xff\r\n");
    assert_eq!(echoed.ok().as_bytes(), "\0\u{fffd}\r\n".as_bytes());
    // Without -i stdin is not read.
    assert_eq!(shell.run_with(&["exec", "piped", "cat"], b"unread").ok(), "");
}

pub(crate) fn output_before_attach_is_complete(shell: &Shell<'_>) {
    // The lines are written before the attach, if an engine attaches only to running containers.
    let script = "seq 1000; cat; echo end";
    let done = shell.run_with(&["run", "--rm", "-i", &shell.image, "sh", "-c", script], b"in\n");
    let mut wanted: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    wanted.push_str("in\nend\n");
    assert_eq!(done.ok(), wanted);
    // A process that does not wait for an attach, but outlives its output, for engines without
    // `logs_at_exit`.
    let script = "seq 20000; sleep 0.2; seq 20000; sleep 4";
    let done = shell.run(&["run", "--rm", "-i", &shell.image, "sh", "-c", script]);
    let half: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(done.ok(), format!("{half}{half}"));
}

pub(crate) fn closed_stdout_ends_command_silently(shell: &Shell<'_>) {
    shell.idle("left");
    for arguments in
        [&["exec", "left", "yes"][..], &["run", "--rm", "--name", "yes", &shell.image, "yes"]]
    {
        leave(shell, arguments);
    }
    assert_eq!(shell.names(), ["left"]);
}

/// Runs the command and closes its stdout after the first bytes.
fn leave(shell: &Shell<'_>, arguments: &[&str]) {
    let mut child = shell.start(arguments);
    let mut first = [0; 4];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let done = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(141), "{arguments:?}");
    assert!(!printed.contains("roken pipe"), "{arguments:?}: {printed}");
}

pub(crate) fn closed_stdout_ends_exec(shell: &Shell<'_>) {
    shell.idle("unread");
    leave(shell, &["exec", "unread", "yes"]);
    until("the end of the process", || {
        let processes = shell.run(&["exec", "unread", "ps", "-o", "args"]).ok();
        !processes.lines().any(|line| line.trim() == "yes")
    });
}

pub(crate) fn signals_are_forwarded_to_process(shell: &Shell<'_>) {
    let script = "trap 'echo int; exit 3' INT; trap 'echo term; exit 4' TERM; echo ready; \
                  while :; do sleep 0.05; done";
    shell.idle("reached");
    for (arguments, after) in [
        (vec!["run", "--rm", &shell.image, "sh", "-c", script], "run"),
        (vec!["exec", "reached", "sh", "-c", script], "exec"),
    ] {
        for (signal, word, code) in [(Signal::INT, "int\n", 3), (Signal::TERM, "term\n", 4)] {
            let mut child = shell.start(&arguments);
            let mut stdout = child.stdout.take().unwrap();
            let mut ready = [0; 6];
            stdout.read_exact(&mut ready).unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            kill_process(pid, signal).unwrap();
            let mut rest = String::new();
            stdout.read_to_string(&mut rest).unwrap();
            assert_eq!(
                (rest.as_str(), child.wait().unwrap().code()),
                (word, Some(code)),
                "{after}"
            );
        }
    }
    assert_eq!(shell.names(), ["reached"]);
}

pub(crate) fn signal_without_kill_stops_container(shell: &Shell<'_>) {
    let script = "trap 'echo term; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = shell.start(&["run", "--rm", &shell.image, "sh", "-c", script]);
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("term\n", Some(4)));
    assert!(shell.names().is_empty());
}

pub(crate) fn ignored_hangup_does_not_end_command(shell: &Shell<'_>) {
    let script = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    // Like `nohup`.
    let mut child = Command::new("env")
        .arg("--ignore-signal=HUP")
        .arg(shell.program())
        .args(["run", "--rm", &shell.image, "sh", "-c", script])
        .envs(shell.variables())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    for signal in [Signal::HUP, Signal::TERM] {
        kill_process(pid, signal).unwrap();
    }
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

pub(crate) fn signal_to_exec_is_forwarded_or_reported(shell: &Shell<'_>) {
    shell.idle("passed");
    let script = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = shell.start(&["exec", "passed", "sh", "-c", script]);
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    if shell.engine.capabilities().exec_signal {
        assert_eq!((output.status.code(), printed.as_str()), (Some(4), ""));
    } else {
        assert_eq!(output.status.code(), Some(143), "{printed}");
        assert!(printed.contains("may run on in passed"), "{printed}");
    }
}

pub(crate) fn detached_container_stays_with_rm(shell: &Shell<'_>) {
    let done = shell.run(&["run", "-d", "--rm", "--name", "detached", &shell.image, "true"]);
    assert!(done.code == Some(0) && done.stderr.contains("--rm has no effect"), "{done:?}");
    assert_eq!(shell.run(&["wait", "detached"]).ok(), "0\n");
    assert_eq!(shell.names(), ["detached"]);
}

pub(crate) fn exec_applies_options(shell: &Shell<'_>) {
    shell.idle("elsewhere");
    let arguments = ["exec", "-e", "A=b", "-w", "/var/tmp", "-u", "7", "elsewhere", "sh", "-c"];
    let script = "echo $A; pwd; id -u";
    let done = shell.run(&[&arguments[..], &[script]].concat());
    assert_eq!(done.ok(), "b\n/var/tmp\n7\n");
}
