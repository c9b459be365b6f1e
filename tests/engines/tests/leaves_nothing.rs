//! Every engine of this machine's release starts in a new directory, runs a container with a
//! published port, and stops while the container runs, without leftovers.
//!
//! With the matrix, this includes the newer releases of Podman, which use netavark.

mod all_down;

use std::path::Path;
use std::process::Command;

use all_down::AllDown;
use test_engines::{BUSYBOX, Engine, Footprint, Running, Site, image_archive};

/// Runs Docker's CLI against an engine.
fn docker(engine: &Running, arguments: &[&str]) -> String {
    let done = Command::new("docker")
        .arg("--host")
        .arg(engine.host().expect("a socket"))
        .args(arguments)
        .output()
        .expect("docker's command line");
    assert!(
        done.status.success(),
        "docker {arguments:?} on {}: {}",
        engine.engine(),
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// Returns the engines to start.
fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::Podman, Engine::Docker, Engine::DockerFaults];
    if std::env::var("RUNTIME_TEST_MATRIX").is_ok_and(|value| value == "1") {
        engines.extend([Engine::Podman54, Engine::Podman58]);
    }
    engines
}

fn run_a_container(site: &Site, engine: &Running, registry: &str) {
    let archive = image_archive(site, "test/busybox");
    let image = format!("{registry}/{BUSYBOX}");
    docker(engine, &["load", "--input", &archive.to_string_lossy()]);
    let shared = site.shared_dir().expect("the shared directory");
    std::fs::write(shared.join("file"), "shared").expect("a file");
    let id = docker(
        engine,
        &[
            "run",
            "--detach",
            "--publish=127.0.0.1::80",
            "--volume",
            &format!("{}:/shared", shared.display()),
            &image,
            "sleep",
            "1000",
        ],
    );
    assert_eq!(docker(engine, &["exec", &id, "cat", "/shared/file"]), "shared");
}

#[test]
fn down_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let site = Site::at(dir.path()).expect("a site");
    let _all_down = AllDown(&site);
    // Packet filter rules do not contain a site's name.
    let netavark = |all: &Footprint| all.rules_of("netavark");
    let before = netavark(&Footprint::now().expect("a look"));
    let registry = site.up(Engine::Registry).expect("the registry");
    let variables = registry.variables().expect("variables");
    let address = variables
        .iter()
        .find(|(name, _)| name == "RUNTIME_TEST_REGISTRY")
        .map(|(_, value)| value.clone())
        .expect("the registry's address");

    for engine in engines() {
        let running = site.up(engine).expect("the engine");
        run_a_container(&site, &running, &address);
        // A second start returns the running engine.
        let again = site.up(engine).expect("the same engine");
        assert_eq!(running.process(), again.process());
    }

    // A restarted daemon finds its running containers.
    let faults = Engine::DockerFaults;
    let containers = docker(&site.status(faults).expect("up"), &["ps", "--quiet"]);
    site.kill_hard(faults).expect("killed");
    assert!(site.status(faults).is_none());
    let running = site.restart(faults).expect("restarted");
    assert_eq!(docker(&running, &["ps", "--quiet"]), containers);
    // A dead daemon with a running container is stopped like the others.
    site.kill_hard(faults).expect("killed");

    assert!(!Footprint::now().expect("a look").of(&site).is_empty());
    for engine in Engine::ALL.into_iter().rev() {
        site.down(engine).expect("down");
    }
    let now = Footprint::now().expect("a look");
    let left = now.of(&site);
    assert!(left.is_empty(), "left: {left:#?}");
    assert_eq!(netavark(&now), before);
    assert!(!dir.path().join("host.json").exists());
    assert!(only_logs(dir.path()));
}

/// Returns true if the directory has only locks, logs, and the shared directory.
fn only_logs(dir: &Path) -> bool {
    std::fs::read_dir(dir).expect("the directory").all(|entry| {
        let name = entry.expect("an entry").file_name();
        let name = name.to_string_lossy();
        name.starts_with('.') || name.ends_with(".last.log") || name == "shared"
    })
}
