//! The command in scripts: exit codes, pipes, formats.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cli_tests::{Shell, cases, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

cases! {
    run_is_the_program_that_it_runs [];
    the_outputs_are_apart [LogsStreamsApart];
    what_cannot_be_run [];
    a_credential_helper_gives_the_login [];
    a_login_that_cannot_be_looked_up_is_none [];
    a_registry_asks_for_the_login_itself [PullImage];
    pipes_in_and_out [Attach, Exec, ExecStdinEof, InteractiveStdin];
    the_first_words_come_through_a_pipe [Attach, ExecStdinEof, InteractiveStdin];
    a_reader_that_goes_away [Exec];
    an_exec_ends_with_its_reader [Exec, ExecSignal];
    signals_reach_the_process [ExecSignal, Kill];
    a_container_is_told_to_end [];
    a_signal_to_an_exec_is_passed_on_or_not_hidden [Exec];
    a_life [];
    a_kill [Kill];
    a_signal_by_name_and_a_wait [Kill];
    a_stop_with_another_grace [StopGraceOverride];
    a_container_of_many_options [Mounts, MountsReadOnly, User, WorkingDir];
    variables_of_a_file [];
    a_published_port [TcpPorts];
    lists_and_filters [];
    old_ones_are_reaped [Reap];
    a_detached_one_stays [];
    figures [StatsCpu, StatsMemory];
    processes [Exec];
    an_exec_elsewhere [ExecEnv, ExecUser, ExecWorkingDir];
    files [CopyIn, CopyOut, Exec];
    logs [];
    the_outputs_are_apart_in_the_logs [LogsStreamsApart];
    events [Events, EventsSince];
    without_an_engine_it_explains_itself_on_one_screen [];
    the_first_that_answers_is_said [];
    a_url_names_the_engine [];
    a_configuration_file_names_the_engine [];
    completions_and_the_manual [];
}

fn run_is_the_program_that_it_runs(shell: &Shell<'_>) {
    let done = shell.run(&["run", "--rm", &shell.image, "sh", "-c", "echo out; exit 42"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(42), "out\n"), "{done:?}");
    // The first process of a container cannot kill itself: its shell goes on to its end.
    let killed = "sh -c 'kill -9 $$'; exit $?";
    for (script, code) in [("kill -9 $$", 0), (killed, 137), ("exit 137", 137)] {
        let done = shell.run(&["run", "--rm", &shell.image, "sh", "-c", script]);
        assert_eq!(done.code, Some(code), "{script}: {done:?}");
    }
    assert!(shell.names().is_empty());
}

