//! Inspection of containers: stats, processes, files, logs, events.

use std::io::Read as _;

use cli_tests::{Shell, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub(crate) fn stats_of_running_container(shell: &Shell<'_>) {
    shell.idle("measured");
    // Engines without stats of a container that has just started omit it.
    until("the figures", || {
        let stats = shell.run(&["stats", "--no-stream", "--format", "json"]).ok();
        let mut lines = stats.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.any(|stats| stats["name"] == "measured" && stats["stats"]["memory_bytes"].is_u64())
    });
}

pub(crate) fn stats_of_created_container_are_empty(shell: &Shell<'_>) {
    let _ = shell.run(&["create", "--name", "unmeasured", &shell.image, "true"]).ok();
    let stats = shell.run(&["stats", "--no-stream", "--format", "json", "unmeasured"]).ok();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let shown = (&stats["name"], &stats["mem_usage"], &stats["stats"]);
    assert_eq!(shown, (&"unmeasured".into(), &"--".into(), &Value::Null), "{stats}");
    let all = shell.run(&["stats", "--no-stream", "--format", "json"]).ok();
    assert_eq!(all, "", "only running containers are listed by default");
}

pub(crate) fn top_lists_processes(shell: &Shell<'_>) {
    shell.idle("listed");
    assert!(shell.run(&["top", "listed"]).ok().contains("ps"), "the processes");
}

pub(crate) fn cp_copies_files(shell: &Shell<'_>) {
    shell.idle("files");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    std::fs::create_dir_all(at("tree/sub")).unwrap();
    std::fs::write(at("tree/sub/file"), "content").unwrap();
    std::os::unix::fs::symlink("sub/file", at("tree/link")).unwrap();
    // A directory into a directory, and back under another name.
    let _ = shell.run(&["cp", &at("tree"), "files:/srv"]).ok();
    let listed = shell.run(&["exec", "files", "cat", "/srv/tree/link"]).ok();
    assert_eq!(listed, "content");
    let _ = shell.run(&["cp", "files:/srv/tree", &at("back")]).ok();
    assert_eq!(std::fs::read_to_string(at("back/link")).unwrap(), "content");
    // A local link to a directory is followed, and a link to a file is replaced.
    std::os::unix::fs::symlink("back", at("way")).unwrap();
    std::os::unix::fs::symlink("file", at("back/named")).unwrap();
    let _ = shell.run(&["cp", "files:/srv/tree", &at("way")]).ok();
    assert_eq!(std::fs::read_to_string(at("back/tree/link")).unwrap(), "content");
    let _ = shell.run(&["cp", "files:/srv/tree/sub/file", &at("back/named")]).ok();
    assert!(std::fs::symlink_metadata(at("back/named")).unwrap().is_file());
    // The contents only.
    let _ = shell.run(&["cp", &format!("{}/.", at("tree")), "files:/var/tmp"]).ok();
    assert_eq!(shell.run(&["exec", "files", "cat", "/var/tmp/sub/file"]).ok(), "content");
    // A file under a new name, and over an existing file.
    for content in ["first", "second"] {
        std::fs::write(at("file"), content).unwrap();
        let _ = shell.run(&["cp", &at("file"), "files:/srv/named"]).ok();
        assert_eq!(shell.run(&["exec", "files", "cat", "/srv/named"]).ok(), content);
    }
    // Streams.
    let tar = shell.command(&["cp", "files:/srv/tree", "-"]).output().unwrap().stdout;
    let into = shell.run_with(&["cp", "-", "files:/home"], &tar);
    let _ = into.ok();
    assert_eq!(shell.run(&["exec", "files", "cat", "/home/tree/sub/file"]).ok(), "content");
    for (from, to, word) in [
        ("files:/none", "/tmp", "not found"),
        ("/none", "files:/tmp", "No such file"),
        ("/etc/hostname", "files:/none/", "no such directory"),
        ("/etc/hostname", "/tmp/x", "CONTAINER:PATH"),
    ] {
        let done = shell.run(&["cp", from, to]);
        assert!(done.code == Some(1) && done.stderr.contains(word), "{from} {to}: {done:?}");
    }
}

pub(crate) fn cp_follows_links(shell: &Shell<'_>) {
    shell.idle("links");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let inside = |script: &str| shell.run(&["exec", "links", "sh", "-c", script]).ok();
    let _ = inside(
        "mkdir -p /srv/real/sub; echo old > /srv/real/file; cd /srv; ln -s real way; \
         ln -s ./way/file named; ln -s /srv/real/later dangling; ln -s dangling again",
    );
    std::fs::write(at("new"), "new\n").unwrap();
    for (to, script, wanted) in [
        ("/srv/way", "cat /srv/real/new; readlink /srv/way", "new\nreal\n"),
        ("/srv/way/", "cat /srv/real/new; readlink /srv/way", "new\nreal\n"),
        ("/srv/named", "cat /srv/real/file; readlink /srv/named", "new\n./way/file\n"),
        ("/srv/again", "cat /srv/real/later; readlink /srv/again", "new\ndangling\n"),
        // Relative to the root, as in Docker's CLI.
        ("srv/way/sub/../root", "cat /srv/real/root", "new\n"),
    ] {
        let _ = shell.run(&["cp", &at("new"), &format!("links:{to}")]).ok();
        assert_eq!(inside(script), wanted, "{to}");
    }
    // A link is copied as a link, unless its target is requested.
    let _ = shell.run(&["cp", "links:/srv/way", &at("link")]).ok();
    assert_eq!(std::fs::read_link(at("link")).unwrap().to_str(), Some("real"));
    for (from, to, found) in [
        ("links:/srv/way/.", "contents", "contents/file"),
        ("links:/srv/way/", "directory", "directory/file"),
        ("links:srv/real/file", "file", "file"),
    ] {
        let _ = shell.run(&["cp", from, &at(to)]).ok();
        assert_eq!(std::fs::read_to_string(at(found)).unwrap(), "new\n", "{from}");
    }
}

pub(crate) fn cp_copies_sparse_file(shell: &Shell<'_>) {
    shell.idle("holes");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holes");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let _ = shell.run(&["cp", path.to_str().unwrap(), "holes:/srv"]).ok();
    let size = shell.run(&["exec", "holes", "stat", "-c", "%s", "/srv/holes"]).ok();
    assert_eq!(size, "1048576\n");
}

pub(crate) fn logs_are_printed(shell: &Shell<'_>) {
    // The lines have different times.
    let script = "echo one; sleep 0.2; echo two; sleep 0.2; echo three";
    let done = shell.run(&["run", "--name", "logged", &shell.image, "sh", "-c", script]);
    assert_eq!(done.ok(), "one\ntwo\nthree\n");
    assert_eq!(shell.run(&["logs", "logged"]).ok(), "one\ntwo\nthree\n");
    assert_eq!(shell.run(&["logs", "-f", "-n", "1", "logged"]).ok(), "three\n");
    assert_eq!(shell.run(&["logs", "--tail", "2", "logged"]).ok(), "two\nthree\n");
    assert_eq!(shell.run(&["logs", "--tail", "all", "logged"]).ok(), "one\ntwo\nthree\n");
    let wrong = shell.run(&["logs", "--tail", "few", "logged"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("few"), "{wrong:?}");
    let stamped = shell.run(&["logs", "-t", "logged"]).ok();
    assert!(stamped.lines().all(|line| line.contains("Z ") && line.starts_with("20")), "{stamped}");
    let (since, _) = stamped.lines().nth(1).and_then(|line| line.split_once(' ')).unwrap();
    assert_eq!(shell.run(&["logs", "--since", since, "logged"]).ok(), "two\nthree\n");
    assert_eq!(shell.run(&["logs", "--since", "1h", "logged"]).ok(), "one\ntwo\nthree\n");
}

pub(crate) fn logs_separate_outputs(shell: &Shell<'_>) {
    // The streams are separate, so simultaneous lines have no order.
    let script = "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three";
    let done = shell.run(&["run", "--name", "apart", &shell.image, "sh", "-c", script]);
    assert_eq!(done.code, Some(0));
    let logs = shell.run(&["logs", "apart"]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("one\nthree\n", "two\n"));
    let records = shell.run(&["logs", "--format", "json", "apart"]).ok();
    let streams: Vec<_> = records
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["stream"].clone())
        .collect();
    assert_eq!(streams, ["stdout", "stderr", "stdout"]);
}

pub(crate) fn events_are_filtered(shell: &Shell<'_>) {
    // An earlier container is filtered out.
    for (name, label) in [("seen-before", "k=w"), ("seen", "k=v")] {
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
    assert_eq!(seen, "seen created\nseen started\nseen exited\n");
    let pid = Pid::from_raw(i32::try_from(events.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(events.wait().unwrap().code(), Some(143));
}
