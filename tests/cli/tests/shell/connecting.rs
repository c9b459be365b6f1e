//! Selection of the engine, and output of the command about itself.

use std::process::Command;

use cli_tests::Shell;

pub(crate) fn missing_engine_prints_help_on_one_screen(shell: &Shell<'_>) {
    let directory = tempfile::tempdir().unwrap();
    let output = shell
        .command(&["ps"])
        .env_remove("RUNTIME_BACKEND")
        .env("DOCKER_HOST", format!("unix://{}/none.sock", directory.path().display()))
        .env("CONTAINER_RUNTIME_ENDPOINT", "unix:///nowhere/none.sock")
        .env("KUBECONFIG", directory.path().join("none"))
        .env("RUNTIME_CONFIG", "")
        .env("HOME", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for word in ["docker", "cri", "k8s", "none.sock", "--backend", "RUNTIME_BACKEND"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    // As shown in a terminal with 80 columns.
    let lines: usize = text.lines().map(|line| line.chars().count().div_ceil(80).max(1)).sum();
    assert!(lines <= 24, "{text}");
}

pub(crate) fn first_responding_engine_is_printed(shell: &Shell<'_>) {
    let mut command = shell.command(&["ps", "-q"]);
    command.env_remove("RUNTIME_BACKEND").envs(shell.engine.usual.clone());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let wanted = format!("using {}", shell.engine.word);
    assert!(output.status.success() && text.contains(&wanted), "{text}");
}

pub(crate) fn url_selects_engine(shell: &Shell<'_>) {
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

pub(crate) fn configuration_file_selects_engine(shell: &Shell<'_>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
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

pub(crate) fn completions_and_manual_are_printed(shell: &Shell<'_>) {
    for name in ["bash", "zsh", "fish"] {
        assert!(shell.run(&["completions", name]).ok().contains("runtime"), "{name}");
    }
    let script = shell.run(&["completions", "bash"]).ok();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let checked = Command::new("bash").arg("-n").arg(file.path()).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("made/for/it");
    let _ = shell.run(&["man", made.to_str().unwrap()]).ok();
    let page = std::fs::read_to_string(made.join("runtime-run.1")).unwrap();
    assert!(page.contains("cpu\\-shares"), "{page}");
    let nowhere = file.path().join("pages");
    let nowhere = nowhere.to_str().unwrap();
    let refused = shell.run(&["man", nowhere]);
    assert!(refused.code == Some(1) && refused.stderr.contains(nowhere), "{refused:?}");
    let manual = shell.run(&["man"]).ok();
    assert!(manual.contains(".TH runtime 1"), "{manual}");
}
