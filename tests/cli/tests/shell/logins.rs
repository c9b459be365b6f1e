//! Registry logins from Docker's configuration.

use std::os::unix::fs::PermissionsExt as _;

use cli_tests::Shell;
use runtime_core::Capability;
use serde_json::{Value, json};

/// Returns the address of the image's registry.
fn registry<'a>(shell: &'a Shell<'_>) -> &'a str {
    shell.image.split_once('/').unwrap().0
}

/// Returns a directory with this Docker configuration.
fn docker_config(config: &Value) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    directory
}

pub(crate) fn credential_helper_provides_login(shell: &Shell<'_>) {
    let login = test_support::environment::registry().unwrap();
    let directory = docker_config(&json!({ "credHelpers": { registry(shell): "test" } }));
    let helper = directory.path().join("docker-credential-test");
    // The helper receives the server on stdin, and accepts only this one.
    let script = format!(
        "#!/bin/sh\n[ \"$1 $(cat)\" = 'get {0}' ] || exit 1\n\
         echo '{{\"ServerURL\":\"{0}\",\"Username\":\"{1}\",\"Secret\":\"{2}\"}}'\n",
        registry(shell),
        login.username,
        login.password
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let run = ["run", "--rm", "--pull", "always", &shell.image, "echo", "here"];
    let output = shell
        .command(&run)
        .env("DOCKER_CONFIG", directory.path())
        .env("PATH", path)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "here\n", "{output:?}");
}

/// Returns a configuration with a missing helper for this registry, and the rest of the
/// configuration.
fn no_such_helper(shell: &Shell<'_>, registry: &str) -> tempfile::TempDir {
    let file = std::fs::read(shell.engine.directory().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&file).unwrap();
    config["credHelpers"] = json!({ registry: "no-such-helper" });
    docker_config(&config)
}

pub(crate) fn failed_login_lookup_warns_and_pulls_anonymously(shell: &Shell<'_>) {
    let run = |directory: &tempfile::TempDir, policy: &str| {
        let run = ["run", "--rm", "--pull", policy, &shell.image, "echo", "here"];
        let output = shell.command(&run).env("DOCKER_CONFIG", directory.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "here\n", "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let warnings = |text: &str| text.lines().filter(|line| is_of_the_helper(line)).count();
    let text = run(&no_such_helper(shell, "elsewhere.example"), "always");
    assert!(!text.contains("warning"), "{text}");
    // The image is present, and needs no login. A login is looked up only if a node may have to
    // pull.
    let text = run(&no_such_helper(shell, registry(shell)), "missing");
    let deferred = shell.engine.capabilities().has(Capability::DeferredPull);
    assert_eq!(warnings(&text), usize::from(deferred), "{text}");
}

/// Returns true for the warning about a failed login lookup.
fn is_of_the_helper(line: &str) -> bool {
    line.starts_with("runtime: warning: failed to look up registry credentials (image ")
        && line.contains("helper")
}

pub(crate) fn pull_without_login_returns_error_of_registry(shell: &Shell<'_>) {
    let directory = no_such_helper(shell, registry(shell));
    let mut command = shell.command(&["pull", &shell.image]);
    let output = command.env("DOCKER_CONFIG", directory.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    // The registry's error, after a warning about the lookup.
    let (warnings, errors): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| is_of_the_helper(line));
    assert_eq!(warnings.len(), 1, "{text}");
    let errors = errors.concat();
    assert!(errors.contains("auth") && !errors.contains("helper"), "{text}");
}
