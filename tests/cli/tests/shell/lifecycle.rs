//! Background containers: created, listed, stopped and removed by separate commands.

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use cli_tests::{Shell, until};
use serde_json::Value;

pub(crate) fn container_lifecycle(shell: &Shell<'_>) {
    let script = "trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done";
    let create =
        ["create", "--name", "life", "-l", "k=v", "-m", "64m", &shell.image, "sh", "-c", script];
    let id = shell.run(&create).ok();
    assert!(id.trim().len() > 12, "{id:?}");
    let taken = shell.run(&create);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("already exists"), "{taken:?}");
    assert_eq!(shell.run(&["ps", "-q"]).ok(), "", "the container is not running");
    assert_eq!(shell.run(&["start", "life"]).ok(), "life\n");
    until("the output", || shell.run(&["logs", "life"]).ok() == "up\n");
    let fields = "{{.Name}} {{.State}} {{.Labels.k}}";
    assert_eq!(shell.run(&["ps", "--format", fields]).ok(), "life running v\n");
    assert_eq!(shell.run(&["ps", "-q", "--filter", "label=k=w"]).ok(), "");
    let memory = shell.run(&["inspect", "-f", "{{.Memory}}", &id[..12]]).ok();
    assert_eq!(memory, "67108864\n");
    let running = shell.run(&["rm", "life"]);
    assert!(running.code == Some(1) && running.stderr.contains("is running"), "{running:?}");
    assert_eq!(shell.run(&["stop", "life"]).ok(), "life\n");
    assert_eq!(shell.run(&["wait", "life"]).ok(), "6\n");
    let inspected = shell.run(&["inspect", "life"]).ok();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["exit"]["code"], 6);
    assert_eq!(shell.run(&["rm", "life"]).ok(), "life\n");
    let gone = shell.run(&["logs", "life"]);
    assert!(gone.code == Some(1) && gone.stderr.contains("not found"), "{gone:?}");
    assert_eq!(shell.run(&["rm", "-f", "life"]).code, Some(0));
}

pub(crate) fn kill_sets_exit_code_137(shell: &Shell<'_>) {
    shell.idle("killed");
    assert_eq!(shell.run(&["kill", "killed"]).ok(), "killed\n");
    assert_eq!(shell.run(&["wait", "killed"]).ok(), "137\n");
    // The exit code of a foreground container.
    let script = "echo ready; while :; do sleep 0.05; done";
    let mut child = shell.start(&["run", "--rm", "--name", "fg", &shell.image, "sh", "-c", script]);
    let mut ready = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(shell.run(&["kill", "fg"]).ok(), "fg\n");
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

pub(crate) fn kill_by_signal_name_and_wait(shell: &Shell<'_>) {
    let script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let _ = shell.run(&["run", "-d", "--name", "signalled", &shell.image, "sh", "-c", script]).ok();
    until("the trap", || shell.run(&["logs", "signalled"]).ok() == "ready\n");
    let waiter = shell.start(&["wait", "signalled", "--format", "json"]);
    assert_eq!(shell.run(&["kill", "-s", "USR1", "signalled"]).ok(), "signalled\n");
    let output = waiter.wait_with_output().unwrap();
    let exit: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&exit["container"], &exit["code"]), (&"signalled".into(), &9.into()), "{exit}");
    assert!(exit["ended_at"].as_str().unwrap().starts_with("20"), "{exit}");
    let wrong = shell.run(&["kill", "-s", "NONE", "signalled"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("NONE"), "{wrong:?}");
}

pub(crate) fn stop_with_other_grace(shell: &Shell<'_>) {
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let run = ["run", "-d", "--name", "stopped", "--stop-timeout", "3600", &shell.image];
    let _ = shell.run(&[&run[..], &["sh", "-c", script]].concat()).ok();
    until("the trap", || shell.run(&["logs", "stopped"]).ok() == "ready\n");
    assert_eq!(shell.run(&["stop", "-t", "1", "stopped"]).ok(), "stopped\n");
    assert_eq!(shell.run(&["wait", "stopped"]).ok(), "137\n");
}

