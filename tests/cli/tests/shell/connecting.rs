//! Which engine it is, and what the command says of itself.

use std::process::Command;

use cli_tests::Shell;

pub(crate) fn without_an_engine_it_explains_itself_on_one_screen(shell: &Shell<'_>) {
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

pub(crate) fn the_first_that_answers_is_said(shell: &Shell<'_>) {
    let mut command = shell.command(&["ps", "-q"]);
    command.env_remove("RUNTIME_BACKEND").envs(shell.engine.usual.clone());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let wanted = format!("using {}", shell.engine.word);
    assert!(output.status.success() && text.contains(&wanted), "{text}");
}

pub(crate) fn a_url_names_the_engine(shell: &Shell<'_>) {
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

pub(crate) fn a_configuration_file_names_the_engine(shell: &Shell<'_>) {
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

pub(crate) fn completions_and_the_manual(shell: &Shell<'_>) {
    for name in ["bash", "zsh", "fish"] {
        assert!(shell.run(&["completions", name]).ok().contains("runtime"), "{name}");
    }
    let script = shell.run(&["completions", "bash"]).ok();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let checked = Command::new("bash").arg("-n").arg(file.path()).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made/for/it");
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
