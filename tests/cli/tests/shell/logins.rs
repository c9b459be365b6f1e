//! Logins of registries, as Docker's configuration has them.

use std::os::unix::fs::PermissionsExt as _;

use cli_tests::Shell;
use runtime_core::Capability;
use serde_json::{Value, json};

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

pub(crate) fn a_credential_helper_gives_the_login(shell: &Shell<'_>) {
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

pub(crate) fn a_login_that_cannot_be_looked_up_is_none(shell: &Shell<'_>) {
    let run = |folder: &tempfile::TempDir, policy: &str| {
        let run = ["run", "--rm", "--pull", policy, &shell.image, "echo", "here"];
        let output = shell.command(&run).env("DOCKER_CONFIG", folder.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "here\n", "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let warnings = |text: &str| text.lines().filter(|line| is_of_the_helper(line)).count();
    let text = run(&no_such_helper(shell, "elsewhere.example"), "always");
    assert!(!text.contains("warning"), "{text}");
    // It is there now, and needs no login. Only where a node may have to pull it is one looked up.
    let text = run(&no_such_helper(shell, registry(shell)), "missing");
    let deferred = shell.engine.capabilities().has(Capability::DeferredPull);
    assert_eq!(warnings(&text), usize::from(deferred), "{text}");
}

/// Whether it is the warning of a login that could not be looked up.
fn is_of_the_helper(line: &str) -> bool {
    line.starts_with("runtime: warning: failed to look up registry credentials (image ")
        && line.contains("helper")
}

pub(crate) fn a_registry_asks_for_the_login_itself(shell: &Shell<'_>) {
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