pub(crate) fn run_applies_options(shell: &Shell<'_>) {
    let shared = test_support::environment::shared_dir().unwrap();
    let directory = tempfile::tempdir_in(shared).unwrap();
    std::fs::write(directory.path().join("file"), "content\n").unwrap();
    // Only the mount may cause the write error.
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let mount = format!("{}:/d:ro", directory.path().display());
    let script = "echo $A; pwd; id -u; cat /d/file; touch /d/new 2>&1";
    let options = ["run", "--rm", "-u", "7", "-w", "/tmp", "-v", &mount, "-e", "A=b"];
    let done = shell.run(&[&options[..], &[&shell.image, "sh", "-c", script]].concat());
    let lines: Vec<_> = done.stdout.lines().collect();
    assert_eq!(lines[..4], ["b", "/tmp", "7", "content"], "{done:?}");
    assert!(lines[4].contains("Read-only file system"), "{done:?}");
    assert_eq!(done.code, Some(1));
}

pub(crate) fn env_file_sets_variables(shell: &Shell<'_>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# a comment\nA=1\n\n  B=x=y \nC=file\nNOT_SET_HERE\n").unwrap();
    let path = file.path().to_str().unwrap();
    let run = ["run", "--rm", "--env-file", path, "-e", "C=line", &shell.image, "sh", "-c"];
    let done = shell.run(&[&run[..], &["echo \"$A|$B|$C|${NOT_SET_HERE-none}\""]].concat());
    assert_eq!(done.ok(), "1|x=y |line|none\n");
    let none = shell.run(&["run", "--env-file", "/none", &shell.image]);
    assert!(none.code == Some(125) && none.stderr.contains("/none"), "{none:?}");
}

pub(crate) fn published_port_is_reachable(shell: &Shell<'_>) {
    let script = "while :; do sleep 0.05; done";
    let run = ["run", "-d", "-p", "80", "--name", "published", &shell.image, "sh", "-c", script];
    let _ = shell.run(&run).ok();
    let mut port = 0;
    until("the port", || {
        let ports = shell.run(&["ps", "--format", "{{.Ports}}"]).ok();
        port = ports.trim().strip_suffix("->80/tcp").and_then(|p| p.parse().ok()).unwrap_or(0);
        port > 0
    });
    let inspected = shell.run(&["inspect", "published"]).ok();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let wanted = serde_json::json!([{ "host_port": port, "container_port": 80 }]);
    assert_eq!(inspected[0]["tcp_ports"], wanted);
}

pub(crate) fn ps_filters_containers(shell: &Shell<'_>) {
    shell.idle("box");
    let _ = shell.run(&["create", "--name", "other", &shell.image, "true"]).ok();
    let id = shell.run(&["inspect", "-f", "{{.ID}}", "box"]).ok();
    let image = &shell.image[shell.image.find('/').unwrap() + 1..];
    for (filter, found) in [
        ("name=bo", "box"),
        ("name=^bo$", ""),
        ("name=^box$", "box"),
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
    for (filter, word) in [("colour=red", "label=KEY"), ("status=exitd", "exited")] {
        let wrong = shell.run(&["ps", "--filter", filter]);
        assert!(wrong.code == Some(1) && wrong.stderr.contains(word), "{wrong:?}");
    }
    let listed = shell.run(&["ps", "--format", "json"]).ok();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["name"], &listed["status"]), (&"box".into(), &"running".into()));
    let table = shell.run(&["ps", "-a", "--format", "table {{.Name}}\t{{.State}}"]).ok();
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let Some((head, rows)) = rows.split_first() else { panic!("{table}") };
    assert_eq!(head[..], ["NAME", "STATE"]);
    // The newest is first, unless both are created in the same second.
    let mut rows: Vec<_> = rows.iter().map(|row| row.join(" ")).collect();
    rows.sort_unstable();
    assert_eq!(rows, ["box running", "other created"]);
    let whole = shell.run(&["ps", "-q", "--no-trunc"]).ok();
    assert_eq!(whole, id);
}

pub(crate) fn reap_removes_old_containers(shell: &Shell<'_>) {
    let id = shell.run(&["create", "--name", "old", "-l", "k=v", &shell.image, "true"]).ok();
    let asked = shell.run(&["reap"]);
    assert!(asked.code == Some(1) && asked.stderr.contains("-f"), "{asked:?}");
    assert_eq!(shell.run(&["reap", "-f", "--older-than", "1h"]).ok(), "");
    assert_eq!(shell.run(&["reap", "-f", "--filter", "label=k=w"]).ok(), "");
    let both = ["--filter", "label=k=w", "--filter", "label=k"];
    assert_eq!(shell.run(&[&["reap", "-f"], &both[..]].concat()).ok(), "");
    assert_eq!(shell.names(), ["old"]);
    let removed = shell.run(&["reap", "-f", "--older-than", "0s", "--filter", "label=k=v"]).ok();
    assert!(removed.lines().any(|line| line == id.trim()), "{removed}");
    assert!(shell.names().is_empty());
}