fn the_outputs_are_apart(shell: &Shell<'_>) {
    let script = "echo out; echo err >&2";
    let done = shell.run(&["run", "--rm", &shell.image, "sh", "-c", script]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
}

fn what_cannot_be_run(shell: &Shell<'_>) {
    for (command, code) in [("no-such-command", 127), ("/etc", 126)] {
        let done = shell.run(&["run", "--rm", &shell.image, command]);
        assert_eq!(done.code, Some(code), "{done:?}");
    }
    let no_image = shell.run(&["run", "--rm", "--pull", "never", "localhost/none:1"]);
    assert_eq!(no_image.code, Some(125));
    assert!(no_image.stderr.contains("image"), "{no_image:?}");
    assert!(shell.names().is_empty());
}

/// The address of the image's registry.
fn registry<'a>(shell: &'a Shell<'_>) -> &'a str {
    shell.image.split_once('/').unwrap().0
}

/// A folder with this configuration of Docker's.
fn docker_config(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn a_credential_helper_gives_the_login(shell: &Shell<'_>) {
    let login = test_support::environment::registry().unwrap();
    let folder = docker_config(&json!({ "credHelpers": { registry(shell): "test" } }));
    let helper = folder.path().join("docker-credential-test");
    // It is asked for the server on its standard input, and knows only this one.
    let script = format!(
        "#!/bin/sh\n[ \"$1 $(cat)\" = 'get {0}' ] || exit 1\n\
         echo '{{\"ServerURL\":\"{0}\",\"Username\":\"{1}\",\"Secret\":\"{2}\"}}'\n",
        registry(shell),
        login.username,
        login.password
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let run = ["run", "--rm", "--pull", "always", &shell.image, "echo", "here"];
    let output =
        shell.command(&run).env("DOCKER_CONFIG", folder.path()).env("PATH", path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "here\n", "{output:?}");
}

/// A configuration with a helper for this registry that is no program, and what else there is.
fn no_such_helper(shell: &Shell<'_>, registry: &str) -> tempfile::TempDir {
    let file = std::fs::read(shell.engine.folder().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&file).unwrap();
    config["credHelpers"] = json!({ registry: "no-such-helper" });
    docker_config(&config)
}

fn a_login_that_cannot_be_looked_up_is_none(shell: &Shell<'_>) {
    let run = |folder: &tempfile::TempDir, policy: &str| {
        let run = ["run", "--rm", "--pull", policy, &shell.image, "echo", "here"];
        let output = shell.command(&run).env("DOCKER_CONFIG", folder.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "here\n", "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = run(&no_such_helper(shell, "elsewhere.example"), "always");
    assert!(!text.contains("warning"), "{text}");
    // It is there now, and needs no login. Who asks only where it has to has nothing to warn of.
    let text = run(&no_such_helper(shell, registry(shell)), "missing");
    for line in text.lines().filter(|line| line.contains("warning")) {
        assert!(is_of_the_helper(line), "{text}");
    }
}

/// Whether it is the warning of a login that could not be looked up.
fn is_of_the_helper(line: &str) -> bool {
    line.starts_with("runtime: warning: no login could be looked up (image ")
        && line.contains("helper")
}

fn a_registry_asks_for_the_login_itself(shell: &Shell<'_>) {
    let folder = no_such_helper(shell, registry(shell));
    let mut command = shell.command(&["pull", &shell.image]);
    let output = command.env("DOCKER_CONFIG", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    // In the words of the registry, after a warning of the look-up.
    let (warnings, said): (Vec<_>, Vec<_>) = text.lines().partition(|line| is_of_the_helper(line));
    assert_eq!(warnings.len(), 1, "{text}");
    let said = said.concat();
    assert!(said.contains("auth") && !said.contains("helper"), "{text}");
}

fn pipes_in_and_out(shell: &Shell<'_>) {
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n as u8).to_le_bytes()).collect();
    shell.idle("box");
    for arguments in
        [&["run", "--rm", "-i", &shell.image, "md5sum"][..], &["exec", "-i", "box", "md5sum"]]
    {
        let wanted = {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("input");
            std::fs::write(&path, &input).unwrap();
            let output = Command::new("md5sum").arg(path).output().unwrap();
            String::from_utf8(output.stdout).unwrap()[..32].to_owned()
        };
        assert_eq!(shell.run_with(arguments, &input).ok()[..32], wanted, "{arguments:?}");
    }
    let echoed = shell.run_with(&["exec", "-i", "box", "cat"], b"\0\xff\r\n");
    assert_eq!(echoed.ok().as_bytes(), "\0\u{fffd}\r\n".as_bytes());
    // Without -i nothing is read.
    assert_eq!(shell.run_with(&["exec", "box", "cat"], b"unread").ok(), "");
}

fn the_first_words_come_through_a_pipe(shell: &Shell<'_>) {
    // They are said when nobody is attached yet, where an engine attaches only to what runs.
    let script = "seq 1000; cat; echo end";
    let done = shell.run_with(&["run", "--rm", "-i", &shell.image, "sh", "-c", script], b"in\n");
    let mut wanted: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    wanted.push_str("in\nend\n");
    assert_eq!(done.ok(), wanted);
    // One that does not wait for anybody, but outlives its output, for engines that lack
    // `logs_at_exit`.
    let script = "seq 20000; sleep 0.2; seq 20000; sleep 1";
    let done = shell.run(&["run", "--rm", "-i", &shell.image, "sh", "-c", script]);
    let half: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(done.ok(), format!("{half}{half}"));
}

fn a_reader_that_goes_away(shell: &Shell<'_>) {
    shell.idle("box");
    for arguments in
        [&["exec", "box", "yes"][..], &["run", "--rm", "--name", "yes", &shell.image, "yes"]]
    {
        leave(shell, arguments);
    }
    assert_eq!(shell.names(), ["box"]);
}

/// Runs the command and goes away after its first words.
fn leave(shell: &Shell<'_>, arguments: &[&str]) {
    let mut child = shell.start(arguments);
    let mut first = [0; 4];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(141), "{arguments:?}");
}

fn an_exec_ends_with_its_reader(shell: &Shell<'_>) {
    shell.idle("box");
    leave(shell, &["exec", "box", "yes"]);
    until("the end of the process", || {
        let processes = shell.run(&["exec", "box", "ps", "-o", "args"]).ok();
        !processes.lines().any(|line| line.trim() == "yes")
    });
}

fn signals_reach_the_process(shell: &Shell<'_>) {
    let script = "trap 'echo int; exit 3' INT; trap 'echo term; exit 4' TERM; echo ready; \
                  while :; do sleep 0.05; done";
    shell.idle("box");
    for (arguments, after) in [
        (vec!["run", "--rm", &shell.image, "sh", "-c", script], "run"),
        (vec!["exec", "box", "sh", "-c", script], "exec"),
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
    assert_eq!(shell.names(), ["box"]);
}

fn a_container_is_told_to_end(shell: &Shell<'_>) {
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

fn a_signal_to_an_exec_is_passed_on_or_not_hidden(shell: &Shell<'_>) {
    shell.idle("box");
    let script = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = shell.start(&["exec", "box", "sh", "-c", script]);
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if shell.engine.capabilities().exec_signal {
        assert_eq!((output.status.code(), said.as_str()), (Some(4), ""));
    } else {
        assert_eq!(output.status.code(), Some(143), "{said}");
        assert!(said.contains("may run on in box"), "{said}");
    }
}

fn a_detached_one_stays(shell: &Shell<'_>) {
    let done = shell.run(&["run", "-d", "--rm", "--name", "box", &shell.image, "true"]);
    assert!(done.code == Some(0) && done.stderr.contains("--rm has no effect"), "{done:?}");
    assert_eq!(shell.run(&["wait", "box"]).ok(), "0\n");
    assert_eq!(shell.names(), ["box"]);
}

fn a_life(shell: &Shell<'_>) {
    let script = "trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done";
    let create =
        ["create", "--name", "box", "-l", "k=v", "-m", "64m", &shell.image, "sh", "-c", script];
    let id = shell.run(&create).ok();
    assert!(id.trim().len() > 12, "{id:?}");
    let taken = shell.run(&create);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("already exists"), "{taken:?}");
    assert_eq!(shell.run(&["ps", "-q"]).ok(), "", "it does not run");
    assert_eq!(shell.run(&["start", "box"]).ok(), "box\n");
    until("the output", || shell.run(&["logs", "box"]).ok() == "up\n");
    let fields = "{{.Name}} {{.State}} {{.Labels.k}}";
    assert_eq!(shell.run(&["ps", "--format", fields]).ok(), "box running v\n");
    assert_eq!(shell.run(&["ps", "-q", "--filter", "label=k=w"]).ok(), "");
    let memory = shell.run(&["inspect", "-f", "{{.Memory}}", &id[..12]]).ok();
    assert_eq!(memory, "67108864\n");
    let running = shell.run(&["rm", "box"]);
    assert!(running.code == Some(1) && running.stderr.contains("is running"), "{running:?}");
    assert_eq!(shell.run(&["stop", "box"]).ok(), "box\n");
    assert_eq!(shell.run(&["wait", "box"]).ok(), "6\n");
    let inspected = shell.run(&["inspect", "box"]).ok();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["exit"]["code"], 6);
    assert_eq!(shell.run(&["rm", "box"]).ok(), "box\n");
    let gone = shell.run(&["logs", "box"]);
    assert!(gone.code == Some(1) && gone.stderr.contains("not found"), "{gone:?}");
    assert_eq!(shell.run(&["rm", "-f", "box"]).code, Some(0));
}

fn a_kill(shell: &Shell<'_>) {
    shell.idle("box");
    assert_eq!(shell.run(&["kill", "box"]).ok(), "box\n");
    assert_eq!(shell.run(&["wait", "box"]).ok(), "137\n");
    // The code of one that somebody waits for.
    let script = "echo ready; while :; do sleep 0.05; done";
    let mut child = shell.start(&["run", "--rm", "--name", "fg", &shell.image, "sh", "-c", script]);
    let mut ready = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(shell.run(&["kill", "fg"]).ok(), "fg\n");
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

fn a_signal_by_name_and_a_wait(shell: &Shell<'_>) {
    let script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let _ = shell.run(&["run", "-d", "--name", "box", &shell.image, "sh", "-c", script]).ok();
    until("the trap", || shell.run(&["logs", "box"]).ok() == "ready\n");
    let waiter = shell.start(&["wait", "box", "--format", "json"]);
    assert_eq!(shell.run(&["kill", "-s", "USR1", "box"]).ok(), "box\n");
    let output = waiter.wait_with_output().unwrap();
    let exit: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&exit["container"], &exit["code"]), (&"box".into(), &9.into()), "{exit}");
    assert!(exit["ended_at"].as_str().unwrap().starts_with("20"), "{exit}");
    let wrong = shell.run(&["kill", "-s", "NONE", "box"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("NONE"), "{wrong:?}");
}

fn a_stop_with_another_grace(shell: &Shell<'_>) {
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let run = ["run", "-d", "--name", "box", "--stop-timeout", "3600", &shell.image];
    let _ = shell.run(&[&run[..], &["sh", "-c", script]].concat()).ok();
    until("the trap", || shell.run(&["logs", "box"]).ok() == "ready\n");
    assert_eq!(shell.run(&["stop", "-t", "1", "box"]).ok(), "box\n");
    assert_eq!(shell.run(&["wait", "box"]).ok(), "137\n");
}

fn a_container_of_many_options(shell: &Shell<'_>) {
    let shared = test_support::environment::shared_dir().unwrap();
    let folder = tempfile::tempdir_in(shared).unwrap();
    std::fs::write(folder.path().join("file"), "content\n").unwrap();
    // Only the mount may be why nothing can be written.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let mount = format!("{}:/d:ro", folder.path().display());
    let script = "echo $A; pwd; id -u; cat /d/file; touch /d/new 2>&1";
    let options = ["run", "--rm", "-u", "7", "-w", "/tmp", "-v", &mount, "-e", "A=b"];
    let done = shell.run(&[&options[..], &[&shell.image, "sh", "-c", script]].concat());
    let lines: Vec<_> = done.stdout.lines().collect();
    assert_eq!(lines[..4], ["b", "/tmp", "7", "content"], "{done:?}");
    assert!(lines[4].contains("Read-only file system"), "{done:?}");
    assert_eq!(done.code, Some(1));
}

fn variables_of_a_file(shell: &Shell<'_>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# a comment\nA=1\n\n  B=x=y \nC=file\nNOT_SET_HERE\n").unwrap();
    let path = file.path().to_str().unwrap();
    let run = ["run", "--rm", "--env-file", path, "-e", "C=line", &shell.image, "sh", "-c"];
    let done = shell.run(&[&run[..], &["echo \"$A|$B|$C|${NOT_SET_HERE-none}\""]].concat());
    assert_eq!(done.ok(), "1|x=y |line|none\n");
    let none = shell.run(&["run", "--env-file", "/none", &shell.image]);
    assert!(none.code == Some(125) && none.stderr.contains("/none"), "{none:?}");
}

fn a_published_port(shell: &Shell<'_>) {
    let script = "while :; do sleep 0.05; done";
    let run = ["run", "-d", "-p", "80", "--name", "box", &shell.image, "sh", "-c", script];
    let _ = shell.run(&run).ok();
    let mut port = 0;
    until("the port", || {
        let ports = shell.run(&["ps", "--format", "{{.Ports}}"]).ok();
        port = ports.trim().strip_suffix("->80/tcp").and_then(|p| p.parse().ok()).unwrap_or(0);
        port > 0
    });
    let inspected = shell.run(&["inspect", "box"]).ok();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let wanted = serde_json::json!([{ "host_port": port, "container_port": 80 }]);
    assert_eq!(inspected[0]["tcp_ports"], wanted);
}

fn lists_and_filters(shell: &Shell<'_>) {
    shell.idle("box");
    let _ = shell.run(&["create", "--name", "other", &shell.image, "true"]).ok();
    let id = shell.run(&["inspect", "-f", "{{.ID}}", "box"]).ok();
    let image = &shell.image[shell.image.find('/').unwrap() + 1..];
    for (filter, found) in [
        ("name=bo", "box"),
        ("name=othe", "other"),
        (&format!("id={}", id.trim()), "box"),
        ("status=created", "other"),
        ("status=running", "box"),
        ("status=exited", ""),
        (&format!("ancestor={}", shell.image), "box other"),
        (&format!("ancestor={image}"), "box other"),
        ("ancestor=none:1", ""),
    ] {
        let names = shell.run(&["ps", "-a", "--filter", filter, "--format", "{{.Name}}"]).ok();
        let mut names: Vec<_> = names.lines().collect();
        names.sort_unstable();
        assert_eq!(names.join(" "), found, "{filter}");
    }
    let wrong = shell.run(&["ps", "--filter", "colour=red"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("label=KEY"), "{wrong:?}");
    let listed = shell.run(&["ps", "--format", "json"]).ok();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["name"], &listed["status"]), (&"box".into(), &"running".into()));
    let table = shell.run(&["ps", "-a", "--format", "table {{.Name}}\t{{.State}}"]).ok();
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert_eq!((&rows[0][..], &rows[2][..]), (&["NAME", "STATE"][..], &["box", "running"][..]));
    let whole = shell.run(&["ps", "-q", "--no-trunc"]).ok();
    assert_eq!(whole, id);
}

fn old_ones_are_reaped(shell: &Shell<'_>) {
    let id = shell.run(&["create", "--name", "box", "-l", "k=v", &shell.image, "true"]).ok();
    let asked = shell.run(&["reap"]);
    assert!(asked.code == Some(1) && asked.stderr.contains("-f"), "{asked:?}");
    assert_eq!(shell.run(&["reap", "-f", "--older-than", "1h"]).ok(), "");
    assert_eq!(shell.run(&["reap", "-f", "--filter", "label=k=w"]).ok(), "");
    assert_eq!(shell.names(), ["box"]);
    let removed = shell.run(&["reap", "-f", "--older-than", "0s", "--filter", "label=k=v"]).ok();
    assert!(removed.lines().any(|line| line == id.trim()), "{removed}");
    assert!(shell.names().is_empty());
}

fn figures(shell: &Shell<'_>) {
    shell.idle("box");
    // Where an engine has no figures of one that has just begun, it is left out.
    until("the figures", || {
        let stats = shell.run(&["stats", "--no-stream", "--format", "json"]).ok();
        let mut lines = stats.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.any(|stats| stats["name"] == "box" && stats["stats"]["memory_bytes"].is_u64())
    });
}

fn processes(shell: &Shell<'_>) {
    shell.idle("box");
    assert!(shell.run(&["top", "box"]).ok().contains("ps"), "the processes");
}

fn an_exec_elsewhere(shell: &Shell<'_>) {
    shell.idle("box");
    let arguments = ["exec", "-e", "A=b", "-w", "/var/tmp", "-u", "7", "box", "sh", "-c"];
    let script = "echo $A; pwd; id -u";
    let done = shell.run(&[&arguments[..], &[script]].concat());
    assert_eq!(done.ok(), "b\n/var/tmp\n7\n");
}

fn files(shell: &Shell<'_>) {
    shell.idle("box");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::create_dir_all(at("tree/sub")).unwrap();
    std::fs::write(at("tree/sub/file"), "content").unwrap();
    std::os::unix::fs::symlink("sub/file", at("tree/link")).unwrap();
    // A folder into a folder, and back by another name.
    let _ = shell.run(&["cp", &at("tree"), "box:/srv"]).ok();
    let listed = shell.run(&["exec", "box", "cat", "/srv/tree/link"]).ok();
    assert_eq!(listed, "content");
    let _ = shell.run(&["cp", "box:/srv/tree", &at("back")]).ok();
    assert_eq!(std::fs::read_to_string(at("back/link")).unwrap(), "content");
    // A link of ours to a folder is that folder, and one to a file is replaced.
    std::os::unix::fs::symlink("back", at("way")).unwrap();
    std::os::unix::fs::symlink("file", at("back/named")).unwrap();
    let _ = shell.run(&["cp", "box:/srv/tree", &at("way")]).ok();
    assert_eq!(std::fs::read_to_string(at("back/tree/link")).unwrap(), "content");
    let _ = shell.run(&["cp", "box:/srv/tree/sub/file", &at("back/named")]).ok();
    assert!(std::fs::symlink_metadata(at("back/named")).unwrap().is_file());
    // Its contents only.
    let _ = shell.run(&["cp", &format!("{}/.", at("tree")), "box:/var/tmp"]).ok();
    assert_eq!(shell.run(&["exec", "box", "cat", "/var/tmp/sub/file"]).ok(), "content");
    // A file by a new name, and over one that is there.
    for content in ["first", "second"] {
        std::fs::write(at("file"), content).unwrap();
        let _ = shell.run(&["cp", &at("file"), "box:/srv/named"]).ok();
        assert_eq!(shell.run(&["exec", "box", "cat", "/srv/named"]).ok(), content);
    }
    // Streams.
    let tar = shell.command(&["cp", "box:/srv/tree", "-"]).output().unwrap().stdout;
    let into = shell.run_with(&["cp", "-", "box:/home"], &tar);
    let _ = into.ok();
    assert_eq!(shell.run(&["exec", "box", "cat", "/home/tree/sub/file"]).ok(), "content");
    for (from, to, word) in [
        ("box:/none", "/tmp", "not found"),
        ("/none", "box:/tmp", "No such file"),
        ("/etc/hostname", "box:/none/", "no folder"),
        ("/etc/hostname", "/tmp/x", "CONTAINER:PATH"),
    ] {
        let done = shell.run(&["cp", from, to]);
        assert!(done.code == Some(1) && done.stderr.contains(word), "{from} {to}: {done:?}");
    }
}

fn logs(shell: &Shell<'_>) {
    // The lines differ in their times.
    let script = "echo one; sleep 0.2; echo two; sleep 0.2; echo three";
    let done = shell.run(&["run", "--name", "box", &shell.image, "sh", "-c", script]);
    assert_eq!(done.ok(), "one\ntwo\nthree\n");
    assert_eq!(shell.run(&["logs", "box"]).ok(), "one\ntwo\nthree\n");
    assert_eq!(shell.run(&["logs", "-f", "-n", "1", "box"]).ok(), "three\n");
    assert_eq!(shell.run(&["logs", "--tail", "2", "box"]).ok(), "two\nthree\n");
    assert_eq!(shell.run(&["logs", "--tail", "all", "box"]).ok(), "one\ntwo\nthree\n");
    let wrong = shell.run(&["logs", "--tail", "few", "box"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("few"), "{wrong:?}");
    let stamped = shell.run(&["logs", "-t", "box"]).ok();
    assert!(stamped.lines().all(|line| line.contains("Z ") && line.starts_with("20")), "{stamped}");
    let (since, _) = stamped.lines().nth(1).and_then(|line| line.split_once(' ')).unwrap();
    assert_eq!(shell.run(&["logs", "--since", since, "box"]).ok(), "two\nthree\n");
    assert_eq!(shell.run(&["logs", "--since", "1h", "box"]).ok(), "one\ntwo\nthree\n");
}

fn the_outputs_are_apart_in_the_logs(shell: &Shell<'_>) {
    // The streams are two ways to the log: what is written at once can come in any order.
    let script = "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three";
    let done = shell.run(&["run", "--name", "box", &shell.image, "sh", "-c", script]);
    assert_eq!(done.code, Some(0));
    let logs = shell.run(&["logs", "box"]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("one\nthree\n", "two\n"));
    let records = shell.run(&["logs", "--format", "json", "box"]).ok();
    let streams: Vec<_> = records
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["stream"].clone())
        .collect();
    assert_eq!(streams, ["stdout", "stderr", "stdout"]);
}

fn events(shell: &Shell<'_>) {
    // Another one comes before it and is filtered out.
    for (name, label) in [("other", "k=w"), ("box", "k=v")] {
        let done = shell.run(&["run", "--name", name, "-l", label, &shell.image, "true"]);
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    let filter = ["--filter", "label=k=v", "--format", "{{.Name}} {{.Kind.Event}}"];
    let mut events = shell.start(&[&["events", "--since", "5m"], &filter[..]].concat());
    let mut seen = String::new();
    let mut stdout = events.stdout.take().unwrap();
    while !seen.contains("exited") {
        let mut buffer = [0; 64];
        let length = stdout.read(&mut buffer).unwrap();
        assert!(length > 0, "the events end with {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert_eq!(seen, "box created\nbox started\nbox exited\n");
    let pid = Pid::from_raw(i32::try_from(events.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(events.wait().unwrap().code(), Some(143));
}

fn without_an_engine_it_explains_itself_on_one_screen(shell: &Shell<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let output = shell
        .command(&["ps"])
        .env_remove("RUNTIME_BACKEND")
        .env("DOCKER_HOST", format!("unix://{}/none.sock", folder.path().display()))
        .env("CONTAINER_RUNTIME_ENDPOINT", "unix:///nowhere/none.sock")
        .env("KUBECONFIG", folder.path().join("none"))
        .env("RUNTIME_CONFIG", "")
        .env("HOME", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for word in ["docker", "cri", "k8s", "none.sock", "--backend", "RUNTIME_BACKEND"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    // As a terminal of 80 columns shows it.
    let lines: usize = text.lines().map(|line| line.chars().count().div_ceil(80).max(1)).sum();
    assert!(lines <= 24, "{text}");
}

fn the_first_that_answers_is_said(shell: &Shell<'_>) {
    let mut command = shell.command(&["ps", "-q"]);
    command.env_remove("RUNTIME_BACKEND").envs(shell.engine.usual.clone());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let wanted = format!("using {}", shell.engine.word);
    assert!(output.status.success() && text.contains(&wanted), "{text}");
}

fn a_url_names_the_engine(shell: &Shell<'_>) {
    for url in shell.engine.other_urls.iter().chain([&shell.engine.url]) {
        let named = ["--backend", url, "info", "--format", "{{.Backend}}"];
        let mut command = shell.command(&named);
        let output = command.env_remove("RUNTIME_BACKEND").output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout);
        assert_eq!(answer, format!("{}\n", shell.engine.backend), "{url}: {output:?}");
        assert!(output.stderr.is_empty(), "{url}: {output:?}");
    }
    let wrong = shell.run(&["--backend", "lxc", "ps"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("docker://"), "{wrong:?}");
}

fn a_configuration_file_names_the_engine(shell: &Shell<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let more = std::fs::read_to_string(shell.engine.config()).unwrap();
    std::fs::write(&file, format!("backend = {:?}\n{more}", shell.engine.url)).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = shell.command(arguments);
        command.env_remove("RUNTIME_BACKEND").env("RUNTIME_CONFIG", &file).output().unwrap()
    };
    let output = run(&["info", "--format", "{{.Backend}}"]);
    let answer = String::from_utf8_lossy(&output.stdout);
    assert_eq!(answer, format!("{}\n", shell.engine.backend), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    std::fs::write(&file, "backend = \"lxc\"\n").unwrap();
    assert_eq!(run(&["ps"]).status.code(), Some(1));
}

fn completions_and_the_manual(shell: &Shell<'_>) {
    for name in ["bash", "zsh", "fish"] {
        assert!(shell.run(&["completions", name]).ok().contains("runtime"), "{name}");
    }
    let script = shell.run(&["completions", "bash"]).ok();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let checked = Command::new("bash").arg("-n").arg(file.path()).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let folder = tempfile::tempdir().unwrap();
    let _ = shell.run(&["man", folder.path().to_str().unwrap()]).ok();
    let page = std::fs::read_to_string(folder.path().join("runtime-run.1")).unwrap();
    assert!(page.contains("cpu\\-shares"), "{page}");
    let nowhere = shell.run(&["man", "/nowhere"]);
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("/nowhere"), "{nowhere:?}");
    let manual = shell.run(&["man"]).ok();
    assert!(manual.contains(".TH runtime 1"), "{manual}");
}
